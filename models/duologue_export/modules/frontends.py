"""frontends: the two voice prompt networks, which the checkpoint already ships as ONNX files.

campplus.onnx passes through. The speech tokenizer's file may quantise its digits as round(0.999 * tanh(x)) + 1, while
the reference loads the weights into its own torch copy and uses round(tanh(x) + 1) (s3tokenizer/model_v2.py:84-105):
values just above one half fall into another digit. The passed graph is patched to the reference's form, so that its
codes are the reference's codes.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from duologue_export.checkpoint import Checkpoint
from duologue_export.errors import ExportError

TOKENIZER_FILE = "speech_tokenizer_v2_25hz.onnx"
SPEAKER_FILE = "campplus.onnx"


def patch_quantiser(model: onnx.ModelProto) -> str:
    """Rewrites tanh -> * 0.999 -> round into tanh -> + 1 -> round -> - 1, in place.

    Returns "patched", "same" (the file already rounds tanh + 1) or "unknown" (neither form was found; nothing was
    changed).
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = (
                helper.get_node_attr_value(node, "value") if node.attribute[0].name == "value" else None
            )
    constants = {
        name: numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
        for name, value in constants.items()
    }
    made_by = {output: node for node in graph.node for output in node.output}
    state = "unknown"
    for position, node in enumerate(graph.node):
        if node.op_type != "Round":
            continue
        chain = _chain_to_tanh(node, made_by)
        if chain is None:
            continue
        shrinks = [n for n in chain if n.op_type == "Mul" and _is_shrink(n, constants)]
        if not shrinks:
            state = "same" if any(n.op_type == "Add" for n in chain) else state
            continue
        mul = shrinks[0]
        one = numpy_helper.from_array(np.float32(1.0), "quantiser.one")
        graph.initializer.append(one)
        source = next(name for name in mul.input if name not in constants)
        mul.CopyFrom(helper.make_node("Add", [source, one.name], list(mul.output), name=mul.name))
        rounded = node.output[0]
        node.output[0] = f"{rounded}.plus_one"
        graph.node.insert(
            position + 1, helper.make_node("Sub", [node.output[0], one.name], [rounded], name="quantiser.minus_one")
        )
        return "patched"
    return state


def _chain_to_tanh(node: onnx.NodeProto, made_by: dict) -> list[onnx.NodeProto] | None:
    """The nodes between a Tanh and `node`, nearest first; None when no Tanh is found within a few nodes."""
    chain: list[onnx.NodeProto] = []
    while len(chain) < 6:
        parents = [made_by[name] for name in node.input if name in made_by and made_by[name].op_type != "Constant"]
        if len(parents) != 1:
            return None
        node = parents[0]
        if node.op_type == "Tanh":
            return chain
        chain.append(node)
    return None


def _is_shrink(node: onnx.NodeProto, constants: dict) -> bool:
    factors = [constants[name] for name in node.input if name in constants]
    return any(np.size(factor) == 1 and 0.9 < float(factor) < 1.0 for factor in factors)


def export(checkpoint: Checkpoint, out_dir: Path, precision: str, target: str) -> dict:
    """Writes campplus.onnx and speech_tokenizer.onnx; they run once per voice and stay as the checkpoint stores
    them."""
    shutil.copyfile(_asset(checkpoint, SPEAKER_FILE), out_dir / "campplus.onnx")
    path = _asset(checkpoint, TOKENIZER_FILE)
    model = onnx.load(path)
    if patch_quantiser(model) == "unknown":
        print(
            f"warning: {path}: the quantiser was not recognised and passes through unchanged; "
            "a few codes of a voice prompt may differ from the reference's.",
            file=sys.stderr,
        )
    onnx.save(model, out_dir / "speech_tokenizer.onnx")
    return {}


def require_files(checkpoint: Checkpoint) -> None:
    """Raises `ExportError` unless both files are there."""
    for name in (SPEAKER_FILE, TOKENIZER_FILE):
        _asset(checkpoint, name)


def _asset(checkpoint: Checkpoint, name: str) -> Path:
    path = checkpoint.token2wav / name
    if not path.is_file():
        raise ExportError(
            f"{path}: missing. The voice prompt needs it; copy it from the checkpoint's assets/token2wav."
        )
    return path
