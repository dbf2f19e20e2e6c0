"""The ONNX graph of `torch_flow_cfm.Cfm`: a Scan over the Euler steps around one estimator step.

Outside the loop: the part of in_proj that does not change between steps, the mask, the layout of the convolution
caches. Inside: the state x [B, T, M], per-step constants (adaLN) and per-layer caches as scanned inputs, the new
frames' keys and values as scanned outputs. The caches go in and only the new frames come out: the host decides which
slots they overwrite, and no full cache is ever returned. Weights are initialisers of the outer graph, where external
data finds them.
"""

import numpy as np
import torch

from duologue_export.checkpoint import Checkpoint
from duologue_export.modules import torch_flow_cfm as spec
from duologue_export.modules.builder import GraphBuilder


def build(checkpoint: Checkpoint, half: bool = False) -> GraphBuilder:
    """The graph. With `half`, matrices and attention run in float16 and the attention caches are float16; x, the
    residual stream and every normalisation stay float32."""
    d = checkpoint.flow
    w = checkpoint.flow_weights.state("decoder.estimator.")
    g = GraphBuilder("flow_cfm", half)
    cache_type = "float16" if half else "float32"
    z, mu, cond = (g.input(name, "float32", ["B", d.mel, "T"]) for name in ("z", "mu", "cond"))
    spk = g.input("spk", "float32", ["B", d.mel])
    mask = g.input("mask", "float32", ["B", "slots_plus_T"])
    layers = range(d.dit_layers)
    cnn_shape = [d.steps, "rows", 2 * d.dit_width, spec.KERNEL - 1]
    att_shape = [d.steps, "rows", d.dit_heads, "slots", d.dit_head_dim]
    cnn = [g.input(f"cnn.{layer}", "float32", cnn_shape) for layer in layers]
    keys = [g.input(f"att_key.{layer}", cache_type, att_shape) for layer in layers]
    values = [g.input(f"att_value.{layer}", cache_type, att_shape) for layer in layers]

    steady = _steady_input(g, d, w, mu, spk, cond)
    bias = g.low(g.node("Unsqueeze", [g.concat([mask, mask], axis=0), g.ints(1, 2)]))
    history = [g.transpose(value, 0, 1, 3, 2) for value in cnn]

    constants = _step_constants(g, d, w)
    # What every layer of every step needs: lengths, and the rows t, t + 1, t + 2 of [history, frames] for each frame t.
    frames = g.size(z, 2)
    stop = g.node("Squeeze", [frames, g.ints(0)])
    taps = g.node("Range", [g.const(np.int64(0)), stop, g.const(np.int64(1))])
    taps = g.node("Add", [g.node("Unsqueeze", [taps, g.ints(1)]), g.ints(*range(spec.KERNEL))])
    shared = {"bias": bias, "taps": taps}
    shared["frames"] = g.concat([g.ints(-1), frames, g.ints(d.dit_width)], axis=0)
    shared["heads"] = g.concat([g.ints(-1), frames, g.ints(d.dit_heads, d.dit_head_dim)], axis=0)
    body, constant_names = _body(g, d, w, steady, shared, constants)
    scanned = [*(constants[name] for name in constant_names), *history, *keys, *values]
    outputs = g.node(
        "Scan",
        [g.transpose(z, 0, 2, 1), *scanned],
        "steps",
        outputs=1 + 3 * d.dit_layers,
        body=body,
        num_scan_inputs=len(scanned),
    )
    g.output(g.transpose(outputs[0], 0, 2, 1), "mel", "float32", ["B", d.mel, "T"])
    new_shape = [d.steps, "rows", d.dit_heads, "T", d.dit_head_dim]
    for layer in layers:
        cnn_out, key, value = outputs[1 + 3 * layer : 4 + 3 * layer]
        g.output(g.transpose(cnn_out, 0, 1, 3, 2), f"cnn_out.{layer}", "float32", cnn_shape)
        g.output(key, f"new_key.{layer}", cache_type, new_shape)
        g.output(value, f"new_value.{layer}", cache_type, new_shape)
    return g


def _steady_input(g: GraphBuilder, d, w: dict, mu: str, spk: str, cond: str) -> str:
    """in_proj of everything but x: [2, B, T, W]; the unconditional rows see zeros, so only the bias is left."""
    _, w_mu, w_spk, w_cond = w["in_proj.weight"].split(d.mel, 1)
    bias = w["in_proj.bias"]
    frames = [g.linear(g.low(g.transpose(v, 0, 2, 1)), m, None, "steady") for v, m in ((mu, w_mu), (cond, w_cond))]
    speaker = g.node("Unsqueeze", [g.linear(g.low(spk), w_spk, bias, "speaker"), g.ints(1)])
    with_condition = g.node("Unsqueeze", [g.node("Add", [g.node("Add", frames), speaker]), g.ints(0)])
    without = g.node("Expand", [g.weight(bias, "in_proj.b"), g.node("Shape", [with_condition])])
    return g.full(g.concat([with_condition, without], axis=0))


