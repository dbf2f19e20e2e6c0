#!/usr/bin/env python3
"""Builds a bundle with the sizes of MiniCPM-o 4.5 and random weights, in two steps that can be run apart.

  true_shapes.py checkpoint --work DIR [--layers N] [--device cuda]
  true_shapes.py bundle --work DIR --precision fp16 --target cuda

Everything is done by `duologue_export`, the project's exporter: this file chooses the sizes and makes a voice. The
checkpoint takes 18 GB with all layers, a bundle 20 GB in fp16 and 12 GB in int4; both are written piece by piece.
"""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models"))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from duologue_export.cli import main as exporter  # noqa: E402

# As the released checkpoint has them.
SHARDS = 4
VOICE_RATE = 16000
# Most voice prompts are about so long; it decides the size of a session's vocoder caches.
VOICE_SECONDS = 5


def voice(path: Path) -> None:
    """Five seconds of syllables: noise through two formants, four times a second. What it says does not matter."""
    draw = np.random.default_rng(0)
    time = np.arange(VOICE_SECONDS * VOICE_RATE) / VOICE_RATE
    buzz = np.sign(np.sin(2 * np.pi * 120 * time)) * 0.3 + draw.normal(0, 0.1, len(time))
    formants = np.sin(2 * np.pi * 600 * time) + 0.5 * np.sin(2 * np.pi * 1700 * time)
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, 1)
    soundfile.write(path, 0.3 * buzz * formants * syllables, VOICE_RATE, subtype="PCM_16")


def checkpoint(args: argparse.Namespace) -> int:
    """Writes `work/checkpoint`; a half-written one is thrown away."""
    out = args.work / "checkpoint"
    shutil.rmtree(out, ignore_errors=True)
    args.work.mkdir(parents=True, exist_ok=True)
    voice(args.work / "voice.wav")
    layers = [] if args.layers is None else ["--layers", str(args.layers)]
    sizes = ["tiny", "--dims", args.dims, "--seed", "0", "--out", str(out)]
    return exporter([*sizes, *layers, "--shards", str(SHARDS), "--device", args.device])


def bundle(args: argparse.Namespace) -> int:
    """Writes `work/bundle-PRECISION`; run again, it goes on where it stopped."""
    folder = [f"--checkpoint={args.work / 'checkpoint'}", f"--out={args.work / f'bundle-{args.precision}'}"]
    kind = [f"--precision={args.precision}", f"--target={args.target}", f"--kv-capacity={args.kv_capacity}"]
    name = f"--name=true-shapes-{args.precision}"
    return exporter(["export", *folder, *kind, name, f"--voice=default={args.work / 'voice.wav'}", "--random-weights"])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    first = steps.add_parser("checkpoint", help="random weights")
    first.add_argument("--layers", type=int, help="at most so many layers of each kind (default: all)")
    first.add_argument("--dims", default="release", help="sizes, as `duologue-export tiny` takes them")
    first.add_argument("--device", default="cpu", help="where the weights are drawn: cpu, or cuda, which is faster")
    first.set_defaults(run=checkpoint)
    second = steps.add_parser("bundle", help="checkpoint to bundle")
    second.add_argument("--precision", required=True, choices=("fp32", "fp16", "int8", "int4"))
    second.add_argument("--target", required=True, choices=("cpu", "cuda"))
    second.add_argument("--kv-capacity", type=int, default=8192, help="LLM cache of a session, in tokens")
    second.set_defaults(run=bundle)
    for step in (first, second):
        step.add_argument("--work", type=Path, required=True, help="folder for checkpoint and bundles")
    args = parser.parse_args()
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
