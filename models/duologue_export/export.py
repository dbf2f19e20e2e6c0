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
import soundfile
from tqdm import tqdm

from duologue_export import __version__, decoders, ops
from duologue_export.checkpoint import Checkpoint
from duologue_export.errors import ExportError
from duologue_export.manifest import base_manifest, describe_files, merge, write_manifest
from duologue_export.memory import peak_rss

PRECISIONS, TARGETS = ("fp32", "fp16", "int8", "int4"), ("cpu", "cuda")
# 1000 mel frames are 20 s: the longest prompt plus chunk that the vocoder caches hold (token2wav.max_frames).
NOISE_FRAMES = 1000
# Any fixed start noise serves; the reference draws it once, unseeded, when it builds the model (flow_matching.py:33).
NOISE_SEED = 20450505
_STAMPS = ".stamps"
_VOICE_MIN_S, _VOICE_MAX_S = 1.0, 30.0


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
    """Writes the bundle `out`. Raises `ExportError` for bad input, an unsupported combination or a full disk."""
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
    if options.kv_capacity > checkpoint.llm.max_positions:
        raise ExportError(
            f"--kv-capacity {options.kv_capacity} exceeds the model's {checkpoint.llm.max_positions} positions."
        )
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out}: exists and is not a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").exists():
        raise ExportError(f"{out}: exists and is not a bundle; choose another --out or empty it.")
    partial = out.with_name(out.name + ".partial")
    try:
        (partial / _STAMPS).mkdir(parents=True, exist_ok=True)
        manifest = base_manifest(checkpoint, name, options.precision, options.target)
        identity, kept = _identity(checkpoint, options), set()
        for step in tqdm(_steps(checkpoint, options), desc="export", unit="module", disable=None):
            done = _run_step(step, partial, identity)
            merge(manifest, done["fragment"])
            kept.update(done["files"])
        # An earlier run with other options may have left files that do not belong to this bundle.
        for file in set(_mtimes(partial)) - kept:
            (partial / file).unlink()
        manifest["voices"] = [_copy_voice(partial, voice, path) for voice, path in voices]
        describe_files(partial, manifest)
        write_manifest(partial, manifest)
        if options.target == "cuda":
            ops.require_cuda_kernels(partial)
        _publish(partial, out)
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
    """Changes whenever a source file or an option does, so that a stamp of another run is never taken over."""
    files = [
        (path.relative_to(checkpoint.folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(checkpoint.folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256(repr((__version__, str(checkpoint.folder.resolve()), files, options)).encode()).hexdigest()


def _run_step(step: Step, partial: Path, identity: str) -> dict:
    """Runs a step or takes over its stamp; returns the stamp: `identity`, `files` (name -> bytes) and `fragment`."""
    stamp = partial / _STAMPS / f"{step.name}.json"
    if stamp.exists():
        saved = json.loads(stamp.read_text(encoding="utf-8"))
        same = saved["identity"] == identity
        if same and all(
            (partial / f).exists() and (partial / f).stat().st_size == n for f, n in saved["files"].items()
        ):
            tqdm.write(f"{step.name:14} kept from the interrupted run")
            return saved
        stamp.unlink()
    before = _mtimes(partial)
    with peak_rss() as peak:
        fragment = step.run(partial)
    written = {f: size for f, (size, time) in _mtimes(partial).items() if before.get(f) != (size, time)}
    # The stamp itself appears at once or not at all.
    done = {"identity": identity, "files": written, "fragment": fragment}
    fresh = stamp.with_suffix(".new")
    fresh.write_text(json.dumps(done))
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
        if path.is_file() and _STAMPS not in path.parts
    }


def _publish(partial: Path, out: Path) -> None:
    wanted = set(json.loads((partial / "manifest.json").read_text(encoding="utf-8"))["files"]) | {"manifest.json"}
    shutil.rmtree(partial / _STAMPS)
    assert {name for name in _mtimes(partial)} == wanted, (
        "the manifest does not list exactly the written files. This is a bug."
    )
    if out.exists():
        old = out.with_name(out.name + ".old")
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old)
    else:
        partial.rename(out)


def _copy(checkpoint: Checkpoint, folder: Path, name: str) -> dict:
    shutil.copyfile(checkpoint.file(name), folder / name)
    return {}


def _write_noise(checkpoint: Checkpoint, folder: Path) -> dict:
    noise = np.random.Generator(np.random.PCG64(NOISE_SEED)).standard_normal(
        (checkpoint.flow.mel, NOISE_FRAMES), dtype=np.float32
    )
    noise.tofile(folder / "cfm_noise.bin")
    return {"flow": {"noise_frames": NOISE_FRAMES}}


def _parse_voice(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path or not name.replace("-", "").replace("_", "").isalnum():
        raise ExportError(f"--voice {text!r}: expected NAME=WAV with a name of letters, digits, '-' and '_'.")
    return name, Path(path)


def _copy_voice(folder: Path, name: str, path: Path) -> dict:
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
    if not _VOICE_MIN_S <= seconds <= _VOICE_MAX_S:
        raise ExportError(
            f"--voice {name}: {path} is {seconds:.1f} s long; {_VOICE_MIN_S:.0f} to {_VOICE_MAX_S:.0f} s are useful."
        )
    if not np.isfinite(samples).all():
        raise ExportError(f"--voice {name}: {path} holds NaN or infinite samples.")
    (folder / "voices").mkdir(exist_ok=True)
    target = folder / "voices" / f"{name}.wav"
    soundfile.write(target, samples, 16000, subtype="PCM_16")
    return {"name": name, "file": f"voices/{name}.wav"}
