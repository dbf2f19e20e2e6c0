#!/usr/bin/env python3
"""Blanks the machine code of other GPUs in a CUDA library, so that it compresses to what one GPU needs.

  prune_fatbin.py LIBRARY OUT --sm 90

nvcc puts code for many GPU generations side by side into the section `.nv_fatbin` of an ELF file: containers ("fat
binaries") one after the other, each with one entry per generation. The driver reads the heads of a container's entries
and loads the one that fits. Here the bodies of all entries that it will not load are overwritten with zeros. No head,
offset or size changes, so the file loads as before, and zeros compress to nothing.

An entry stays if the driver could choose it: machine code for exactly this GPU where a container has some; otherwise
machine code for an older GPU of the same major version, and PTX, from which the driver compiles for any later GPU.
"""

import argparse
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTION = ".nv_fatbin"
# Head of a container: u32 magic, u16 version, u16 size of this head, u64 bytes of entries behind it.
CONTAINER = struct.Struct("<IHHQ")
MAGIC = 0xBA55ED50
VERSION = 1
# Head of an entry, as far as it is read: u16 kind, u16 version, u32 size of the whole head, u64 bytes of the body; at
# 28 the GPU that it is for (90 for sm_90 and sm_90a).
ENTRY = struct.Struct("<HHIQ")
ARCH = struct.Struct("<I")
ARCH_AT = 28
PTX, MACHINE_CODE = 1, 2


class FatbinError(Exception):
    """The file is not laid out as described above."""


@dataclass(frozen=True)
class Entry:
    """One entry of a container; `start` and `size` are those of its body in the file."""

    kind: int
    arch: int
    start: int
    size: int

    @property
    def label(self) -> str:
        """As NVIDIA's tools write it."""
        return f"{'sm' if self.kind == MACHINE_CODE else 'compute'}_{self.arch}"

    def runs_on(self, sm: int) -> bool:
        """The driver can use it on this GPU. Machine code runs within a major version only, PTX on everything later."""
        same_major = self.arch // 10 == sm // 10
        return self.arch <= sm and (self.kind == PTX or (self.kind == MACHINE_CODE and same_major))


@dataclass
class Report:
    """Bytes of bodies by label."""

    kept: Counter = field(default_factory=Counter)
    blanked: Counter = field(default_factory=Counter)


def section(elf: bytes | bytearray, name: str) -> tuple[int, int]:
    """Offset and size of a section of a little-endian ELF64 file (System V ABI, chapter 4)."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise FatbinError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    width, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)

    def head(index: int) -> tuple[int, int, int]:
        at = table + index * width
        (name_at,) = struct.unpack_from("<I", elf, at)
        return name_at, *struct.unpack_from("<QQ", elf, at + 0x18)

    _, names, _ = head(names_index)
    wanted = name.encode() + b"\0"
    for index in range(count):
        name_at, offset, size = head(index)
        if elf[names + name_at : names + name_at + len(wanted)] == wanted:
            return offset, size
    raise FatbinError(f"no section {name}: this library holds no CUDA code")


def containers(data: bytes | bytearray, start: int, size: int) -> Iterator[list[Entry]]:
    """The containers between `start` and `start + size`, which zeros may separate."""
    at, end = start, start + size
    magic = struct.pack("<I", MAGIC)
    while True:
        found = data.find(magic, at, end)
        gap = data[at : end if found < 0 else found]
        if gap.strip(b"\0"):
            raise FatbinError(f"{len(gap)} bytes at {at:#x} are neither a container nor padding")
        if found < 0:
            return
        _, version, head, length = CONTAINER.unpack_from(data, found)
        at, stop = found + head, found + head + length
        if version != VERSION or stop > end:
            raise FatbinError(f"the container at {found:#x} has version {version} and ends at {stop:#x}")
        entries = []
        while at < stop:
            kind, _, entry_head, body = ENTRY.unpack_from(data, at)
            (arch,) = ARCH.unpack_from(data, at + ARCH_AT)
            entries.append(Entry(kind, arch, at + entry_head, body))
            if entry_head < ARCH_AT + ARCH.size or entries[-1].start + body > stop:
                raise FatbinError(f"the entry at {at:#x} does not fit its container")
            at += entry_head + body
        yield entries


def needed(entries: list[Entry], sm: int) -> list[Entry]:
    """The entries of a container that the driver may choose on a GPU of compute capability `sm`."""
    exact = [entry for entry in entries if entry.kind == MACHINE_CODE and entry.arch == sm]
    return exact or [entry for entry in entries if entry.runs_on(sm)]


def prune(data: bytearray, sm: int) -> Report:
    """Blanks in place; raises `FatbinError` when the layout is unknown or nothing is left for this GPU."""
    report = Report()
    for entries in containers(data, *section(data, SECTION)):
        kept = needed(entries, sm)
        for entry in entries:
            if entry in kept:
                report.kept[entry.label] += entry.size
            else:
                report.blanked[entry.label] += entry.size
                data[entry.start : entry.start + entry.size] = bytes(entry.size)
    if not report.kept:
        raise FatbinError(f"no code for sm_{sm}; the library has {', '.join(sorted(report.blanked)) or 'none at all'}")
    return report


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--sm",
        type=int,
        default=90,
        help="compute capability times ten (default 90: H100, H200)",
    )
    args = parser.parse_args()
    data = bytearray(args.library.read_bytes())
    try:
        report = prune(data, args.sm)
    except FatbinError as error:
        print(f"error: {args.library}: {error}", file=sys.stderr)
        return 1
    args.out.write_bytes(data)
    for title, sizes in (("kept", report.kept), ("blanked", report.blanked)):
        for label, size in sorted(sizes.items()):
            print(f"{title:8} {label:12} {size / 2**20:7.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
