"""Matrix products of the step graphs in every precision: MatMul, Gemm or com.microsoft.MatMulNBits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from duologue_export.graph.writer import GraphWriter
from duologue_export.quantize import node_attributes, quantize_blocks

# Rows of a weight that are quantised at once: bounds the scratch memory of the 152k-row output head.
ROWS_AT_ONCE = 8192

# Reads rows [start, stop) of a weight [rows, columns] as float32.
ReadRows = Callable[[int, int], torch.Tensor]


@dataclass(frozen=True)
class Numbers:
    """How a graph stores and computes: `io` is the numpy type of activations, `bits` the weight bits (32, 16, 8 or
    4)."""

    io: type
    bits: int
    target: str

    @classmethod
    def choose(cls, precision: str, target: str) -> "Numbers":
        """fp32 | fp16 | int8 | int4 for cpu | cuda."""
        io = np.float16 if target == "cuda" or precision == "fp16" else np.float32
        return cls(io, {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}[precision], target)


def narrowed(array: np.ndarray, dtype: type) -> np.ndarray:
    """`array` as `dtype`; what does not fit becomes infinite, and the writer refuses it by name."""
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def linear(graph: GraphWriter, numbers: Numbers, name: str, x: str, weight: torch.Tensor) -> str:
    """y = x W^T for a weight [rows, columns] that fits into memory."""
    rows, columns = weight.shape
    if numbers.bits <= 8:
        return _quantized(graph, numbers, name, x, (rows, columns), lambda a, b: weight[a:b])
    constant = graph.constant(f"{name}.weight", narrowed(weight.T.numpy(), numbers.io))
    return graph.node("MatMul", [x, constant], name)


def linear_rows(graph: GraphWriter, numbers: Numbers, name: str, x: str, shape: tuple[int, int], read: ReadRows) -> str:
    """y = x W^T for a large weight that is read a few thousand rows at a time; x is [B, columns]."""
    rows, columns = shape
    if numbers.bits <= 8:
        return _quantized(graph, numbers, name, x, shape, read)
    # Gemm takes the weight as stored, row by row; MatMul would need the transpose, i.e. all of it at once.
    pieces = (read(a, b).numpy() for a, b in _ranges(rows))
    constant = graph.stream(f"{name}.weight", numbers.io, (rows, columns), pieces)
    return graph.node("Gemm", [x, constant], name, transB=1)


def _ranges(rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, ROWS_AT_ONCE):
        yield start, min(rows, start + ROWS_AT_ONCE)


def _quantized(graph: GraphWriter, numbers: Numbers, name: str, x: str, shape: tuple[int, int], read: ReadRows) -> str:
    rows, columns = shape
    scales, zero_points = [], []

    def packed() -> Iterator[np.ndarray]:
        for start, stop in _ranges(rows):
            blocks = quantize_blocks(read(start, stop), numbers.bits)
            scales.append(narrowed(blocks.scales, numbers.io))
            zero_points.append(blocks.zero_points)
            yield blocks.packed

    attributes = node_attributes(rows, columns, numbers.bits, numbers.target)
    block = attributes["block_size"]
    blocks = -(-columns // block)
    weight = graph.stream(f"{name}.weight", np.uint8, (rows, blocks, block * numbers.bits // 8), packed())
    scale = graph.constant(f"{name}.scales", np.concatenate(scales).ravel())
    zero = graph.constant(f"{name}.zero_points", np.concatenate(zero_points).ravel())
    return graph.node("MatMulNBits", [x, weight, scale, zero], name, domain="com.microsoft", **attributes)
