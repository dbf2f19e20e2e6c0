"""Step graph of a Llama-shaped decoder (LLM: Qwen3 with q/k norm, TTS: Llama), contract in BUNDLE.md "llm.onnx and
tts.onnx".

One layer:

    x -> norm -> qkv -> Split -> [q norm, k norm] -> GroupQueryAttention -> o_proj -> skip + norm
                                                     ^ past, seqlens_k, total_sequence_length, cos, sin
      -> gate, up -> SwiGLU -> down -> skip + norm of the next layer

GroupQueryAttention writes new keys and values behind the cache length into the present tensors, which the host binds
to the same memory as the past ones. It rotates queries and keys itself (half-split), positions are the cache length
onwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from duologue_export.dims import DecoderDims
from duologue_export.errors import ExportError
from duologue_export.graph.linear import Numbers, ReadRows, linear, linear_rows, narrowed
from duologue_export.graph.writer import FLOAT, FLOAT16, INT32, GraphWriter
from duologue_export.tensors import TensorSource

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class DecoderSource:
    """Where a decoder's weights are: layers below `prefix` (for example "llm.model."), the output head through
    `head`."""

    weights: TensorSource
    prefix: str
    head: ReadRows
    qk_norm: bool
    hidden_output: bool


def rope_cache(dims: DecoderDims, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, float32 [capacity, head_dim / 2]; angles in float32 as in transformers' rotary embedding."""
    exponents = torch.arange(0, dims.head_dim, 2, dtype=torch.int64).to(torch.float32) / dims.head_dim
    frequencies = 1.0 / (dims.rope_theta**exponents)
    angles = torch.outer(torch.arange(capacity, dtype=torch.float32), frequencies)
    return angles.cos().numpy(), angles.sin().numpy()


def write_decoder(
    path: Path,
    dims: DecoderDims,
    source: DecoderSource,
    numbers: Numbers,
    kept: dict[str, Numbers],
    kv_capacity: int,
    progress: Callable[[], None],
) -> None:
    """Writes the step graph layer by layer; `progress` is called after each layer and after the head.

    `kept` gives matrices another precision by their name: qkv_proj, o_proj, gate_up_proj, down_proj (of every layer)
    or head. Raises `ExportError` for a missing tensor or a wrong shape, naming it, and for a head size that the kernel
    cannot take.
    """
    if dims.head_dim % 16:
        raise ExportError(
            f"{path.name}: head_dim {dims.head_dim} is not a multiple of 16, as GroupQueryAttention needs."
        )
    with GraphWriter(path, path.stem) as graph:
        build = _Builder(graph, dims, source, numbers, kept, kv_capacity)
        normed, residual = build.begin()
        for layer in range(dims.layers):
            normed, residual = build.layer(layer, normed, residual)
            progress()
        build.finish(normed)
        progress()
        graph.save()


