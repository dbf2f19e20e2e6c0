"""Writes one ONNX file node by node. Large constants go straight to `<name>.onnx.data`, so memory never holds more
than the tensor that is being written."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from duologue_export.errors import ExportError

OPSET = 21
IR_VERSION = 10
# Constants below this size stay inside the .onnx file, where ONNX Runtime can read them while it builds the graph.
_INLINE_BYTES = 1024
# Tensors start on a page so that ONNX Runtime can map them instead of copying.
_ALIGN = 4096

FLOAT, FLOAT16, INT32, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64


def require_finite(array: np.ndarray, file: str, name: str) -> None:
    """Raises `ExportError` naming the constant when it holds NaN or infinity: broken weights, or float16 too narrow."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ExportError(
            f"{file}: '{name}' holds values that are not finite as {array.dtype}. If float16 is too narrow for them, "
            "export for --target cpu; otherwise the checkpoint's weights are broken."
        )


class GraphWriter:
    """Collects nodes; `save` writes the file. Use as a context manager: the data file is removed again after an
    exception."""

    def __init__(self, path: Path, name: str):
        self.path = path
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._data_path = path.with_name(path.name + ".data")
        self._data = None

    def __enter__(self) -> "GraphWriter":
        return self

    def __exit__(self, kind, value, trace) -> None:
        if self._data is not None:
            self._data.close()
        if kind is not None:
            self._data_path.unlink(missing_ok=True)

    def input(self, name: str, kind: int, shape: list) -> str:
        """Declares a graph input; strings in `shape` are symbolic dimensions."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: list) -> None:
        """Declares a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def node(self, op: str, inputs: list[str], outputs: str | list[str], domain: str = "", **attributes) -> str:
        """Adds a node and returns its first output."""
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self._nodes.append(
            helper.make_node(op, inputs, outputs, name=f"/{outputs[0]}", domain=domain, **attributes),
        )
        return outputs[0]

    def constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant."""
        if value.nbytes < _INLINE_BYTES:
            require_finite(value, self.path.name, name)
            self._constants.append(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
            return name
        return self.stream(name, value.dtype, value.shape, [value])

    def stream(self, name: str, dtype, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> str:
        """Adds a constant whose rows arrive in pieces (concatenated along the first axis), written as they come."""
        if self._data is None:
            self._data = self._data_path.open("wb")
        self._data.write(bytes(-self._data.tell() % _ALIGN))
        offset = self._data.tell()
        for piece in pieces:
            with np.errstate(over="ignore"):
                piece = np.ascontiguousarray(piece, dtype=dtype)
            require_finite(piece, self.path.name, name)
            self._data.write(piece.data)
        length = self._data.tell() - offset
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert length == expected, (
            f"{name}: wrote {length} bytes for shape {shape}, expected {expected}. This is a bug."
        )
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", self._data_path.name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=text)
        self._constants.append(tensor)
        return name

    def save(self) -> None:
        """Writes the .onnx file (and ends the data file)."""
        if self._data is not None:
            self._data.close()
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="duologue_export")
        self.path.write_bytes(model.SerializeToString())
