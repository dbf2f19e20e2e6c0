"""A thin writer of ONNX graphs.

The step graphs are written node by node instead of traced: a trace of the same torch code carries shape arithmetic,
copies of caches and un-folded constants into a loop that runs every second. `GraphBuilder` only removes the
bookkeeping (names, initialisers, casts); every node in the file is visible in the module that emits it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from duologue_export import kernels
from duologue_export.graph.writer import require_finite
from duologue_export.quantize import node_attributes, quantize_blocks

OPSET = 20
# 10 is the newest IR that every ONNX Runtime since 1.18 reads.
IR_VERSION = 10
# Above this size protobuf needs the initialisers in a file of their own.
EXTERNAL_DATA_BYTES = 1 << 30

_ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
}


def runs_half(precision: str, target: str) -> bool:
    """Whether a graph computes in float16: on CUDA in every precision, int8 and int4 included. Blocks of 8 or 4 bits
    pay off where one row meets the weights (llm, tts); the graphs of this package see 50 rows and more at once."""
    return target == "cuda" and precision != "fp32"


def as_array(value) -> np.ndarray:
    """torch tensor, number or sequence -> numpy array (python floats become float32, python ints int64)."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous().numpy()
    array = np.asarray(value)
    if array.dtype == np.float64 and not isinstance(value, np.ndarray):
        return array.astype(np.float32)
    return array


