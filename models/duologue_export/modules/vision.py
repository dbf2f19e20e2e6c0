"""vision: SigLIP without its dropped last layer, and the resampler
(modeling_navit_siglip.py:303-370, 677-720; modeling_minicpmo_unified.py:1337-1396, 5574-5731).

    patches -> linear + position row -> layers -> LN -> kv_proj -> LN -> attention of 64 learned queries, keys + 2-D
    position -> LN -> @ proj

Padded patches are masked as keys; what happens in their own rows reaches nothing.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import VisionDims
from duologue_export.modules.builder import GraphBuilder, runs_half
from duologue_export.modules.layers import WeightedModule, attention

# Resampler's norm_layer default; SigLIP has its own in the configuration.
RESAMPLER_EPS = 1e-6
# Added to the scores of padded patches; float16 holds it.
DROP = -1e4


def bucket_table(grid: int) -> list[list[int]]:
    """Row n - 1: the position bucket of patch i of n along one axis (-1 beyond n). Made with torch's float32 arange
    and bucketize, because floor(grid * i / n) differs from them for several n (modeling_navit_siglip.py:340-364)."""
    boundaries = torch.arange(1 / grid, 1.0, 1 / grid)
    table = []
    for count in range(1, grid + 1):
        # The reference divides by an integer tensor, so the step is a float32: with a Python float, n = 58 comes out
        # different.
        step = 1 / torch.tensor(count, dtype=torch.int32)
        row = torch.bucketize(torch.arange(0, 1 - 1e-6, step), boundaries, right=True).tolist()
        table.append(row[:count] + [-1] * (grid - count))
    return table


def grid_positions(width: int, grid: int) -> torch.Tensor:
    """The resampler's position table [grid * grid, width]: the first half of the channels encodes the column, the
    second the row, each as sines then cosines (modeling_minicpmo_unified.py:5574-5622)."""
    quarter = width // 4
    rate = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float32) / quarter)
    angle = torch.arange(grid, dtype=torch.float32)[:, None] * rate
    axis = torch.cat([torch.sin(angle), torch.cos(angle)], -1)
    column = axis[None].expand(grid, grid, -1)
    row = axis[:, None].expand(grid, grid, -1)
    return torch.cat([column, row], -1).flatten(0, 1)


class Vision(WeightedModule):
    """Image slices to LLM rows. Weights: `vpm.*`, `resampler.*`."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__({**checkpoint.weights.state("vpm."), **_prefixed(checkpoint, "resampler.")})
        self.dims: VisionDims = checkpoint.vision
        self.positions = grid_positions(self.dims.llm_hidden, self.dims.grid)

    def forward(self, patches, pos_ids, grid_ids, mask):
        """patches [B, L, 3 * patch * patch]; pos_ids, grid_ids [B, L]; mask [B, L] (1 real, 0 padding) -> embeds [B,
        queries, D], encoded [B, L, hidden] (not in the graph)."""
        d, bias = self.dims, ((1 - mask) * DROP)[:, None, None]
        x = F.linear(
            patches, self.w["embeddings.patch_embedding.weight"].flatten(1), self.w["embeddings.patch_embedding.bias"]
        )
        x = x + self.w["embeddings.position_embedding.weight"][pos_ids]
        for layer in range(d.layers):
            name = f"encoder.layers.{layer}"
            h = self.norm(x, f"{name}.layer_norm1", d.eps)
            q, k, v = (self.linear(h, f"{name}.self_attn.{p}_proj") for p in "qkv")
            x = x + self.linear(attention(q, k, v, d.heads, bias), f"{name}.self_attn.out_proj")
            h = self.norm(x, f"{name}.layer_norm2", d.eps)
            x = x + self.linear(F.gelu(self.linear(h, f"{name}.mlp.fc1"), approximate="tanh"), f"{name}.mlp.fc2")
        encoded = self.norm(x, "post_layernorm", d.eps)
        x = self.norm(self.linear(encoded, "resampler.kv_proj"), "resampler.ln_kv", RESAMPLER_EPS)
        wq, wk, wv = self.w["resampler.attn.in_proj_weight"].chunk(3)
        bq, bk, bv = self.w["resampler.attn.in_proj_bias"].chunk(3)
        query = F.layer_norm(
            self.w["resampler.query"],
            (d.llm_hidden,),
            self.w["resampler.ln_q.weight"],
            self.w["resampler.ln_q.bias"],
            RESAMPLER_EPS,
        )
        q = F.linear(query, wq, bq).expand(len(x), -1, -1)
        a = attention(q, F.linear(x + self.positions[grid_ids], wk, bk), F.linear(x, wv, bv), d.resampler_heads, bias)
        x = self.norm(self.linear(a, "resampler.attn.out_proj"), "resampler.ln_post", RESAMPLER_EPS)
        return x @ self.w["resampler.proj"], encoded


