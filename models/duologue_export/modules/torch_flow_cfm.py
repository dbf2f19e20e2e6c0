"""flow_cfm: flow matching with a fixed number of Euler steps over a streaming DiT
(cosyvoice2/flow/flow_matching.py:110-205, decoder_dit.py:58-330, minicpmo-utils 1.0.5). This file is the plain torch
form; `flow_cfm` writes the graph.

    x = z; for every step: h = in_proj [x, mu, spk, cond]   (second row: [x, 0, 0, 0])
                           per block: h += g * attention(mod LN h); h += g * conv(mod LN h); h += g * mlp(mod LN h)
                           v = linear(mod LN h);  x += dt * ((1 + c) * v[0] - c * v[1])

Shift, scale and gate depend on the time alone, so they are constants of the step. Attention knows no positions: the
cache is a set of slots and a mask says which of them hold a frame.
"""

import math

import torch
import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import FlowDims
from duologue_export.modules.layers import WeightedModule

MOD_EPS, EPS = 1e-6, 1e-5
FREQUENCIES = 256
KERNEL = 3
# What a dropped key is given instead of -inf, so that float16 holds it.
DROP = -1e4
NAMES = ("attn", "mlp", "conv")


def times(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(t, dt) of every step: cosine schedule, with dt taken from a running sum as in the reference
    (flow_matching.py:129-165)."""
    span = 1 - torch.cos(torch.linspace(0, 1, steps + 1) * 0.5 * torch.pi)
    t, dt = span[0], span[1] - span[0]
    starts, widths = [], []
    for step in range(1, steps + 1):
        starts.append(t)
        widths.append(dt)
        t = t + dt
        if step < steps:
            dt = span[step + 1] - t
    return torch.stack(starts), torch.stack(widths)


def modulation(weights: dict[str, torch.Tensor], layers: int, steps: int) -> tuple[list[dict], tuple]:
    """Constants of all steps: per block {name: (shift, scale, gate)} and the final (shift, scale), each [steps,
    width]."""
    t, _ = times(steps)
    half = FREQUENCIES // 2
    rate = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
    angle = (t * 1000)[:, None] * rate
    x = torch.cat([torch.cos(angle), torch.sin(angle)], -1)
    x = F.silu(F.linear(x, weights["t_embedder.mlp.0.weight"], weights["t_embedder.mlp.0.bias"]))
    x = F.silu(F.linear(x, weights["t_embedder.mlp.2.weight"], weights["t_embedder.mlp.2.bias"]))

    def project(name: str, parts: int) -> tuple:
        name = f"{name}.adaLN_modulation.1"
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]).chunk(parts, -1)

    blocks = []
    for layer in range(layers):
        parts = project(f"blocks.{layer}", 9)
        blocks.append({name: parts[3 * i : 3 * i + 3] for i, name in enumerate(NAMES)})
    return blocks, project("final_layer", 2)


class Cfm(WeightedModule):
    """All Euler steps of one chunk. Weights: flow.pt `decoder.estimator.*`."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint.flow_weights.state("decoder.estimator."))
        self.dims: FlowDims = checkpoint.flow
        self.blocks, self.final = modulation(self.w, self.dims.dit_layers, self.dims.steps)
        self.dt = times(self.dims.steps)[1]

    def forward(self, z, mu, spk, cond, mask, cnn, keys, values):
        """z, mu, cond [B, M, T]; spk [B, M]; mask [B, C + T]; lists over layers: cnn [N, 2B, 2W, 2], keys, values [N,
        2B, heads, C, hd].

        -> mel [B, M, T], and lists over layers: cnn (same shape), new keys, new values [N, 2B, heads, T, hd].
        """
        d, x = self.dims, z
        outs: list[list[list[torch.Tensor]]] = [[[] for _ in range(d.dit_layers)] for _ in range(3)]
        for step in range(d.steps):
            caches = ([layer[step] for layer in group] for group in (cnn, keys, values))
            v, *new = self.velocity(step, x, mu, spk, cond, mask, *caches)
            for out, group in zip(outs, new, strict=True):
                for layer, value in enumerate(group):
                    out[layer].append(value)
            with_condition, without = v.chunk(2)
            x = x + self.dt[step] * ((1 + d.cfg_rate) * with_condition - d.cfg_rate * without)
        return x, *([torch.stack(value) for value in out] for out in outs)

    def velocity(self, step, x, mu, spk, cond, mask, cnn, keys, values):
        """The estimator at one step: inputs as in `forward`, caches of this step (no leading N).

        -> v [2B, M, T], conditional rows first, and lists over layers: cnn, new keys, new values.
        """
        zero = torch.zeros_like(mu)
        spk = spk[..., None].expand_as(mu)
        bias = torch.cat([mask, mask])[:, None, None]
        rows = torch.cat([torch.cat([x, mu, spk, cond], 1), torch.cat([x, zero, zero, zero], 1)])
        h = self.linear(rows.transpose(1, 2), "in_proj")
        outs: list[list[torch.Tensor]] = [[], [], []]
        for layer, caches in enumerate(zip(cnn, keys, values, strict=True)):
            h, *new = self.block(h, layer, step, bias, *caches)
            for out, value in zip(outs, new, strict=True):
                out.append(value)
        shift, scale = (m[step] for m in self.final)
        h = F.layer_norm(h, (self.dims.dit_width,), eps=MOD_EPS) * (1 + scale) + shift
        return self.linear(h, "final_layer.linear").transpose(1, 2), *outs

    def block(self, h, layer, step, bias, cnn, key, value):
        """One DiT block on [2B, T, W] -> the same, cnn, new key, new value."""
        d, name = self.dims, f"blocks.{layer}"

        def modulate(h, part):
            shift, scale, gate = (m[step] for m in self.blocks[layer][part])
            return F.layer_norm(h, (d.dit_width,), eps=MOD_EPS) * (1 + scale) + shift, gate

        x, gate = modulate(h, "attn")
        q, k, v = (
            self.linear(x, f"{name}.attn.to_{p}").unflatten(-1, (d.dit_heads, -1)).transpose(1, 2) for p in "qkv"
        )
        q, k = self.norm(q, f"{name}.attn.q_norm", EPS), self.norm(k, f"{name}.attn.k_norm", EPS)
        scores = q @ torch.cat([key, k], 2).transpose(-1, -2) / d.dit_head_dim**0.5 + bias
        a = scores.softmax(-1) @ torch.cat([value, v], 2)
        h = h + gate * self.linear(a.transpose(1, 2).flatten(2), f"{name}.attn.proj")

        x, gate = modulate(h, "conv")
        first, second = cnn.chunk(2, 1)
        first = torch.cat([first, x.transpose(1, 2)], 2)
        x = self.norm(self.conv(first, f"{name}.conv.block.1").transpose(1, 2), f"{name}.conv.block.3", EPS)
        second = torch.cat([second, F.mish(x).transpose(1, 2)], 2)
        h = h + gate * self.conv(second, f"{name}.conv.block.6").transpose(1, 2)
        cnn = torch.cat([first[..., 1 - KERNEL :], second[..., 1 - KERNEL :]], 1)

        x, gate = modulate(h, "mlp")
        x = self.linear(F.gelu(self.linear(x, f"{name}.mlp.fc1"), approximate="tanh"), f"{name}.mlp.fc2")
        return h + gate * x, cnn, k, v
