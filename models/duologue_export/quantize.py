"""Weight-only quantisation in ONNX Runtime's MatMulNBits layout.

A weight [N, K] is cut along K into blocks of 32. Each block stores q = round(w / scale) + zero_point with `bits` bits,
so that w ~ (q - zero_point) * scale. Both ends of the block's range are searched a little inwards, because in 4 bits
losing an outlier costs less than coarser steps for the other 31 values.
"""

from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 32
# CPU kernels then quantise the activations to 8 bits too (MatMulNBits accuracy_level 4); measured 2 to 80 times faster
# than level 0.
CPU_ACCURACY_LEVEL = 4
_SHRINKS = {4: (1.0, 0.95, 0.9, 0.85, 0.8), 8: (1.0,)}


@dataclass(frozen=True)
class Blocks:
    """Quantised weight: packed [N, blocks, BLOCK * bits / 8] uint8, scales [N, blocks] float32, zero_points [N, bytes]
    uint8."""

    packed: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray


def quantize_blocks(weight: torch.Tensor, bits: int) -> Blocks:
    """Quantises [N, K] float32; K is padded with zeros to whole blocks."""
    rows, columns = weight.shape
    count = -(-columns // BLOCK)
    padded = torch.nn.functional.pad(weight, (0, count * BLOCK - columns))
    groups = padded.reshape(rows, count, BLOCK)
    top = 2**bits - 1
    # The range always holds zero: padding, and zeros in the weights, stay exact.
    low = groups.amin(-1).clamp(max=0.0)
    high = groups.amax(-1).clamp(min=0.0)
    best_error = best_scale = best_zero = None
    for shrink in _SHRINKS[bits]:
        scale = ((high - low) * (shrink / top)).clamp(min=1e-10)
        zero = (-low * shrink / scale).round().clamp(0, top)
        if len(_SHRINKS[bits]) == 1:
            best_scale, best_zero = scale, zero
            break
        error = (_dequantize(_round(groups, scale, zero, top), scale, zero) - groups).square().sum(-1)
        if best_error is None:
            best_error, best_scale, best_zero = error, scale, zero
        else:
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_zero = torch.where(better, zero, best_zero)
    values = _round(groups, best_scale, best_zero, top).to(torch.uint8).numpy()
    return Blocks(_pack(values, bits), best_scale.numpy(), _pack_rows(best_zero.to(torch.uint8).numpy(), bits))


def _round(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, top: int) -> torch.Tensor:
    return ((groups / scale[..., None]).round_() + zero[..., None]).clamp_(0, top)


def _dequantize(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return (values - zero[..., None]) * scale[..., None]


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    # Low nibble first.
    return values if bits == 8 else values[..., 0::2] | (values[..., 1::2] << 4)


def _pack_rows(values: np.ndarray, bits: int) -> np.ndarray:
    if bits == 4 and values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    return _pack(values, bits)


def node_attributes(rows: int, columns: int, bits: int, target: str) -> dict:
    """Attributes of the MatMulNBits node for a weight [rows, columns]."""
    level = {"accuracy_level": CPU_ACCURACY_LEVEL} if target == "cpu" else {}
    return {"K": columns, "N": rows, "bits": bits, "block_size": BLOCK, **level}
