"""safetensors files written tensor by tensor, in blocks: memory stays at one block however large the checkpoint is.

Layout of a file: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, then the data in header order."""

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from duologue_export.tiny.random_tensors import TensorSpec

DTYPES = {"bf16": ("BF16", torch.bfloat16, 2), "fp32": ("F32", torch.float32, 4)}


def write_checkpoint(
    folder: Path,
    specs: list[TensorSpec],
    blocks: Callable[[TensorSpec], Iterator[torch.Tensor]],
    dtype: str,
    shards: int,
    advance: Callable[[int], object],
) -> int:
    """Writes model.safetensors, or `shards` files of similar size plus model.safetensors.index.json; returns the bytes
    of all tensors.

    `blocks` yields the float32 blocks of a tensor; `advance` is told the bytes of each block as it is written."""
    width = DTYPES[dtype][2]
    total = sum(math.prod(s.shape) for s in specs) * width
    groups: list[list[TensorSpec]] = [[] for _ in range(shards)]
    done, last = 0, -1
    for i, spec in enumerate(specs):
        # By size, but every file gets at least one tensor: never skip a file, and leave enough tensors for the files
        # to come.
        last = max(min(done * shards // total, last + 1), shards - (len(specs) - i))
        groups[last].append(spec)
        done += math.prod(spec.shape) * width
    files = (
        ["model.safetensors"]
        if shards == 1
        else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    )
    for file, group in zip(files, groups, strict=True):
        _write_file(folder / file, group, blocks, dtype, advance)
    if shards > 1:
        weight_map = {spec.name: file for file, group in zip(files, groups, strict=True) for spec in group}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _write_file(path: Path, specs: list[TensorSpec], blocks: Callable, dtype: str, advance: Callable) -> None:
    name, torch_type, width = DTYPES[dtype]
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        size = math.prod(spec.shape) * width
        header[spec.name] = {"dtype": name, "shape": list(spec.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for spec in specs:
            for block in blocks(spec):
                data = block.to(torch_type).contiguous().cpu().view(torch.uint8).numpy()
                file.write(data.data)
                advance(data.nbytes)
