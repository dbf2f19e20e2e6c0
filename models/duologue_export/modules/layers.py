"""What the torch modules share: weights looked up by name, and the handful of layers built on them."""

import torch
import torch.nn.functional as F
from torch import nn


class WeightedModule(nn.Module):
    """A module whose weights stay in a plain dict under their checkpoint names.

    The modules here are specifications to compare graphs with, never trained, so there is no need to mirror every
    layer as an `nn.Parameter`; the names in `forward` are the names in the checkpoint.
    """

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        self.w = weights

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """x @ W.T (+ b when the checkpoint has one)."""
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, x: torch.Tensor, name: str, eps: float) -> torch.Tensor:
        """Layer normalisation over the last axis."""
        weight = self.w[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self.w[f"{name}.bias"], eps)

    def conv(self, x: torch.Tensor, name: str, stride: int = 1, padding: int = 0, dilation: int = 1) -> torch.Tensor:
        """1-D convolution, [B, C, T] layout."""
        weight, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        return F.conv1d(x, weight, bias, stride=stride, padding=padding, dilation=dilation)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention on [B, T, heads * head_dim]; `bias` is added to the scores [B, heads, Tq, Tk]."""

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = split(q), split(k), split(v)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
