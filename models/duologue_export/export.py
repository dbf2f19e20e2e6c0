"""`export`: checkpoint -> bundle, one sub-module after the other.

Files are written into `<out>.partial`; a finished sub-module leaves a stamp there, so that a run that was interrupted
goes on where it stopped. The folder gets its final name only when the manifest is complete.
"""

import argparse
import errno
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import soundfile
import torch
from tqdm import tqdm

from duologue_export import decoders, ops, publish
from duologue_export.checkpoint import Checkpoint
from duologue_export.errors import ExportError
from duologue_export.inventory import require_complete
from duologue_export.kernel_table import TABLE
from duologue_export.manifest import base_manifest, describe_files, longest_voice_s, merge, sha256, write_manifest
from duologue_export.memory import peak_rss
from duologue_export.modules import frontends
from duologue_export.modules.torch_flow_encoder import MAX_FRAMES

PRECISIONS, TARGETS = ("fp32", "fp16", "int8", "int4"), ("cpu", "cuda")
# Any fixed start noise serves; the reference draws it once, unseeded, when it builds the model (flow_matching.py:33).
NOISE_SEED = 20450505
_VOICE_MIN_S = 1.0
# Below this not even the prompt and one unit fit.
_MIN_KV_CAPACITY = 64


@dataclass(frozen=True)
class Options:
    """What to export; everything here belongs to the stamp of a finished sub-module."""

    precision: str
    target: str
    kv_capacity: int