def _prefixed(checkpoint: Checkpoint, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in checkpoint.weights.state(prefix).items()}


def build(checkpoint: Checkpoint, half: bool = False) -> GraphBuilder:
    """The graph of `Vision`. With `half`, matrices and attention run in float16; residual and normalisation stay
    float32.

    The queries of the resampler are constants, so their whole projection is one; the position table is kept already
    multiplied with the key weights."""
    d, w = checkpoint.vision, checkpoint.weights
    g = GraphBuilder("vision", half)
    patches = g.input("patches", "float32", ["B", "L", 3 * d.patch * d.patch])
    pos_ids = g.input("pos_ids", "int64", ["B", "L"])
    grid_ids = g.input("grid_ids", "int64", ["B", "L"])
    mask = g.input("mask", "float32", ["B", "L"])
    bias = g.node("Mul", [g.node("Sub", [mask, g.const(1.0)]), g.const(-DROP)])
    # The attention kernel that never stores the [L, L] scores takes no mask. Heads therefore get extra channels: 1 in
    # the query, the mask in the key. Float16 kernels want head sizes that are multiples of 8.
    extra = 8 - d.head_dim % 8 if half else 1
    marker = torch.zeros(d.heads, d.head_dim + extra)
    marker[:, d.head_dim] = 1.0
    masked = g.low(g.node("Mul", [g.node("Unsqueeze", [bias, g.ints(2)]), g.const(marker.flatten(), "mask_channel")]))
    bias = g.node("Unsqueeze", [bias, g.ints(1, 2)])

    name = "vpm.embeddings"
    positions = w.tensor(f"{name}.position_embedding.weight") + w.tensor(f"{name}.patch_embedding.bias")
    x = g.full(g.linear(g.low(patches), w.tensor(f"{name}.patch_embedding.weight").flatten(1), None, "patch"))
    x = g.node("Add", [x, g.node("Gather", [g.const(positions, "positions"), pos_ids])])
    for layer in range(d.layers):
        name = f"vpm.encoder.layers.{layer}"
        h = _norm(g, w, x, f"{name}.layer_norm1", d.eps)
        q = g.linear(
            h, *_widened(d, w, f"{name}.self_attn.q_proj", extra, d.head_dim**-0.5), f"{name}.self_attn.q_proj"
        )
        # The key's bias adds the same to all scores of a query, which softmax ignores; the mask takes its place.
        weight, _ = _widened(d, w, f"{name}.self_attn.k_proj", extra, 1.0)
        k = g.node("Add", [g.linear(h, weight, None, f"{name}.self_attn.k_proj"), masked])
        v = _linear(g, w, h, f"{name}.self_attn.v_proj")
        a = g.node("MultiHeadAttention", [q, k, v], domain="com.microsoft", num_heads=d.heads, scale=1.0)
        x = g.node("Add", [x, g.full(_linear(g, w, a, f"{name}.self_attn.out_proj"))])
        h = _linear(g, w, _norm(g, w, x, f"{name}.layer_norm2", d.eps), f"{name}.mlp.fc1")
        x = g.node("Add", [x, g.full(_linear(g, w, g.node("Gelu", [h], approximate="tanh"), f"{name}.mlp.fc2"))])
    x = _norm(g, w, x, "vpm.post_layernorm", d.eps)
    g.output(_resample(g, d, w, x, grid_ids, bias), "embeds", "float32", ["B", d.queries, d.llm_hidden])
    return g


