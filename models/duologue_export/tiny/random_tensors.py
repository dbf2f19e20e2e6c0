"""Named random tensors, made one block of rows at a time.

Each tensor has its own generator seeded from (seed, name), so its values depend neither on the order in which tensors
are written nor on which others exist, and a tensor never has to be in memory as a whole. They do depend on the device
that draws them: a GPU draws other numbers, a hundred times faster, which matters for checkpoints of full size."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

# Elements per block: 64 MB of float32. Also part of the definition of the values, so it is a constant.
BLOCK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: mean + std * normal, then `edit(first_row, block)` on each block of rows when given."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0
    edit: Callable[[int, torch.Tensor], torch.Tensor] | None = None

    def blocks(self, seed: int, device: str = "cpu") -> Iterator[torch.Tensor]:
        """Float32 blocks [rows, ...] in order, in the memory of `device`, which draws them; together they are the
        tensor. `edit` runs on the CPU."""
        generator = generator_for(seed, self.name, device)
        row = math.prod(self.shape[1:])
        step = max(1, BLOCK_ELEMENTS // row)
        for first in range(0, self.shape[0], step):
            count = min(step, self.shape[0] - first)
            block = torch.randn((count, *self.shape[1:]), generator=generator, device=device) * self.std + self.mean
            yield block if self.edit is None else self.edit(first, block.cpu())

    def tensor(self, seed: int) -> torch.Tensor:
        """The whole tensor, float32."""
        return torch.cat(list(self.blocks(seed)))


def generator_for(seed: int, name: str, device: str = "cpu") -> torch.Generator:
    """Generator of the stream `name` under `seed`."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))


def linear(name: str, outputs: int, inputs: int, gain: float = 1.0, bias: float | None = 0.05) -> list[TensorSpec]:
    """`name`.weight [outputs, inputs] with deviation gain / sqrt(inputs), and `name`.bias unless `bias` is None."""
    specs = [TensorSpec(f"{name}.weight", (outputs, inputs), gain / math.sqrt(inputs))]
    return specs if bias is None else [*specs, TensorSpec(f"{name}.bias", (outputs,), bias)]


def conv(name: str, outputs: int, inputs: int, *kernel: int, gain: float = 1.0) -> list[TensorSpec]:
    """`name`.weight [outputs, inputs, *kernel] scaled by its fan-in, and `name`.bias."""
    fan_in = inputs * math.prod(kernel)
    return [
        TensorSpec(f"{name}.weight", (outputs, inputs, *kernel), gain / math.sqrt(fan_in)),
        TensorSpec(f"{name}.bias", (outputs,), 0.05),
    ]


def norm(name: str, width: int, bias: bool = True, mean: float = 1.0) -> list[TensorSpec]:
    """Scale around `mean` and, for layer norms, a small shift: exact ones and zeros would hide a forgotten or swapped
    norm."""
    specs = [TensorSpec(f"{name}.weight", (width,), 0.1, mean)]
    return [*specs, TensorSpec(f"{name}.bias", (width,), 0.1)] if bias else specs
