"""flow_encoder: audio tokens -> mu, one chunk of the streaming conformer
(cosyvoice2/transformer/upsample_encoder_v2.py:396-483, attention.py:210-328, minicpmo-utils 1.0.5). This file is the
plain torch form; `flow_encoder` writes the ONNX graph.

    token -> embedding, linear, LN, * sqrt(W) -> conv k4 (look-ahead) -> leaky ReLU -> conv k3 over [conv1, .] -> +
    input
          -> blocks -> nearest x2 -> conv k5 over [conv2, .] -> linear, LN, * sqrt(W) -> up blocks -> LN -> linear -> mu

Two things differ from the reference on purpose, neither changes a number: the history of the up-sampling convolution
is kept before the frames are doubled (conv2 holds 2 columns, the reference's 4 are those two twice), and the caches
of the two halves travel separately (the reference stores the first half's twice in a row to make the lengths match).
"""

import math

import torch
import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import FlowDims
from duologue_export.modules.layers import WeightedModule

EMBED_EPS = 1e-5
LAYER_EPS = 1e-12
LEAKY = 0.01
# Histories of the k3 convolution and of the (not yet doubled) up-sampling convolution, in columns.
CONV1_LEN = 2
CONV2_LEN = 2
# Keys that an up block may attend to, cache included; the folded position tables end there.
MAX_FRAMES = 1000


def relative_positions(width: int, keys: int) -> torch.Tensor:
    """Rows for the distances keys-1 ... -keys (query position minus key position): [2 * keys, width]
    (embedding.py:43-76)."""
    distance = torch.arange(keys - 1, -keys - 1, -1, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10000.0) / width))
    return torch.stack([torch.sin(distance * rate), torch.cos(distance * rate)], -1).flatten(1)


class FlowEncoder(WeightedModule):
    """Chunk of the flow encoder. Weights: flow.pt."""

    def __init__(self, checkpoint: Checkpoint):
        weights = checkpoint.flow_weights.state("encoder.")
        weights |= {f"encoder_proj.{k}": v for k, v in checkpoint.flow_weights.state("encoder_proj.").items()}
        weights["embedding"] = checkpoint.flow_weights.tensor("input_embedding.weight")
        super().__init__(weights)
        self.dims: FlowDims = checkpoint.flow

    def forward(self, token, valid, conv1, conv2, kv1, kv2):
        """token [B, t]; valid [B, t, 1]; conv1, conv2 [B, W, 2]; kv1, kv2 [T, layers, B, heads, 2 * head_dim] (K then
        V).

        -> mu [B, M, up * (t - lookahead)], conv1, conv2, new_kv1, new_kv2 of the new frames, hidden (not in the graph).
        """
        d, scale = self.dims, self.dims.width**0.5
        x = self.embed(self.w["embedding"][token], "embed.out") * scale * valid
        y = F.leaky_relu(self.conv(x.transpose(1, 2), "pre_lookahead_layer.conv1"), LEAKY)
        y = torch.cat([conv1, y], 2)
        conv1 = y[..., -CONV1_LEN:]
        x = self.conv(y, "pre_lookahead_layer.conv2").transpose(1, 2) + x[:, : x.shape[1] - d.lookahead]
        x, new_kv1 = self.blocks(x, "encoders", kv1)
        y = torch.cat([conv2, x.transpose(1, 2)], 2)
        conv2 = y[..., -CONV2_LEN:]
        x = self.conv(y.repeat_interleave(d.up, dim=2), "up_layer.conv").transpose(1, 2)
        x = self.embed(x, "up_embed.out") * scale
        x, new_kv2 = self.blocks(x, "up_encoders", kv2)
        hidden = self.norm(x, "after_norm", EMBED_EPS)
        mu = self.linear(hidden, "encoder_proj").transpose(1, 2)
        return mu, conv1, conv2, new_kv1, new_kv2, hidden

    def embed(self, x, name):
        """linear and LN of LinearNoSubsampling."""
        return self.norm(self.linear(x, f"{name}.0"), f"{name}.1", EMBED_EPS)

    def blocks(self, x, group, kv):
        """The conformer layers (no convolution module): [B, t, W] -> the same, and the new keys and values."""
        fresh = []
        for layer in range(kv.shape[1]):
            name = f"{group}.{layer}"
            h, new = self.attend(self.norm(x, f"{name}.norm_mha", LAYER_EPS), f"{name}.self_attn", kv[:, layer])
            fresh.append(new)
            x = x + h
            h = F.silu(self.linear(self.norm(x, f"{name}.norm_ff", LAYER_EPS), f"{name}.feed_forward.w_1"))
            x = x + self.linear(h, f"{name}.feed_forward.w_2")
        return x, torch.stack(fresh, 1)

    def attend(self, x, name, cache):
        """Relative-position attention: score(i, j) = (q_i + u) k_j + (q_i + v) p(i - j), unmasked over cache and
        chunk."""
        d = self.dims
        q, k, v = (self.linear(x, f"{name}.linear_{p}").unflatten(-1, (d.heads, d.head_dim)) for p in "qkv")
        new = torch.cat([k, v], -1).transpose(0, 1)
        k, v = torch.cat([cache, new]).permute(1, 2, 0, 3).split(d.head_dim, -1)
        keys, queries = k.shape[2], q.shape[1]
        position = F.linear(relative_positions(d.width, keys), self.w[f"{name}.linear_pos.weight"])
        position = position.unflatten(-1, (d.heads, d.head_dim)).transpose(0, 1)
        content = (q + self.w[f"{name}.pos_bias_u"]).transpose(1, 2) @ k.transpose(-1, -2)
        place = (q + self.w[f"{name}.pos_bias_v"]).transpose(1, 2) @ position.transpose(-1, -2)
        # Row of the table for query i (at position keys - queries + i) and key j: the distance decides.
        row = (keys - 1) - (torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)[None])
        place = place.gather(-1, row.expand(*place.shape[:2], queries, keys))
        a = ((content + place) / d.head_dim**0.5).softmax(-1) @ v
        return self.linear(a.transpose(1, 2).flatten(2), f"{name}.linear_out"), new
