"""The two ONNX files of the voice prompt: speech_tokenizer_v2_25hz.onnx and campplus.onnx.

The reference reads the tokenizer's weights out of the ONNX file by initialiser and node name (s3tokenizer/utils.py,
onnx2torch), so the names `onnx::Conv_2216` .. `onnx::MatMul_2536` and `/blocks.N/...` are part of the format. The
graph itself computes the same codes:

    feats [1,128,T] -> conv s2 + GELU -> conv s2 + GELU -> blocks (LN, attention with rotary + FSMN memory, LN, MLP)
                    -> linear to 8 -> tanh -> round to 0..2 -> base-3 number -> indices [1,T/4]
"""

import math
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from duologue_export.tiny.dims import FrontendDims
from duologue_export.tiny.random_tensors import generator_for

S3_MELS = 128
S3_HEAD = 64
# Length of the rotary table in the reference (model_v2.py, precompute_freqs_cis(64, 2048)): 82 s of audio.
S3_POSITIONS = 2048
FSMN_KERNEL = 31
FBANK = 80
SPEAKER = 192


class _Graph:
    """Collects nodes and initialisers; `op` returns the name of its output."""

    def __init__(self, seed: int, file: str):
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self._seed, self._file, self._count = seed, file, 0

    def random(self, name: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> str:
        generator = generator_for(self._seed, f"{self._file}/{name}")
        value = (torch.randn(shape, generator=generator) * std + mean).numpy()
        self.initialisers.append(numpy_helper.from_array(value, name))
        return name

    def literal(self, value: np.ndarray) -> str:
        """A constant kept out of the initialisers: the reference takes every initialiser for a weight."""
        return self.op("Constant", [], value=numpy_helper.from_array(np.asarray(value)))

    def op(self, kind: str, inputs: list[str], output: str | None = None, name: str = "", **attributes: object) -> str:
        self._count += 1
        output = output or f"t{self._count}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name or f"n{self._count}", **attributes))
        return output

    def save(
        self, path: Path, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], opset: int
    ) -> None:
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, self.initialisers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="duologue-export tiny"
        )
        onnx.checker.check_model(model)
        onnx.save(model, str(path))


def _gelu(g: _Graph, x: str) -> str:
    # Opset 17 has no Gelu: x * (1 + erf(x / sqrt 2)) / 2.
    erf = g.op("Erf", [g.op("Div", [x, g.literal(np.float32(math.sqrt(2)))])])
    return g.op("Mul", [g.op("Mul", [x, g.op("Add", [erf, g.literal(np.float32(1))])]), g.literal(np.float32(0.5))])


def _linear(g: _Graph, x: str, path: str, inputs: int, outputs: int, bias: bool = True) -> str:
    weight = g.random(f"onnx::MatMul_{path}", (inputs, outputs), 1 / math.sqrt(inputs))
    y = g.op("MatMul", [x, weight], name=f"/{path}/MatMul")
    return g.op("Add", [g.random(f"{path}.bias", (outputs,), 0.05), y], name=f"/{path}/Add") if bias else y


def _layer_norm(g: _Graph, x: str, path: str, width: int, eps: float) -> str:
    scale, shift = g.random(f"{path}.weight", (width,), 0.1, 1.0), g.random(f"{path}.bias", (width,), 0.05)
    return g.op("LayerNormalization", [x, scale, shift], name=f"/{path}/LayerNormalization", axis=-1, epsilon=eps)


def write_speech_tokenizer(path: Path, d: FrontendDims, seed: int) -> None:
    """feats f32 [1,128,T], feats_length i32 [1] -> indices i32 [1,L]; L = codes at 25 Hz, values 0..6560."""
    g = _Graph(seed, path.name)
    w, heads = d.s3_width, d.s3_width // S3_HEAD
    x = "feats"
    for inputs, number in ((S3_MELS, 2216), (w, 2218)):
        weight = g.random(f"onnx::Conv_{number}", (w, inputs, 3), 1 / math.sqrt(3 * inputs))
        x = g.op(
            "Conv",
            [x, weight, g.random(f"onnx::Conv_{number + 1}", (w,), 0.05)],
            kernel_shape=[3],
            pads=[1, 1],
            strides=[2],
        )
        x = _gelu(g, x)
    x = g.op("Transpose", [x], perm=[0, 2, 1])
    rotary = _rotary_tables(g, x)
    for i in range(d.s3_layers):
        x = _block(g, x, f"blocks.{i}", w, heads, rotary)
    projected = g.op(
        "MatMul", [x, g.random("onnx::MatMul_2536", (w, 8), 0.8 / math.sqrt(w))], name="/quantizer/project_in/MatMul"
    )
    projected = g.op(
        "Add", [projected, g.random("quantizer.project_in.bias", (8,), 0.05)], name="/quantizer/project_in/Add"
    )
    # model_v2.py:97-112: digits round(tanh + 1) in 0..2, base 3, lowest digit first.
    digits = g.op(
        "Clip", [g.op("Tanh", [projected]), g.literal(np.float32(-1 + 1e-6)), g.literal(np.float32(1 - 1e-6))]
    )
    digits = g.op("Round", [g.op("Add", [digits, g.literal(np.float32(1))])])
    scaled = g.op("Mul", [digits, g.literal((3 ** np.arange(8)).astype(np.float32))])
    total = g.op("ReduceSum", [scaled, g.literal(np.array([2]))], keepdims=0)
    g.op("Cast", [total], output="indices", to=TensorProto.INT32)
    inputs = [
        helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, S3_MELS, "T"]),
        helper.make_tensor_value_info("feats_length", TensorProto.INT32, [1]),
    ]
    g.save(path, inputs, [helper.make_tensor_value_info("indices", TensorProto.INT32, [1, "L"])], 17)