def _step_constants(g: GraphBuilder, d, w: dict) -> dict[str, str]:
    """Scanned constants, each [N, width]. LayerNormalization takes 1 + scale and shift as its own scale and bias; the
    step width dt goes into the constants of the final layer."""
    blocks, (shift, scale) = spec.modulation(w, d.dit_layers, d.steps)
    dt = spec.times(d.steps)[1][:, None]
    made = {}
    for layer, parts in enumerate(blocks):
        for name, (part_shift, part_scale, gate) in parts.items():
            made[f"{layer}.{name}.scale"] = 1 + part_scale
            made[f"{layer}.{name}.shift"] = part_shift
            made[f"{layer}.{name}.gate"] = gate
    made["final.scale"] = (1 + scale) * dt
    made["final.shift"] = shift * dt
    made["final.bias"] = w["final_layer.linear.bias"] * dt
    return {name: g.const(value, f"steps.{name}") for name, value in made.items()}


def _body(g: GraphBuilder, d, w: dict, steady: str, shared: dict[str, str], constants: dict[str, str]):
    b = GraphBuilder("euler_step", g.half, g.bits, outer=g)
    width, heads, hd = d.dit_width, d.dit_heads, d.dit_head_dim
    cache_type = "float16" if g.half else "float32"
    x = b.input("x", "float32", ["B", "T", d.mel])
    mods = {name: b.input(f"step.{name}", "float32", [d.mel if name == "final.bias" else width]) for name in constants}
    layers = range(d.dit_layers)
    cnn = [b.input(f"step.cnn.{layer}", "float32", ["rows", spec.KERNEL - 1, 2 * width]) for layer in layers]
    keys = [b.input(f"step.key.{layer}", cache_type, ["rows", heads, "slots", hd]) for layer in layers]
    values = [b.input(f"step.value.{layer}", cache_type, ["rows", heads, "slots", hd]) for layer in layers]

    h = b.full(b.linear(b.low(x), w["in_proj.weight"][:, : d.mel], None, "in_proj"))
    # [2, B, T, W] -> [2B * T, W]: two axes are what turns MatMul + Add into one Gemm.
    h = b.reshape(b.node("Add", [steady, h]), -1, width)
    scanned = []
    for layer in layers:
        step = {key.split(".", 1)[1]: name for key, name in mods.items() if key.startswith(f"{layer}.")}
        name = f"blocks.{layer}"
        u = _modulate(b, h, step, "attn")
        a, key, value = _attend(b, d, w, u, f"{name}.attn", keys[layer], values[layer], shared)
        h = b.node("Add", [h, b.node("Mul", [b.full(a), step["attn.gate"]])])
        u, new_cnn = _convolve(b, d, w, _modulate(b, h, step, "conv"), f"{name}.conv.block", cnn[layer], shared)
        h = b.node("Add", [h, b.node("Mul", [b.full(u), step["conv.gate"]])])
        u = _linear(b, w, b.low(_modulate(b, h, step, "mlp")), f"{name}.mlp.fc1")
        u = _linear(b, w, b.node("Gelu", [u], approximate="tanh"), f"{name}.mlp.fc2")
        h = b.node("Add", [h, b.node("Mul", [b.full(u), step["mlp.gate"]])])
        scanned += [(new_cnn, "float32"), (key, cache_type), (value, cache_type)]
    u = b.low(
        b.node("LayerNormalization", [h, mods["final.scale"], mods["final.shift"]], axis=-1, epsilon=spec.MOD_EPS)
    )
    rows = b.node("Split", [u], outputs=2, axis=0, num_outputs=2)
    weight = w["final_layer.linear.weight"]
    guided = b.full(b.linear(rows[0], weight * (1 + d.cfg_rate), None, "guided"))
    unguided = b.full(b.linear(rows[1], weight * -d.cfg_rate, None, "unguided"))
    move = b.node("Add", [b.node("Add", [guided, unguided]), mods["final.bias"]])
    x = b.node("Add", [x, b.node("Reshape", [move, b.node("Shape", [x])])])
    b.output(x, "x_out", "float32", ["B", "T", d.mel])
    for index, (value, dtype) in enumerate(scanned):
        shape = ["rows", spec.KERNEL - 1, 2 * width] if index % 3 == 0 else ["rows", heads, "T", hd]
        b.output(value, f"step.out.{index}", dtype, shape)
    return b.graph(), list(constants)


