"""apm: one step of the streaming Whisper encoder, the projector and the pool (modeling_minicpmo_unified.py:1451-1618,
5734-6052).

    mel -> conv, GELU -> conv /2, GELU -> keep frame_idx -> + positions -> layers over [cache, chunk] -> LN
        -> linear, ReLU -> mean of `pool` frames -> linear

Pooling before the second linear is exact (both are linear) and saves four fifths of its work.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import ApmDims
from duologue_export.modules.builder import GraphBuilder, runs_half
from duologue_export.modules.layers import WeightedModule, attention

# LayerNorm's default in torch; WhisperConfig has no entry for it.
EPS = 1e-5


class Apm(WeightedModule):
    """Step of the audio encoder. Shapes: see `forward`; weights: `apm.*` and `audio_projection_layer.*`."""

    def __init__(self, checkpoint: Checkpoint):
        weights = {
            **checkpoint.weights.state("apm."),
            **{f"projector.{k}": v for k, v in checkpoint.weights.state("audio_projection_layer.").items()},
        }
        super().__init__(weights)
        self.dims: ApmDims = checkpoint.apm

    def forward(self, mel, frame_idx, pos_ids, past_key, past_value):
        """mel [1, mels, F]; frame_idx, pos_ids [n]; past_key, past_value [P, layers, heads, head_dim].

        -> embeds [n // pool, D], new_key, new_value [n, layers, heads, head_dim], encoded [n, hidden] (not in the
        graph).
        """
        d = self.dims
        x = F.gelu(self.conv(mel, "conv1", padding=1))
        x = F.gelu(self.conv(x, "conv2", stride=2, padding=1))
        x = x[0].t()[frame_idx] + self.w["embed_positions.weight"][pos_ids]
        keys, values = [], []
        for layer in range(d.layers):
            name = f"layers.{layer}"
            h = self.norm(x, f"{name}.self_attn_layer_norm", EPS)
            q, k, v = (self.linear(h, f"{name}.self_attn.{p}_proj") for p in "qkv")
            keys.append(k.unflatten(-1, (d.heads, d.head_dim)))
            values.append(v.unflatten(-1, (d.heads, d.head_dim)))
            k_all = torch.cat([past_key[:, layer].flatten(1), k])
            v_all = torch.cat([past_value[:, layer].flatten(1), v])
            a = attention(q[None], k_all[None], v_all[None], d.heads)[0]
            x = x + self.linear(a, f"{name}.self_attn.out_proj")
            h = self.norm(x, f"{name}.final_layer_norm", EPS)
            x = x + self.linear(F.gelu(self.linear(h, f"{name}.fc1")), f"{name}.fc2")
        x = self.norm(x, "layer_norm", EPS)
        return self.project(x), torch.stack(keys, 1), torch.stack(values, 1), x

    def project(self, x):
        """Encoder frames [n, hidden] -> embeds [n // pool, D]."""
        pool = self.dims.pool
        x = F.relu(self.linear(x, "projector.linear1"))
        x = x[: len(x) // pool * pool].unflatten(0, (-1, pool)).mean(1)
        return self.linear(x, "projector.linear2")


def build(checkpoint: Checkpoint, half: bool = False, bits: int | None = None) -> GraphBuilder:
    """The graph of `Apm`. With `half`, matrices and attention run in float16; residual and normalisation stay
    float32. `bits`: see `GraphBuilder`."""
    d, w = checkpoint.apm, checkpoint.weights
    g = GraphBuilder("apm", half, bits)
    cache = [d.layers, d.heads, d.head_dim]
    mel = g.input("mel", "float32", [1, d.mels, "F"])
    frame_idx = g.input("frame_idx", "int64", ["n"])
    pos_ids = g.input("pos_ids", "int64", ["n"])
    past = {side: g.input(f"past_{side}", "float32", ["P", *cache]) for side in ("key", "value")}

    def conv(x, name, stride):
        weights = [
            g.weight(w.tensor(f"apm.{name}.weight"), f"{name}.w"),
            g.weight(w.tensor(f"apm.{name}.bias"), f"{name}.b"),
        ]
        return g.node("Gelu", [g.node("Conv", [x, *weights], strides=[stride], pads=[1, 1])])

    x = conv(conv(g.low(mel), "conv1", 1), "conv2", 2)
    x = g.node("Gather", [x, frame_idx], axis=2)
    x = g.full(g.node("Squeeze", [g.transpose(x, 2, 0, 1), g.ints(1)]))
    positions = g.const(w.tensor("apm.embed_positions.weight"), "positions")
    x = g.node("Add", [x, g.node("Gather", [positions, pos_ids])])

    # One slice per layer of the whole cache; the cache is time first so that the host appends to it without moving
    # anything.
    past_layers = {side: g.split(g.low(value), [1] * d.layers, axis=1) for side, value in past.items()}
    new = {"key": [], "value": []}
    for layer in range(d.layers):
        name = f"apm.layers.{layer}"
        h = _norm(g, w, x, f"{name}.self_attn_layer_norm")
        q, k, v = (_project(g, w, h, f"{name}.self_attn.{p}_proj", p == "q", d.head_dim) for p in "qkv")
        side = {}
        for key, fresh in (("key", k), ("value", v)):
            fresh = g.reshape(fresh, 0, 1, d.hidden)
            new[key].append(fresh)
            flat = g.reshape(past_layers[key][layer], -1, 1, d.hidden)
            side[key] = g.reshape(g.concat([flat, fresh], axis=0), 1, -1, d.hidden)
        a = g.node(
            "MultiHeadAttention",
            [g.reshape(q, 1, -1, d.hidden), side["key"], side["value"]],
            domain="com.microsoft",
            num_heads=d.heads,
            scale=1.0,
        )
        a = _linear(g, w, g.reshape(a, -1, d.hidden), f"{name}.self_attn.out_proj")
        x = g.node("Add", [x, g.full(a)])
        h = _norm(g, w, x, f"{name}.final_layer_norm")
        h = _linear(g, w, g.node("Gelu", [_linear(g, w, h, f"{name}.fc1")]), f"{name}.fc2")
        x = g.node("Add", [x, g.full(h)])
    x = _norm(g, w, x, "apm.layer_norm")
    x = g.node("Relu", [_linear(g, w, x, "audio_projection_layer.linear1")])
    # Drop the remainder (n // pool * pool), then average groups of `pool` frames.
    rows = g.node("Div", [g.size(frame_idx, 0), g.ints(d.pool)])
    x = g.slice(x, 0, g.node("Mul", [rows, g.ints(d.pool)]), axis=0)
    x = g.node("ReduceMean", [g.reshape(x, -1, d.pool, d.llm_hidden), g.ints(1)], keepdims=0)
    x = g.full(_linear(g, w, x, "audio_projection_layer.linear2"))
    g.output(x, "embeds", "float32", ["m", d.llm_hidden])
    for key, values in new.items():
        stacked = g.reshape(g.concat(values, axis=1), 0, *cache)
        g.output(g.full(stacked), f"new_{key}", "float32", ["n", *cache])
    return g


def _norm(g, w, x, name):
    return g.low(g.norm(x, w.tensor(f"{name}.weight"), w.tensor(f"{name}.bias"), EPS, name))


def _linear(g, w, x, name):
    return g.linear(x, w.tensor(f"{name}.weight"), w.tensor(f"{name}.bias"), name)


def _project(g, w, x, name, scaled, head_dim):
    # The softmax scale is folded into q; k has no bias (Whisper).
    scale = head_dim**-0.5 if scaled else 1.0
    bias = w.tensor(f"{name}.bias") * scale if f"{name}.bias" in w.names(f"{name}.") else None
    return g.linear(x, w.tensor(f"{name}.weight") * scale, bias, name)


def export(checkpoint: Checkpoint, out_dir: Path, precision: str, target: str) -> dict:
    """Writes apm.onnx; returns the manifest's `apm` section.

    In int8 and int4 on the CPU the weights are 8-bit blocks: as fast as float32 at 50 rows (measured at full width)
    in a quarter of the memory. The other graphs of this package were slower that way (by 10 % for vision, 40 % for
    the flow) and stay float32.
    """
    bits = 8 if target == "cpu" and precision in ("int8", "int4") else None
    build(checkpoint, runs_half(precision, target), bits).save(out_dir / "apm.onnx")
    d = checkpoint.apm
    return {
        "apm": {
            "hidden": d.hidden,
            "layers": d.layers,
            "heads": d.heads,
            "head_dim": d.head_dim,
            "max_positions": d.max_positions,
            "pool": d.pool,
            "mask_frames": d.mask_frames,
        }
    }
