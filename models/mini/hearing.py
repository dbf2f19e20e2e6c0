"""Audio encoder, projector and language model in trainable form, under the checkpoint's names.

The computation is that of `duologue_export.modules.apm` and `duologue_export.modules.decoder`, for whole sessions in a
batch instead of one chunk with caches: a test compares the two.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mini.speakers import PHONES, SILENCE

FRAMES_PER_UNIT = 50
# The encoder's cache restarts every 29 units (modeling_minicpmo_unified.py:1490-1497 with 1500 positions).
UNITS_PER_CACHE = 29
POOL = 5
MAX_POSITIONS = 1500
ROPE_THETA = 1e4
RMS_EPS = 1e-6


@dataclass(frozen=True)
class HearingDims:
    """Widths. The encoder's feed-forward is 4 * `apm_hidden`, as the reference requires."""

    vocab: int
    apm_hidden: int = 192
    apm_layers: int = 4
    apm_heads: int = 4
    llm_hidden: int = 192
    llm_layers: int = 4
    llm_heads: int = 4
    llm_kv_heads: int = 2
    head_dim: int = 48
    llm_ffn: int = 512

    def as_dict(self) -> dict:
        """For a checkpoint."""
        return asdict(self)


class ApmAttention(nn.Module):
    """Whisper's self-attention; keys have no bias."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, mask):
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class ApmLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.self_attn = ApmAttention(width, heads)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, mask):
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class Apm(nn.Module):
    """mel [B, 80, 100 U + 2] -> encoded frames [B, 50 U, width]; a frame sees its own unit and those before it."""

    def __init__(self, dims: HearingDims):
        super().__init__()
        width = dims.apm_hidden
        self.conv1 = nn.Conv1d(80, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(MAX_POSITIONS, width)
        self.layers = nn.ModuleList(ApmLayer(width, dims.apm_heads) for _ in range(dims.apm_layers))
        self.layer_norm = nn.LayerNorm(width)
        # Whisper's sinusoids, left as they are: short sessions would train only the first of them.
        self.embed_positions.weight.requires_grad_(False)
        self.embed_positions.weight.copy_(sinusoids(MAX_POSITIONS, width))

    def forward(self, mel):
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        # The last frame stands for the two frames of look-ahead.
        x = x[:, : x.shape[1] - 1]
        frame = torch.arange(x.shape[1])
        unit = frame // FRAMES_PER_UNIT
        x = x + self.embed_positions(frame % (FRAMES_PER_UNIT * UNITS_PER_CACHE))
        same_cache = (unit // UNITS_PER_CACHE)[:, None] == (unit // UNITS_PER_CACHE)[None]
        mask = same_cache & (unit[:, None] >= unit[None])
        for layer in self.layers:
            x = layer(x, mask)
        return self.layer_norm(x)


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Whisper's position table [positions, width]: sines, then cosines."""
    rate = torch.exp(-math.log(10000.0) / (width // 2 - 1) * torch.arange(width // 2))
    angle = torch.arange(positions)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], 1)


class Projector(nn.Module):
    """Encoded frames -> audio rows of the LLM: linear, ReLU, mean of five, linear."""

    def __init__(self, width: int, llm_hidden: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, llm_hidden), nn.Linear(llm_hidden, llm_hidden)

    def forward(self, x):
        return self.linear2(F.relu(self.linear1(x)).unflatten(1, (-1, POOL)).mean(2))