def _rotary_tables(g: _Graph, x: str) -> tuple[str, str]:
    frequencies = 1.0 / (10000.0 ** (np.arange(0, S3_HEAD, 2, dtype=np.float32) / S3_HEAD))
    angles = np.tile(np.outer(np.arange(S3_POSITIONS, dtype=np.float32), frequencies), (1, 2)).astype(np.float32)
    length = g.op(
        "Unsqueeze", [g.op("Gather", [g.op("Shape", [x]), g.literal(np.int64(1))], axis=0), g.literal(np.array([0]))]
    )
    tables = []
    for table in (np.cos(angles), np.sin(angles)):
        rows = g.op("Slice", [g.literal(table), g.literal(np.array([0])), length, g.literal(np.array([0]))])
        tables.append(g.op("Unsqueeze", [rows, g.literal(np.array([0, 2]))]))
    return tables[0], tables[1]


def _block(g: _Graph, x: str, path: str, w: int, heads: int, rotary: tuple[str, str]) -> str:
    """x + attention(LN x) + FSMN memory, then x + MLP(LN x) (model_v2.py:150-295)."""
    n = _layer_norm(g, x, f"{path}/attn_ln", w, 1e-6)
    q = _linear(g, n, f"{path}/attn/query", w, w)
    k = _linear(g, n, f"{path}/attn/key", w, w, bias=False)
    v = _linear(g, n, f"{path}/attn/value", w, w)
    split = g.literal(np.array([0, 0, heads, S3_HEAD]))
    scale = g.literal(np.float32(S3_HEAD**-0.25))

    def rotated(t: str, perm: list[int]) -> str:
        t = g.op("Reshape", [t, split])
        axis = g.literal(np.array([3]))
        low = g.op("Slice", [t, g.literal(np.array([0])), g.literal(np.array([S3_HEAD // 2])), axis])
        high = g.op("Slice", [t, g.literal(np.array([S3_HEAD // 2])), g.literal(np.array([S3_HEAD])), axis])
        turned = g.op("Mul", [g.op("Concat", [g.op("Neg", [high]), low], axis=-1), rotary[1]])
        return g.op("Mul", [g.op("Transpose", [g.op("Add", [g.op("Mul", [t, rotary[0]]), turned])], perm=perm), scale])

    memory = g.op("Transpose", [v], perm=[0, 2, 1])
    kernel = g.random(f"onnx::Conv_fsmn_{path}", (w, 1, FSMN_KERNEL), 0.15)
    half = FSMN_KERNEL // 2
    memory = g.op(
        "Conv",
        [memory, kernel],
        name=f"/{path}/attn/fsmn_block/Conv",
        group=w,
        kernel_shape=[FSMN_KERNEL],
        pads=[half, half],
        strides=[1],
    )
    memory = g.op("Add", [g.op("Transpose", [memory], perm=[0, 2, 1]), v])
    scores = g.op("Softmax", [g.op("MatMul", [rotated(q, [0, 2, 1, 3]), rotated(k, [0, 2, 3, 1])])], axis=-1)
    mixed = g.op("MatMul", [scores, g.op("Transpose", [g.op("Reshape", [v, split])], perm=[0, 2, 1, 3])])
    mixed = g.op("Reshape", [g.op("Transpose", [mixed], perm=[0, 2, 1, 3]), g.literal(np.array([0, 0, w]))])
    x = g.op("Add", [x, g.op("Add", [_linear(g, mixed, f"{path}/attn/out", w, w), memory])])
    n = _layer_norm(g, x, f"{path}/mlp_ln", w, 1e-5)
    hidden = _gelu(g, _linear(g, n, f"{path}/mlp/mlp.0", w, 4 * w))
    return g.op("Add", [x, _linear(g, hidden, f"{path}/mlp/mlp.2", 4 * w, w)])


def write_campplus(path: Path, d: FrontendDims, seed: int) -> None:
    """input f32 [B,T,80] (fbank minus its mean) -> output f32 [B,192]: mean and deviation over time of one hidden
    layer."""
    g = _Graph(seed, path.name)
    w = d.campplus_width
    # Fbank values spread over about 3 nats, hence the small gain.
    hidden = g.op(
        "Add",
        [g.op("MatMul", ["input", g.random("w1", (FBANK, w), 0.3 / math.sqrt(FBANK))]), g.random("b1", (w,), 0.1)],
    )
    hidden = g.op("Relu", [hidden])
    mean = g.op("ReduceMean", [hidden], axes=[1], keepdims=0)
    deviation = g.op("Sqrt", [g.op("ReduceMean", [g.op("Mul", [hidden, hidden])], axes=[1], keepdims=0)])
    pooled = g.op("Concat", [mean, deviation], axis=1)
    out = g.op("MatMul", [pooled, g.random("w2", (2 * w, SPEAKER), 1.9 / math.sqrt(2 * w))])
    g.op("Add", [out, g.random("b2", (SPEAKER,), 0.1)], output="output")
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", "T", FBANK])]
    g.save(path, inputs, [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", SPEAKER])], 13)