class GraphBuilder:
    """Collects nodes and initialisers. Methods return the name of the value they produce.

    `half` makes the weights of `linear` and everything made with `weight` float16; the caller brings activations
    there with `low` and back with `full`, because residual streams and normalisation statistics stay float32 in every
    precision. `bits` = 8 stores the weights of `linear` as 8-bit blocks for the CPU.
    """

    def __init__(self, name: str, half: bool = False, bits: int | None = None, outer: "GraphBuilder | None" = None):
        self.name = name
        self.half = half
        self.bits = bits
        self.outer = outer
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: dict[str, onnx.FunctionProto] = {}
        self._shared: dict[tuple, str] = {}
        self._counter: dict[str, int] = {}

    # names and declarations

    def fresh(self, stem: str) -> str:
        """A value name that is unique in this graph and in the graphs around it."""
        root = self
        while root.outer is not None:
            root = root.outer
        count = root._counter.get(stem, 0)
        root._counter[stem] = count + 1
        return f"{stem}_{count}" if count else stem

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declares a graph input; strings are symbolic dimensions."""
        self.inputs.append(helper.make_tensor_value_info(name, _ONNX_TYPES[dtype], list(shape)))
        return name

    def output(self, value: str, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Declares `value` as the graph output `name`: the node that makes it is renamed, so no copy is added."""
        for node in self.nodes:
            for index, made in enumerate(node.output):
                if made == value:
                    node.output[index] = name
            for index, read in enumerate(node.input):
                if read == value:
                    node.input[index] = name
        self.outputs.append(helper.make_tensor_value_info(name, _ONNX_TYPES[dtype], list(shape)))

    def const(self, value, stem: str = "const", tensor: str = "") -> str:
        """An initialiser. It lives in the outermost graph, so that quantisation and external data find it there.

        Raises `ExportError` for NaN and infinity, naming `tensor` (default: `stem`)."""
        if self.outer is not None:
            return self.outer.const(value, stem, tensor)
        array = as_array(value)
        require_finite(array, f"{self.name}.onnx", tensor or stem)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.nbytes <= 4096 else None
        if key in self._shared:
            return self._shared[key]
        name = self.fresh(stem)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        if key is not None:
            self._shared[key] = name
        return name

    def weight(self, value: torch.Tensor, stem: str, tensor: str = "") -> str:
        """A constant in the compute type of this graph. Raises `ExportError` when float16 cannot hold it."""
        return self.const(value.half() if self.half else value.float(), stem, tensor)

    # nodes

    def node(self, op: str, inputs: Sequence[str], stem: str = "", outputs: int = 1, domain: str = "", **attributes):
        """Emits one node; returns its output name, or a list of names when `outputs` > 1."""
        names = [self.fresh(stem or op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"n_{names[0]}", domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def call(self, function: onnx.FunctionProto, inputs: Sequence[str], **attributes) -> str:
        """One node of an operator of `kernels`; returns its output name."""
        self.functions[function.name] = function
        return self.node(function.name, inputs, domain=function.domain, **attributes)

    def ints(self, *values: int) -> str:
        """A 1-D int64 constant."""
        return self.const(np.array(values, np.int64), "ints")

    def low(self, value: str) -> str:
        """To the compute type (no node in float32)."""
        return self.node("Cast", [value], to=TensorProto.FLOAT16) if self.half else value

    def full(self, value: str) -> str:
        """Back to float32 (no node in float32)."""
        return self.node("Cast", [value], to=TensorProto.FLOAT) if self.half else value

    def linear(self, x: str, weight: torch.Tensor, bias: torch.Tensor | None, stem: str) -> str:
        """x @ weight.T + bias; `weight` is [out, in] as torch stores it. x must be in the compute type, and so is the
        result.

        Keep x on two axes where possible: then ONNX Runtime makes one Gemm of MatMul and Add.
        """
        if self.bits is not None:
            return self._quantized(x, weight, bias, stem)
        y = self.node("MatMul", [x, self.weight(weight.t().contiguous(), f"{stem}.w")], stem)
        return y if bias is None else self.node("Add", [y, self.weight(bias, f"{stem}.b")], stem)

    def _quantized(self, x: str, weight: torch.Tensor, bias: torch.Tensor | None, stem: str) -> str:
        blocks = quantize_blocks(weight.contiguous(), self.bits)
        inputs = [
            x,
            self.const(blocks.packed, f"{stem}.w"),
            self.const(blocks.scales.ravel(), f"{stem}.scales"),
            self.const(blocks.zero_points.ravel(), f"{stem}.zeros"),
        ]
        if bias is not None:
            inputs += ["", self.const(bias.float(), f"{stem}.b")]
        attributes = node_attributes(*weight.shape, self.bits, "cpu")
        return self.node("MatMulNBits", inputs, stem, domain="com.microsoft", **attributes)

    def norm(self, x: str, weight: torch.Tensor, bias: torch.Tensor, eps: float, stem: str) -> str:
        """Layer normalisation over the last axis (float32)."""
        inputs = [x, self.const(weight.float(), f"{stem}.g"), self.const(bias.float(), f"{stem}.b")]
        return self.node("LayerNormalization", inputs, stem, axis=-1, epsilon=eps)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape by constants; 0 keeps the input's dimension, -1 is inferred."""
        return self.node("Reshape", [x, self.ints(*shape)])

    def transpose(self, x: str, *perm: int) -> str:
        """Permutes axes."""
        return self.node("Transpose", [x], perm=list(perm))

    def concat(self, values: Sequence[str], axis: int) -> str:
        """Concatenation; a single value passes through."""
        return values[0] if len(values) == 1 else self.node("Concat", values, axis=axis)

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Splits into constant sizes."""
        if len(sizes) == 1:
            return [x]
        return self.node("Split", [x, self.ints(*sizes)], outputs=len(sizes), axis=axis)

    def slice(self, x: str, start, end, axis: int, step: int = 1) -> str:
        """x[start:end:step] along one axis; start and end are ints or names of 1-D int64 values."""
        bounds = [value if isinstance(value, str) else self.ints(value) for value in (start, end)]
        extra = [self.ints(step)] if step != 1 else []
        return self.node("Slice", [x, *bounds, self.ints(axis), *extra])

    def size(self, x: str, axis: int) -> str:
        """The length of one axis as a 1-D int64 value."""
        return self.node("Shape", [x], start=axis, end=axis + 1)

    # files

    def graph(self) -> onnx.GraphProto:
        """The GraphProto."""
        return helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.initializers)

    def model(self) -> onnx.ModelProto:
        """The ModelProto with the standard and the com.microsoft operator sets."""
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        if self.functions:
            opsets.append(helper.make_opsetid(kernels.DOMAIN, kernels.VERSION))
        return helper.make_model(
            self.graph(),
            opset_imports=opsets,
            functions=list(self.functions.values()),
            ir_version=IR_VERSION,
            producer_name="duologue_export",
        )

    def save(self, path: Path) -> None:
        """Writes the model, with a `.data` file beside it when protobuf could not hold it."""
        save_model(self.model(), path)


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes `path`, and `path` + `.data` when the initialisers exceed `EXTERNAL_DATA_BYTES`."""
    data = path.with_name(path.name + ".data")
    # onnx appends to a data file that is there already.
    path.unlink(missing_ok=True)
    data.unlink(missing_ok=True)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > EXTERNAL_DATA_BYTES:
        onnx.save(
            model,
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data.name,
            size_threshold=1024,
        )
    else:
        onnx.save(model, path)
