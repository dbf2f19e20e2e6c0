#!/usr/bin/env python3
"""Packs what a GPU machine without a network lacks, in two parts that can be carried one at a time.

  prepare.py --out out/gpu/kit [--python 3.12] [--sm 90]

kit-1.tar.xz: ONNX Runtime's CUDA provider, its code for other GPUs blanked.
kit-2.tar.xz: the programs `duologue` and `engine_load` (build them first), ONNX Runtime itself for them and for Python,
and the pip packages that the exporter needs and that PyTorch's image does not have.

The scripts beside this file and models/duologue_export are not packed: they belong to the tree. A part above --limit-
mib is an error.
"""

import argparse
import fnmatch
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import prune_fatbin

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "models" / "requirements.txt"
PROGRAMS = ("duologue", "engine_load")
# What the exporter needs and images with PyTorch mostly lack.
EXTRA = ("soundfile", "cffi", "pycparser")
# pip takes a wheel only for a platform that is named exactly.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
CAPI = "onnxruntime/capi"
CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
# What is kept of the wheel: the programs look for the library beside themselves, Python in its package.
LIBRARIES = (f"{CAPI}/libonnxruntime.so.*", f"{CAPI}/libonnxruntime_providers_shared.so", f"{CAPI}/{CUDA_PROVIDER}")
MODULES = ("onnxruntime/*.py", f"{CAPI}/*.py", f"{CAPI}/onnxruntime_pybind11_state*.so")


def pinned(name: str) -> str:
    """The version of a package in models/requirements.txt, as `==version`; nothing for one that is not there."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix(name) for line in lines if line.startswith(f"{name}==")), "")


def download(requirements: list[str], python: str, folder: Path) -> list[Path]:
    """The wheels of these packages for another Python than this one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    kind = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run([*command, *kind, *platforms, "--dest", str(folder), *requirements], check=True)
    return sorted(folder.glob("*.whl"))


def take(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    """Writes one member of a wheel to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(archive.read(name))


def unpack_runtime(wheel: Path, part_1: Path, part_2: Path, sm: int) -> None:
    """Sorts the files of ONNX Runtime's wheel into the two parts and prunes the CUDA provider."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            # A pattern's star must not reach into folders.
            matches = [
                p for p in (*LIBRARIES, *MODULES) if fnmatch.fnmatch(name, p) and name.count("/") == p.count("/")
            ]
            if not matches:
                continue
            if matches[0] in MODULES:
                take(archive, name, part_2 / "python" / name)
            elif name.endswith(CUDA_PROVIDER):
                data = bytearray(archive.read(name))
                report = prune_fatbin.prune(data, sm)
                print(f"{CUDA_PROVIDER}: kept {_mib(report.kept)} of machine code, blanked {_mib(report.blanked)}")
                (part_1 / "bin").mkdir(parents=True)
                (part_1 / "bin" / CUDA_PROVIDER).write_bytes(data)
            else:
                take(archive, name, part_2 / "bin" / Path(name).name)


def _mib(sizes: dict[str, int]) -> str:
    return f"{sum(sizes.values()) / 2**20:.0f} MiB ({', '.join(sorted(sizes))})"


def programs(folder: Path, target: Path) -> None:
    """Copies the programs without their symbols."""
    target.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        if not (folder / name).is_file():
            sys.exit(f"{folder / name} is missing; run `cargo build --release --bin duologue --bin engine_load` first")
        subprocess.run(["strip", "-o", str(target / name), str(folder / name)], check=True)


def pack(folder: Path, archive: Path, limit_mib: float) -> None:
    """Writes `folder` as a tar.xz; one that is too large to be carried is an error."""
    with tarfile.open(archive, "w:xz", preset=6) as tar:
        tar.add(folder, arcname=".")
    size = archive.stat().st_size / 2**20
    print(f"{archive}: {size:.1f} MiB")
    if size > limit_mib:
        sys.exit(f"error: {archive} has {size:.1f} MiB, a call carries {limit_mib} MiB (--limit-mib)")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu" / "kit")
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine")
    parser.add_argument("--sm", type=int, default=90, help="its GPU's compute capability times ten")
    parser.add_argument("--programs", type=Path, default=ROOT / "target" / "release", help="where they were built")
    parser.add_argument("--limit-mib", type=float, default=56, help="most that a part may have; the tree travels too")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        part_1, part_2 = Path(scratch, "1"), Path(scratch, "2")
        programs(args.programs, part_2 / "bin")
        wheels = Path(scratch, "wheels")
        runtime = f"onnxruntime-gpu{pinned('onnxruntime')}"
        for wheel in download([runtime, *(f"{name}{pinned(name)}" for name in EXTRA)], args.python, wheels):
            if wheel.name.startswith("onnxruntime_gpu"):
                unpack_runtime(wheel, part_1, part_2, args.sm)
            else:
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(part_2 / "python")
        pack(part_1, args.out / "kit-1.tar.xz", args.limit_mib)
        pack(part_2, args.out / "kit-2.tar.xz", args.limit_mib)
    return 0


if __name__ == "__main__":
    sys.exit(main())