class _Builder:
    def __init__(
        self,
        graph: GraphWriter,
        dims: DecoderDims,
        source: DecoderSource,
        numbers: Numbers,
        kept: dict[str, Numbers],
        kv_capacity: int,
    ):
        self.graph, self.dims, self.source, self.numbers, self.kept = graph, dims, source, numbers, kept
        self.io = FLOAT16 if numbers.io is np.float16 else FLOAT
        self.capacity = kv_capacity

    def weight(self, name: str, *shape: int) -> torch.Tensor:
        return self.source.weights.tensor(f"{self.source.prefix}{name}.weight", shape)

    def gain(self, name: str, size: int) -> str:
        return self.graph.constant(name, narrowed(self.weight(name, size).numpy(), self.numbers.io))

    def project(self, layer: str, name: str, x: str, weight: torch.Tensor) -> str:
        return linear(self.graph, self.kept.get(name, self.numbers), f"{layer}.{name}", x, weight)

    def begin(self) -> tuple[str, str]:
        graph, dims = self.graph, self.dims
        x = graph.input("inputs_embeds", self.io, ["batch", "sequence", dims.hidden])
        graph.input("seqlens_k", INT32, ["batch"])
        graph.input("total_sequence_length", INT32, [])
        cos, sin = rope_cache(dims, self.capacity)
        graph.constant("cos_cache", cos.astype(self.numbers.io))
        graph.constant("sin_cache", sin.astype(self.numbers.io))
        if self.source.qk_norm:
            for kind, heads in (("q", dims.heads), ("k", dims.kv_heads)):
                graph.constant(f"{kind}_split_shape", np.array([0, -1, heads, dims.head_dim], np.int64))
                graph.constant(f"{kind}_join_shape", np.array([0, -1, heads * dims.head_dim], np.int64))
            sizes = [dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim, dims.kv_heads * dims.head_dim]
            graph.constant("qkv_sizes", np.array(sizes, np.int64))
        gain = self.gain("layers.0.input_layernorm", dims.hidden)
        attributes = {"axis": -1, "epsilon": dims.rms_eps, "stash_type": 1}
        normed = graph.node("SimplifiedLayerNormalization", [x, gain], "layers.0.input_norm", **attributes)
        return normed, x

    def layer(self, index: int, x: str, residual: str) -> tuple[str, str]:
        dims, name = self.dims, f"layers.{index}"
        attention = self.attention(index, x)
        out = self.weight(f"{name}.self_attn.o_proj", dims.hidden, dims.heads * dims.head_dim)
        projected = self.project(name, "o_proj", attention, out)
        x, residual = self.skip_norm(f"{name}.post_attention_layernorm", projected, residual)
        down = self.swiglu(name, x)
        last = index + 1 == dims.layers
        return self.skip_norm("norm" if last else f"layers.{index + 1}.input_layernorm", down, residual)

    def attention(self, index: int, x: str) -> str:
        graph, dims, name = self.graph, self.dims, f"layers.{index}"
        q_size, kv_size = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
        packed = torch.cat(
            [
                self.weight(f"{name}.self_attn.q_proj", q_size, dims.hidden),
                self.weight(f"{name}.self_attn.k_proj", kv_size, dims.hidden),
                self.weight(f"{name}.self_attn.v_proj", kv_size, dims.hidden),
            ]
        )
        qkv = self.project(name, "qkv_proj", x, packed)
        if self.source.qk_norm:
            query, key, value = (f"{name}.{part}" for part in ("query", "key", "value"))
            graph.node("Split", [qkv, "qkv_sizes"], [query, key, value], axis=-1)
            rows = [self.head_norm(name, "q", query), self.head_norm(name, "k", key), value]
        else:
            rows = [qkv, "", ""]
        shape = ["batch", dims.kv_heads, "capacity", dims.head_dim]
        past = [graph.input(f"past_{kind}.{index}", self.io, shape) for kind in ("key", "value")]
        present = [f"present_{kind}.{index}" for kind in ("key", "value")]
        for tensor in present:
            graph.output(tensor, self.io, shape)
        return graph.node(
            "GroupQueryAttention",
            [*rows, *past, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"],
            [f"{name}.attention", *present],
            domain=MICROSOFT,
            num_heads=dims.heads,
            kv_num_heads=dims.kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
        )

    def head_norm(self, name: str, kind: str, x: str) -> str:
        # [B, S, heads * head_dim] -> [B, S, heads, head_dim] -> RMS norm -> back. Kept as separate nodes on CUDA too:
        # the fused inputs of GroupQueryAttention exist on CUDA only, and the file would not run anywhere else.
        graph = self.graph
        split = graph.node("Reshape", [x, f"{kind}_split_shape"], f"{x}.heads")
        gain = self.gain(f"{name}.self_attn.{kind}_norm", self.dims.head_dim)
        attributes = {"axis": -1, "epsilon": self.dims.rms_eps, "stash_type": 1}
        normed = graph.node("SimplifiedLayerNormalization", [split, gain], f"{x}.norm", **attributes)
        return graph.node("Reshape", [normed, f"{kind}_join_shape"], f"{x}.joined")

    def swiglu(self, name: str, x: str) -> str:
        graph, dims = self.graph, self.dims
        packed = torch.cat(
            [self.weight(f"{name}.mlp.{part}_proj", dims.intermediate, dims.hidden) for part in ("gate", "up")]
        )
        both = self.project(name, "gate_up_proj", x, packed)
        gate, up = f"{name}.gate", f"{name}.up"
        graph.node("Split", [both], [gate, up], axis=-1, num_outputs=2)
        sigmoid = graph.node("Sigmoid", [gate], f"{name}.sigmoid")
        silu = graph.node("Mul", [gate, sigmoid], f"{name}.silu")
        inner = graph.node("Mul", [silu, up], f"{name}.inner")
        down = self.weight(f"{name}.mlp.down_proj", dims.hidden, dims.intermediate)
        return self.project(name, "down_proj", inner, down)

    def skip_norm(self, name: str, x: str, residual: str) -> tuple[str, str]:
        gain = self.gain(name, self.dims.hidden)
        outputs = [f"{name}.out", "", "", f"{name}.residual"]
        self.graph.node(
            "SkipSimplifiedLayerNormalization",
            [x, residual, gain],
            outputs,
            domain=MICROSOFT,
            epsilon=self.dims.rms_eps,
        )
        return outputs[0], outputs[3]

    def finish(self, normed: str) -> None:
        graph, dims = self.graph, self.dims
        graph.constant("last_row", np.array(-1, np.int64))
        last = graph.node("Gather", [normed, "last_row"], "last_hidden", axis=1)
        graph.output("logits", FLOAT, ["batch", dims.vocab])
        raw = linear_rows(
            graph, self.kept.get("head", self.numbers), "head", last, (dims.vocab, dims.hidden), self.source.head
        )
        graph.node("Cast", [raw], "logits", to=FLOAT)
        if self.source.hidden_output:
            graph.output("hidden", FLOAT, ["batch", "sequence", dims.hidden])
            graph.node("Cast", [normed], "hidden", to=FLOAT)
