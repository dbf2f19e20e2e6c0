"""Plain torch version of the step graphs: what llm.onnx and tts.onnx are compared with (Qwen3 and Llama of
transformers 4.51).

Weights are read layer by layer at every call, so that the full-size model is checked in the memory of its largest
layer. On a GPU, which has room for all of them, they are read once and stay.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import DecoderDims
from duologue_export.graph.decoder import DecoderSource


class TorchDecoder:
    """One sequence with its cache on `device`. `keys[i]`, `values[i]`: [kv_heads, length, head_dim] float32, keys after
    rotation."""

    def __init__(self, dims: DecoderDims, source: DecoderSource, device: str = "cpu"):
        self.dims = dims
        self.source = source
        self.device = device
        self._kept: dict[str, torch.Tensor] = {}
        empty = torch.zeros(dims.kv_heads, 0, dims.head_dim, device=device)
        self.keys = [empty] * dims.layers
        self.values = [empty] * dims.layers

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self.keys[0].shape[1]

    @torch.inference_mode()
    def step(self, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """embeds [S, hidden] -> (logits [vocab] of the last position, hidden [S, hidden] after the final norm), all on
        the CPU."""
        x = embeds.to(self.device, torch.float32)
        start = self.length
        for layer in range(self.dims.layers):
            x = x + self._attention(layer, self._rms(x, self._weight(f"layers.{layer}.input_layernorm")), start)
            x = x + self._mlp(layer, self._rms(x, self._weight(f"layers.{layer}.post_attention_layernorm")))
        hidden = self._rms(x, self._weight("norm"))
        head = self._on_device("head", lambda: self.source.head(0, self.dims.vocab))
        return (head @ hidden[-1]).cpu(), hidden.cpu()

    def _weight(self, name: str) -> torch.Tensor:
        return self._on_device(name, lambda: self.source.weights.tensor(f"{self.source.prefix}{name}.weight"))

    def _on_device(self, name: str, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        if self.device == "cpu":
            return read()
        if name not in self._kept:
            self._kept[name] = read().to(self.device)
        return self._kept[name]

    def _rms(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.dims.rms_eps)

    def _rotate(self, x: torch.Tensor, start: int) -> torch.Tensor:
        # x [heads, S, head_dim], half-split rotation.
        half = self.dims.head_dim // 2
        exponents = torch.arange(half, dtype=torch.float32, device=self.device) * 2 / self.dims.head_dim
        positions = torch.arange(start, start + x.shape[1], dtype=torch.float32, device=self.device)
        angles = torch.outer(positions, 1.0 / self.dims.rope_theta**exponents)
        cos, sin = angles.cos(), angles.sin()
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def _heads(self, layer: int, kind: str, x: torch.Tensor) -> torch.Tensor:
        name = f"layers.{layer}.self_attn.{kind}"
        split = (x @ self._weight(f"{name}_proj").T).unflatten(-1, (-1, self.dims.head_dim))
        if self.source.qk_norm and kind != "v":
            split = self._rms(split, self._weight(f"{name}_norm"))
        return split.transpose(0, 1)

    def _attention(self, layer: int, x: torch.Tensor, start: int) -> torch.Tensor:
        query = self._rotate(self._heads(layer, "q", x), start)
        self.keys[layer] = torch.cat([self.keys[layer], self._rotate(self._heads(layer, "k", x), start)], dim=1)
        self.values[layer] = torch.cat([self.values[layer], self._heads(layer, "v", x)], dim=1)
        groups = self.dims.heads // self.dims.kv_heads
        key, value = (t.repeat_interleave(groups, dim=0) for t in (self.keys[layer], self.values[layer]))
        visible = torch.ones(x.shape[0], key.shape[1], dtype=torch.bool, device=self.device).tril(diagonal=start)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return out.transpose(0, 1).flatten(1) @ self._weight(f"layers.{layer}.self_attn.o_proj").T

    def _mlp(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        name = f"layers.{layer}.mlp"
        inner = F.silu(x @ self._weight(f"{name}.gate_proj").T) * (x @ self._weight(f"{name}.up_proj").T)
        return inner @ self._weight(f"{name}.down_proj").T


def llm_source(checkpoint: Checkpoint) -> DecoderSource:
    """Where the LLM's tensors are; the head is read row by row."""
    dims, weights = checkpoint.llm, checkpoint.weights
    name = "llm.lm_head.weight"
    weights.require(name, (dims.vocab, dims.hidden))
    return DecoderSource(weights, "llm.model.", lambda a, b: weights.rows(name, a, b), qk_norm=True, hidden_output=True)


def tts_source(checkpoint: Checkpoint) -> DecoderSource:
    """Where the tts tensors are. Weight normalisation of the head is folded into one table, which is small enough to
    hold."""
    dims = checkpoint.tts
    head = checkpoint.weights.weight("tts.head_code.0", (dims.vocab, dims.hidden))
    return DecoderSource(checkpoint.weights, "tts.model.", lambda a, b: head[a:b], qk_norm=False, hidden_output=False)