class DecoderAttention(nn.Module):
    """Grouped-query attention with rotary positions, and (Qwen3) normalised queries and keys."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, qk_norm: bool):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(width, kv_heads * head_dim, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(head_dim, RMS_EPS) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x, rotation, cache):
        q = self.q_norm(self.q_proj(x).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).unflatten(-1, (self.kv_heads, -1))).transpose(1, 2)
        v = self.v_proj(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        q, k = rotate(q, rotation), rotate(k, rotation)
        past = 0
        if cache is not None:
            if cache:
                past = cache[0].shape[2]
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        if past:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(past)
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(a.transpose(1, 2).flatten(2))


def rotate(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Half-split rotation of [..., T, head_dim]."""
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, inner: int, qk_norm: bool):
        super().__init__()
        self.self_attn = DecoderAttention(width, heads, kv_heads, head_dim, qk_norm)
        self.mlp = Mlp(width, inner)
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(width, RMS_EPS), nn.RMSNorm(width, RMS_EPS)

    def forward(self, x, rotation, cache):
        x = x + self.self_attn(self.input_layernorm(x), rotation, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Llama-shaped stack with the final norm: rows [B, T, width] -> hidden [B, T, width].

    `caches`: one list per layer, filled and grown in place; None while training."""

    def __init__(self, width: int, layers: int, heads: int, kv_heads: int, head_dim: int, inner: int, qk_norm: bool):
        super().__init__()
        self.head_dim = head_dim
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, kv_heads, head_dim, inner, qk_norm) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, RMS_EPS)

    def forward(self, x, caches: list[list] | None = None):
        past = caches[0][0].shape[2] if caches and caches[0] else 0
        half = self.head_dim // 2
        rate = ROPE_THETA ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = torch.outer(torch.arange(past, past + x.shape[1], dtype=torch.float32), rate)
        rotation = (angle.cos(), angle.sin())
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, None if caches is None else caches[index])
        return self.norm(x)


class Llm(nn.Module):
    """`llm.*` of the checkpoint."""

    def __init__(self, dims: HearingDims):
        super().__init__()
        self.model = Decoder(
            dims.llm_hidden, dims.llm_layers, dims.llm_heads, dims.llm_kv_heads, dims.head_dim, dims.llm_ffn, True
        )
        self.model.embed_tokens = nn.Embedding(dims.vocab, dims.llm_hidden)
        self.lm_head = nn.Linear(dims.llm_hidden, dims.vocab, bias=False)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.05)
        nn.init.normal_(self.lm_head.weight, std=0.05)


class Hearing(nn.Module):
    """Everything from the mel to the next token. `phones` is the auxiliary head that export leaves out."""

    def __init__(self, dims: HearingDims):
        super().__init__()
        self.dims = dims
        with torch.no_grad():
            self.apm = Apm(dims)
        self.audio_projection_layer = Projector(dims.apm_hidden, dims.llm_hidden)
        self.llm = Llm(dims)
        self.phones = nn.Linear(dims.apm_hidden, sum(map(len, PHONES)))

    def rows(self, mel):
        """mel -> (audio rows [B, 10 U, llm width], encoded frames [B, 50 U, apm width])."""
        encoded = self.apm(mel)
        return self.audio_projection_layer(encoded), encoded

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, float]]:
        """(loss of the tokens, loss of the phones or None, accuracies) of a `layout.collate` batch."""
        x = self.llm.model.embed_tokens(batch["ids"])
        encoded = None
        if "mel" in batch:
            rows, encoded = self.rows(batch["mel"])
            index = batch["audio"].clamp_min(0)[..., None].expand(-1, -1, x.shape[-1])
            x = torch.where(batch["audio"][..., None] >= 0, rows.gather(1, index), x)
        hidden = self.llm.model(x)
        chosen = batch["targets"] >= 0
        # Training multiplies in bfloat16; a loss needs more digits.
        logits, targets = self.llm.lm_head(hidden[chosen]).float(), batch["targets"][chosen]
        weights = batch["weights"][chosen]
        losses = F.cross_entropy(logits, targets, reduction="none")
        right = logits.argmax(-1) == targets
        loss = (losses * weights).sum() / weights.sum()
        if encoded is None:
            return loss, None, {"chat": right.float().mean().item()}
        words = weights == 1
        accuracy = {"word": right[words].float().mean().item() if words.any() else 1.0}
        phones = self.phones(encoded).float().split([len(names) for names in PHONES], -1)
        parts = [
            F.cross_entropy(p.transpose(1, 2), batch["phones"][:, i], ignore_index=-100) for i, p in enumerate(phones)
        ]
        heard = batch["phones"][:, 0]
        spoken = (heard >= 0) & (heard != SILENCE[0])
        if spoken.any():
            accuracy["phone"] = (phones[0].argmax(-1) == heard)[spoken].float().mean().item()
        return loss, sum(parts), accuracy