def _widened(d: VisionDims, w, name: str, extra: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Projection with `extra` more channels per head: the first of them is the constant 1, the others are 0."""
    weight = (w.tensor(f"{name}.weight") * scale).unflatten(0, (d.heads, d.head_dim))
    bias = (w.tensor(f"{name}.bias") * scale).unflatten(0, (d.heads, d.head_dim))
    bias = F.pad(F.pad(bias, (0, 1), value=1.0), (0, extra - 1))
    return F.pad(weight, (0, 0, 0, extra)).flatten(0, 1), bias.flatten()


def _resample(g: GraphBuilder, d: VisionDims, w, x: str, grid_ids: str, bias: str) -> str:
    name, heads = "resampler.attn", d.resampler_heads
    head_dim = d.llm_hidden // heads
    x = g.full(g.linear(x, w.tensor("resampler.kv_proj.weight"), None, "resampler.kv_proj"))
    x = _norm(g, w, x, "resampler.ln_kv", RESAMPLER_EPS)
    wq, wk, wv = w.tensor(f"{name}.in_proj_weight").chunk(3)
    bq, bk, bv = w.tensor(f"{name}.in_proj_bias").chunk(3)
    query = F.layer_norm(
        w.tensor("resampler.query"),
        (d.llm_hidden,),
        w.tensor("resampler.ln_q.weight"),
        w.tensor("resampler.ln_q.bias"),
        RESAMPLER_EPS,
    )
    query = (F.linear(query, wq, bq) * head_dim**-0.5).unflatten(1, (heads, head_dim)).transpose(0, 1)[None]
    table = F.linear(grid_positions(d.llm_hidden, d.grid), wk, bk)
    keys = g.linear(x, wk, None, f"{name}.k")
    keys = g.node("Add", [keys, g.node("Gather", [g.weight(table, "resampler.positions"), grid_ids])])
    keys = g.transpose(g.reshape(keys, 0, 0, heads, head_dim), 0, 2, 3, 1)
    values = g.transpose(g.reshape(g.linear(x, wv, bv, f"{name}.v"), 0, 0, heads, head_dim), 0, 2, 1, 3)
    scores = g.full(g.node("MatMul", [g.weight(query.contiguous(), "resampler.query"), keys]))
    scores = g.low(g.node("Softmax", [g.node("Add", [scores, bias])], axis=-1))
    a = g.reshape(g.transpose(g.node("MatMul", [scores, values]), 0, 2, 1, 3), 0, 0, d.llm_hidden)
    x = _norm(g, w, g.full(_linear(g, w, a, f"{name}.out_proj")), "resampler.ln_post", RESAMPLER_EPS)
    return g.full(g.linear(x, w.tensor("resampler.proj").t(), None, "resampler.proj"))


def _norm(g, w, x, name, eps):
    return g.low(g.norm(x, w.tensor(f"{name}.weight"), w.tensor(f"{name}.bias"), eps, name))


def _linear(g, w, x, name):
    return g.linear(x, w.tensor(f"{name}.weight"), w.tensor(f"{name}.bias"), name)


def export(checkpoint: Checkpoint, out_dir: Path, precision: str, target: str) -> dict:
    """Writes vision.onnx; returns the manifest's `vision` section."""
    build(checkpoint, half=runs_half(precision, target)).save(out_dir / "vision.onnx")
    d = checkpoint.vision
    return {
        "vision": {
            "patch": d.patch,
            "image": d.image,
            "max_slices": d.max_slices,
            "queries": d.queries,
            "grid": d.grid,
            "buckets": bucket_table(d.grid),
            "mean": d.mean,
            "std": d.std,
        }
    }