def _modulate(b: GraphBuilder, h: str, step: dict, part: str) -> str:
    inputs = [h, step[f"{part}.scale"], step[f"{part}.shift"]]
    return b.node("LayerNormalization", inputs, axis=-1, epsilon=spec.MOD_EPS)


def _attend(b: GraphBuilder, d, w: dict, u: str, name: str, key_cache: str, value_cache: str, shared: dict[str, str]):
    """u [2B * T, W] -> (projection [2B * T, W], new key, new value [2B, heads, T, hd])."""
    inner, hd = d.dit_heads * d.dit_head_dim, d.dit_head_dim
    weight = torch.cat([w[f"{name}.to_{p}.weight"] for p in "qkv"])
    qkv_bias = torch.cat([w[f"{name}.to_{p}.bias"] for p in "qkv"])
    q, k, v = b.split(b.linear(b.low(u), weight, qkv_bias, f"{name}.qkv"), [inner] * 3, axis=-1)
    # The softmax scale is part of the query's own normalisation.
    q = _head_norm(b, d, w, q, f"{name}.q_norm", hd**-0.5)
    k = _head_norm(b, d, w, k, f"{name}.k_norm", 1.0)
    q, k, v = (b.node("Reshape", [part, shared["heads"]]) for part in (q, k, v))
    key, value = b.transpose(k, 0, 2, 1, 3), b.transpose(v, 0, 2, 1, 3)
    keys, values = b.concat([key_cache, key], axis=2), b.concat([value_cache, value], axis=2)
    scores = b.node("FusedMatMul", [b.transpose(q, 0, 2, 1, 3), keys], domain="com.microsoft", transB=1)
    # The float16 kernel of Softmax accumulates in float32, so no casts are needed around it.
    scores = b.node("Softmax", [b.node("Add", [scores, shared["bias"]])], axis=-1)
    a = b.transpose(b.node("MatMul", [scores, values]), 0, 2, 1, 3)
    return _linear(b, w, b.reshape(a, -1, inner), f"{name}.proj"), key, value


def _head_norm(b: GraphBuilder, d, w: dict, x: str, name: str, scale: float) -> str:
    x = b.full(b.reshape(x, 0, d.dit_heads, d.dit_head_dim))
    return b.low(b.norm(x, w[f"{name}.weight"] * scale, w[f"{name}.bias"] * scale, spec.EPS, name))


def _convolve(b: GraphBuilder, d, w: dict, u: str, name: str, history: str, shared: dict[str, str]):
    """conv, LN, Mish, conv on [2B * T, W] -> (the same, new history [2B, 2, 2W])."""
    first, second = b.split(history, [d.dit_width] * 2, axis=2)
    x, first = _causal(b, d, w, u, f"{name}.1", first, shared)
    x = b.norm(b.full(x), w[f"{name}.3.weight"], w[f"{name}.3.bias"], spec.EPS, f"{name}.3")
    x, second = _causal(b, d, w, _mish(b, x), f"{name}.6", second, shared)
    return x, b.concat([first, second], axis=2)


def _causal(b: GraphBuilder, d, w: dict, x: str, name: str, history: str, shared: dict[str, str]) -> tuple[str, str]:
    """A causal k3 convolution as one product: rows t, t + 1, t + 2 of [history, x] side by side times a [3W, W]
    matrix. That is a better shape for the matrix kernels than a 1-D convolution over 50 frames, and is quantised like
    any other product."""
    both = b.concat([history, b.node("Reshape", [x, shared["frames"]])], axis=1)
    rows = b.reshape(b.node("Gather", [both, shared["taps"]], axis=1), -1, spec.KERNEL * d.dit_width)
    weight = w[f"{name}.weight"].permute(0, 2, 1).flatten(1)
    y = b.linear(b.low(rows), weight, w[f"{name}.bias"], name)
    return y, b.slice(both, 1 - spec.KERNEL, 1 << 31, axis=1)


def _mish(b: GraphBuilder, x: str) -> str:
    # x * tanh(softplus(x)) = 2x / (1 + q^2) - x with q = sigmoid(-x): no Softplus, whose kernel is 30 times slower
    # than Sigmoid's.
    q = b.node("Sigmoid", [b.node("Neg", [x])])
    square = b.node("Add", [b.node("Mul", [q, q]), b.const(1.0)])
    half = b.node("Div", [x, square])
    return b.node("Sub", [b.node("Add", [half, half]), x])


def _linear(b: GraphBuilder, w: dict, x: str, name: str) -> str:
    return b.linear(x, w[f"{name}.weight"], w[f"{name}.bias"], name)
