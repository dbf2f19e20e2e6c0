"""The ONNX graph of `torch_flow_encoder.FlowEncoder`.

What is folded at export: embedding, its linear, LN and sqrt(W) into one table; the softmax scale into q; the position
tables through linear_pos; nearest x2, convolution k5 and the linear after it into one k3 convolution with two output
phases. Activations are time first [t, B, W], like the caches, so neither is moved to append.
"""

import torch
import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.errors import ExportError
from duologue_export.modules import torch_flow_encoder as spec
from duologue_export.modules.builder import GraphBuilder


def build(checkpoint: Checkpoint, half: bool = False) -> GraphBuilder:
    """The graph. With `half`, matrices run in float16; LN (eps 1e-12 underflows in float16) and the residual
    in float32."""
    d, w = checkpoint.flow, checkpoint.flow_weights
    if d.up != 2:
        raise ExportError(f"flow.yaml: up_stride is {d.up}, the folded up-sampling convolution is written for 2.")
    g = GraphBuilder("flow_encoder", half)
    token = g.input("token", "int64", ["B", "t"])
    valid = g.input("valid", "float32", ["B", "t", 1])
    conv1 = g.input("conv1", "float32", ["B", d.width, spec.CONV1_LEN])
    conv2 = g.input("conv2", "float32", ["B", d.width, spec.CONV2_LEN])
    row = ["B", d.heads, 2 * d.head_dim]
    kv1 = g.input("kv1", "float32", ["T1", d.blocks, *row])
    kv2 = g.input("kv2", "float32", ["T2", d.up_blocks, *row])

    x = g.node("Mul", [g.node("Gather", [g.const(_embedding_table(checkpoint), "tokens"), token]), valid])
    x = g.transpose(x, 0, 2, 1)
    y = g.node("LeakyRelu", [_conv(g, w, x, "encoder.pre_lookahead_layer.conv1")], alpha=spec.LEAKY)
    y = g.concat([conv1, y], axis=2)
    conv1_out = g.slice(y, -spec.CONV1_LEN, _END, axis=2)
    y = _conv(g, w, y, "encoder.pre_lookahead_layer.conv2")
    x = g.transpose(g.node("Add", [y, g.slice(x, 0, -d.lookahead, axis=2)]), 2, 0, 1)
    x, new_kv1 = _blocks(g, checkpoint, x, "encoder.encoders", d.blocks, kv1, spec.MAX_FRAMES // d.up)

    y = g.concat([conv2, g.transpose(x, 1, 2, 0)], axis=2)
    conv2_out = g.slice(y, -spec.CONV2_LEN, _END, axis=2)
    weight, bias = _upsampler(checkpoint)
    y = g.node("Conv", [g.low(y), g.weight(weight, "up.w"), g.weight(bias, "up.b")])
    # [B, 2 * W, t] -> [t, phase, B, W] -> [2 * t, B, W]
    y = g.transpose(g.reshape(g.full(y), 0, d.up, d.width, -1), 3, 1, 0, 2)
    x = g.node("Reshape", [y, g.concat([g.ints(-1), g.size(token, 0), g.ints(d.width)], axis=0)])
    norm, scale = "encoder.up_embed.out.1", d.width**0.5
    x = g.norm(x, w.tensor(f"{norm}.weight") * scale, w.tensor(f"{norm}.bias") * scale, spec.EMBED_EPS, "up_embed.norm")
    x, new_kv2 = _blocks(g, checkpoint, x, "encoder.up_encoders", d.up_blocks, kv2, spec.MAX_FRAMES)

    x = _norm(g, w, x, "encoder.after_norm", spec.EMBED_EPS)
    x = g.full(g.linear(x, w.tensor("encoder_proj.weight"), w.tensor("encoder_proj.bias"), "encoder_proj"))
    g.output(g.transpose(x, 1, 2, 0), "mu", "float32", ["B", d.mel, "frames"])
    g.output(conv1_out, "conv1_out", "float32", ["B", d.width, spec.CONV1_LEN])
    g.output(conv2_out, "conv2_out", "float32", ["B", d.width, spec.CONV2_LEN])
    g.output(new_kv1, "new_kv1", "float32", ["t1", d.blocks, *row])
    g.output(new_kv2, "new_kv2", "float32", ["frames", d.up_blocks, *row])
    return g


_END = 1 << 31


def _embedding_table(checkpoint: Checkpoint) -> torch.Tensor:
    d, w = checkpoint.flow, checkpoint.flow_weights
    name = "encoder.embed.out"
    x = F.linear(w.tensor("input_embedding.weight"), w.tensor(f"{name}.0.weight"), w.tensor(f"{name}.0.bias"))
    return (
        F.layer_norm(x, (d.width,), w.tensor(f"{name}.1.weight"), w.tensor(f"{name}.1.bias"), spec.EMBED_EPS)
        * d.width**0.5
    )


def _upsampler(checkpoint: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """Doubling and a causal k5 convolution see each frame twice, so each output phase is a k3 convolution of the
    frames before doubling: taps (0+1, 2+3, 4) for the first, (0, 1+2, 3+4) for the second. The linear that follows is
    a matrix product."""
    w = checkpoint.flow_weights
    taps = w.tensor("encoder.up_layer.conv.weight").unbind(-1)
    first = torch.stack([taps[0] + taps[1], taps[2] + taps[3], taps[4]], -1)
    second = torch.stack([taps[0], taps[1] + taps[2], taps[3] + taps[4]], -1)
    linear, bias = w.tensor("encoder.up_embed.out.0.weight"), w.tensor("encoder.up_embed.out.0.bias")
    weight = torch.cat([torch.einsum("oc,cik->oik", linear, phase) for phase in (first, second)])
    bias = linear @ w.tensor("encoder.up_layer.conv.bias") + bias
    return weight, bias.repeat(2)


def _blocks(g: GraphBuilder, checkpoint: Checkpoint, x: str, group: str, layers: int, kv: str, max_keys: int):
    w = checkpoint.flow_weights
    caches = g.split(g.low(kv), [1] * layers, axis=1)
    queries = g.size(x, 0)
    keys = g.node("Add", [g.size(kv, 0), queries])
    # Table rows start at the distance keys - 1 and one row more than needed is taken: see `_relative`.
    window = {
        "start": g.node("Sub", [g.ints(max_keys), keys]),
        "end": g.node("Add", [g.ints(max_keys), queries]),
        "skew": g.node("Sub", [queries, g.ints(1)]),
        "shape": g.concat([g.ints(0, 0), queries, g.ints(-1)], axis=0),
        "keys": keys,
    }
    fresh = []
    for layer in range(layers):
        name = f"{group}.{layer}"
        h, new = _attend(
            g, checkpoint, _norm(g, w, x, f"{name}.norm_mha"), f"{name}.self_attn", caches[layer], window, max_keys
        )
        fresh.append(new)
        x = g.node("Add", [x, g.full(h)])
        h = _linear(g, w, _norm(g, w, x, f"{name}.norm_ff"), f"{name}.feed_forward.w_1")
        h = g.node("Mul", [h, g.node("Sigmoid", [h])])
        x = g.node("Add", [x, g.full(_linear(g, w, h, f"{name}.feed_forward.w_2"))])
    return x, g.full(g.concat(fresh, axis=1))


def _attend(g: GraphBuilder, checkpoint: Checkpoint, x: str, name: str, cache: str, window: dict, max_keys: int):
    """x [t, B, W] -> (attention output, new [t, 1, B, heads, 2 * head_dim])."""
    d, w = checkpoint.flow, checkpoint.flow_weights
    scale = d.head_dim**-0.5
    u, v = (w.tensor(f"{name}.pos_bias_{side}") * scale for side in "uv")
    weights = {p: w.tensor(f"{name}.linear_{p}.weight") for p in "qkv"}
    biases = {p: w.tensor(f"{name}.linear_{p}.bias") for p in "qkv"}
    # Rows of k and v alternate by head, so that one product gives the cache layout [heads, K then V].
    kv_weight = torch.cat([weights[p].unflatten(0, (d.heads, d.head_dim)) for p in "kv"], 1).flatten(0, 1)
    kv_bias = torch.cat([biases[p].unflatten(0, (d.heads, d.head_dim)) for p in "kv"], 1).flatten()
    qkv_weight = torch.cat([weights["q"] * scale, kv_weight])
    qkv_bias = torch.cat([biases["q"] * scale + u.flatten(), kv_bias])
    q, kv = g.split(g.linear(x, qkv_weight, qkv_bias, f"{name}.qkv"), [d.width, 2 * d.width], axis=-1)
    q = g.reshape(q, 0, 0, d.heads, d.head_dim)
    new = g.node("Unsqueeze", [g.reshape(kv, 0, 0, d.heads, 2 * d.head_dim), g.ints(1)])
    both = g.node("Squeeze", [g.concat([cache, new], axis=0), g.ints(1)])
    k, value = g.split(both, [d.head_dim] * 2, axis=-1)
    content = _fused(g, q, k, transBatchA=1, transBatchB=1, transB=1)
    place = _relative(g, checkpoint, g.node("Add", [q, g.weight(v - u, f"{name}.uv")]), name, window, max_keys)
    # The float16 kernel of Softmax accumulates in float32, so no casts are needed around it.
    scores = g.node("Softmax", [g.node("Add", [content, place])], axis=-1)
    a = g.transpose(_fused(g, scores, value, transBatchB=1), 2, 0, 1, 3)
    return _linear(g, w, g.reshape(a, 0, 0, d.width), f"{name}.linear_out"), new


def _relative(g: GraphBuilder, checkpoint: Checkpoint, q: str, name: str, window: dict, max_keys: int) -> str:
    """q [t, B, heads, head_dim] -> position scores [B, heads, t, keys].

    The product with R = keys + t consecutive table rows gives M[i, r] for the distance keys - 1 - r; wanted is column
    t - 1 - i + j. In the flat matrix that is i * (R - 1) + (t - 1) + j: drop t - 1 values, read rows of R - 1.
    """
    d = checkpoint.flow
    table = spec.relative_positions(d.width, max_keys) @ checkpoint.flow_weights.tensor(f"{name}.linear_pos.weight").t()
    table = g.weight(table.unflatten(-1, (d.heads, d.head_dim)).permute(1, 2, 0).contiguous(), f"{name}.positions")
    rows = g.slice(table, window["start"], window["end"], axis=2)
    m = g.node("MatMul", [g.transpose(q, 1, 2, 0, 3), rows])
    flat = g.slice(g.reshape(m, 0, 0, -1), window["skew"], -1, axis=2)
    return g.slice(g.node("Reshape", [flat, window["shape"]]), 0, window["keys"], axis=3)


def _fused(g: GraphBuilder, a: str, b: str, **attributes) -> str:
    # transBatch reads [t, B, heads, head_dim] as [B, heads, t, head_dim] with strides instead of a copy.
    return g.node("FusedMatMul", [a, b], domain="com.microsoft", **attributes)


def _norm(g, w, x, name, eps=spec.LAYER_EPS):
    return g.low(g.norm(x, w.tensor(f"{name}.weight"), w.tensor(f"{name}.bias"), eps, name))


def _linear(g, w, x, name):
    return g.linear(x, w.tensor(f"{name}.weight"), w.tensor(f"{name}.bias"), name)


def _conv(g, w, x, name):
    weights = [g.weight(w.tensor(f"{name}.weight"), f"{name}.w"), g.weight(w.tensor(f"{name}.bias"), f"{name}.b")]
    return g.full(g.node("Conv", [g.low(x), *weights]))