@dataclass(frozen=True)
class Step:
    """One sub-module: `run(folder)` writes its files and returns its manifest fragment."""

    name: str
    run: Callable[[Path], dict]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `duologue-export export`."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="folder with config.json, safetensors, tokenizer, assets/token2wav",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="bundle folder to write; an older bundle there is replaced at the end"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--target", choices=TARGETS, default="cpu")
    parser.add_argument("--name", help="name of the bundle (default: name of the checkpoint folder)")
    parser.add_argument(
        "--voice", action="append", default=[], metavar="NAME=WAV", help="16 kHz mono reference voice; repeatable"
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="say in the manifest that this speech is noise (tiny_info.json implies it)",
    )
    parser.add_argument(
        "--kv-capacity",
        type=int,
        default=decoders.LLM_CAPACITY,
        help="LLM cache length per session in tokens (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the export and prints one line per sub-module."""
    checkpoint = Checkpoint(args.checkpoint)
    options = Options(args.precision, args.target, args.kv_capacity)
    checkpoint.is_random |= args.random_weights
    voices = [_parse_voice(text) for text in args.voice]
    export_bundle(checkpoint, args.out, options, args.name or args.checkpoint.resolve().name, voices)
    return 0


def export_bundle(
    checkpoint: Checkpoint, out: Path, options: Options, name: str, voices: list[tuple[str, Path]]
) -> None:
    """Writes the bundle `out`. Raises `ExportError` for bad input, an unsupported combination or a full disk; what can
    be told without reading weights is told before the first file is written."""
    if options.target == "cuda" and options.precision == "fp32":
        raise ExportError(
            "--target cuda needs --precision fp16, int8 or int4: "
            "ONNX Runtime has no float32 CUDA kernel of GroupQueryAttention."
        )
    if options.target == "cpu" and options.precision == "fp16":
        raise ExportError(
            "--precision fp16 is for --target cuda; "
            "on the CPU ONNX Runtime computes float16 by converting back and forth."
        )
    if options.kv_capacity < _MIN_KV_CAPACITY:
        raise ExportError(f"--kv-capacity {options.kv_capacity} is too small; {_MIN_KV_CAPACITY} is the least.")
    if options.kv_capacity > checkpoint.llm.max_positions:
        raise ExportError(
            f"--kv-capacity {options.kv_capacity} exceeds the model's {checkpoint.llm.max_positions} positions."
        )
    manifest = base_manifest(checkpoint, name, options.precision, options.target)
    require_complete(checkpoint)
    if checkpoint.has_tts:
        frontends.require_files(checkpoint)
    samples = _read_voices(checkpoint, voices)
    out = publish.prepare(out, checkpoint.folder)
    partial = publish.partial_of(out)
    try:
        (partial / publish.STAMPS).mkdir(parents=True, exist_ok=True)
        identity, kept = _identity(checkpoint, options), set()
        for step in tqdm(_steps(checkpoint, options), desc="export", unit="module", disable=None):
            done = _run_step(step, partial, identity, options.target)
            merge(manifest, done["fragment"])
            kept.update(done["files"])
        # An earlier run with other options may have left files that do not belong to this bundle.
        for file in set(_mtimes(partial)) - kept:
            (partial / file).unlink()
        manifest["voices"] = [_write_voice(partial, voice, values) for voice, values in samples.items()]
        describe_files(partial, manifest)
        write_manifest(partial, manifest)
        publish.publish(partial, out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(
                f"{partial}: no space left on the device while writing {error.filename or 'a sub-module'}. "
                "Free some space and run the same command again; finished sub-modules are kept."
            ) from error
        raise
    tqdm.write(f"wrote {out}: {sum(entry['bytes'] for entry in manifest['files'].values()) / 1e6:.1f} MB")


def _steps(checkpoint: Checkpoint, options: Options) -> list[Step]:
    precision, target = options.precision, options.target

    def module(name: str) -> Step:
        exporter = importlib.import_module(f"duologue_export.modules.{name}")
        return Step(name, lambda folder: exporter.export(checkpoint, folder, precision, target))

    steps = [
        Step("tokenizer", lambda folder: _copy(checkpoint, folder, "tokenizer.json")),
        Step("llm", lambda folder: decoders.export_llm(checkpoint, folder, precision, target, options.kv_capacity)),
    ]
    if checkpoint.has_apm:
        steps.append(module("apm"))
    if checkpoint.has_vision:
        steps.append(module("vision"))
    if checkpoint.has_tts:
        steps += [
            Step("tts", lambda folder: decoders.export_tts(checkpoint, folder, precision, target)),
            module("tts_condition"),
            module("flow"),
            Step("cfm_noise", lambda folder: _write_noise(checkpoint, folder)),
            module("hift"),
            module("frontends"),
        ]
    return steps


def _identity(checkpoint: Checkpoint, options: Options) -> str:
    """Changes whenever the checkpoint, an option, this package or a library that writes graphs does, so that a stamp
    of another run is never taken over."""
    files = [
        (path.relative_to(checkpoint.folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(checkpoint.folder.rglob("*"))
        if path.is_file()
    ]
    package = Path(__file__).parent
    sources = [(path.relative_to(package).as_posix(), sha256(path)) for path in sorted(package.rglob("*.py"))]
    sources.append((TABLE.name, sha256(TABLE)))
    versions = (torch.__version__, onnx.__version__)
    parts = (str(checkpoint.folder.resolve()), files, options, sources, versions)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _run_step(step: Step, partial: Path, identity: str, target: str) -> dict:
    """Runs a step or takes over its stamp; returns the stamp: `identity`, `files` (name -> sha256) and `fragment`."""
    stamp = partial / publish.STAMPS / f"{step.name}.json"
    if stamp.exists():
        saved = json.loads(stamp.read_text(encoding="utf-8"))
        if saved["identity"] == identity and all(
            (partial / file).is_file() and sha256(partial / file) == digest for file, digest in saved["files"].items()
        ):
            tqdm.write(f"{step.name:14} kept from the interrupted run")
            return saved
        stamp.unlink()
    before = _mtimes(partial)
    with peak_rss() as peak:
        fragment = step.run(partial)
    written = {f: size for f, (size, time) in _mtimes(partial).items() if before.get(f) != (size, time)}
    if target == "cuda":
        ops.require_kernels_of([partial / file for file in written if file.endswith(".onnx")])
    # The stamp itself appears at once or not at all.
    digests = {file: sha256(partial / file) for file in written}
    done = {"identity": identity, "files": digests, "fragment": fragment}
    fresh = stamp.with_suffix(".new")
    fresh.write_text(json.dumps(done), encoding="utf-8")
    fresh.replace(stamp)
    tqdm.write(
        f"{step.name:14} {sum(written.values()) / 1e6:9.1f} MB   "
        f"peak RSS {peak.megabytes:8.0f} MB (+{peak.growth_megabytes:.0f})"
    )
    return done


def _mtimes(partial: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(partial).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in partial.rglob("*")
        if path.is_file() and publish.STAMPS not in path.relative_to(partial).parts
    }


def _copy(checkpoint: Checkpoint, folder: Path, name: str) -> dict:
    shutil.copyfile(checkpoint.file(name), folder / name)
    return {}


def _write_noise(checkpoint: Checkpoint, folder: Path) -> dict:
    noise = np.random.Generator(np.random.PCG64(NOISE_SEED)).standard_normal(
        (checkpoint.flow.mel, MAX_FRAMES), dtype=np.float32
    )
    noise.tofile(folder / "cfm_noise.bin")
    return {"flow": {"noise_frames": MAX_FRAMES}}


def _parse_voice(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path or not name.replace("-", "").replace("_", "").isalnum():
        raise ExportError(f"--voice {text!r}: expected NAME=WAV with a name of letters, digits, '-' and '_'.")
    return name, Path(path)


def _read_voices(checkpoint: Checkpoint, voices: list[tuple[str, Path]]) -> dict[str, np.ndarray]:
    if voices and not (checkpoint.has_tts or checkpoint.has_apm):
        raise ExportError("--voice: this checkpoint neither hears nor speaks (init_audio and init_tts are off).")
    longest = longest_voice_s(checkpoint)
    samples: dict[str, np.ndarray] = {}
    for name, path in voices:
        if name in samples:
            raise ExportError(f"--voice {name}: given twice; every voice needs its own name.")
        samples[name] = _read_voice(name, path, longest)
    return samples


def _read_voice(name: str, path: Path, longest: float) -> np.ndarray:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise ExportError(f"--voice {name}: {path} cannot be read as audio ({error}).") from error
    seconds = len(samples) / rate
    if rate != 16000 or samples.shape[1] != 1:
        raise ExportError(
            f"--voice {name}: {path} has {rate} Hz and {samples.shape[1]} channels; convert it to 16000 Hz mono "
            "(ffmpeg -i IN -ar 16000 -ac 1 OUT.wav)."
        )
    if not _VOICE_MIN_S <= seconds <= longest:
        raise ExportError(
            f"--voice {name}: {path} is {seconds:.1f} s long; this model takes {_VOICE_MIN_S:.1f} to {longest:.1f} s."
        )
    if not np.isfinite(samples).all():
        raise ExportError(f"--voice {name}: {path} holds NaN or infinite samples.")
    return samples


def _write_voice(folder: Path, name: str, samples: np.ndarray) -> dict:
    (folder / "voices").mkdir(exist_ok=True)
    target = folder / "voices" / f"{name}.wav"
    soundfile.write(target, samples, 16000, subtype="PCM_16")
    return {"name": name, "file": f"voices/{name}.wav"}
