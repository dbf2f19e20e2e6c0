"""Exports the trained parts: checkpoint folder, ONNX bundle, and what this model wants different from the release's
defaults.

Decisions and codes are the most likely ones (the model is small and sure of few things), nothing is penalised for
repeating itself (it counts, spells and says things again), and it may answer in the first second.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch

from duologue_export.checkpoint import Checkpoint
from duologue_export.export import Options, export_bundle
from mini import checkpoint
from mini.corpus import SILENT_CODE
from mini.hearing import Hearing, HearingDims
from mini.store import load_small, rows_by_word
from mini.train_speaking import TABLES
from mini.vocabulary import Vocabulary
from mini.voice import Speaking

NAME = "duologue-mini"
SUGGESTIONS = [
    "What is your name?",
    "What is seven plus three?",
    "What is the capital of Norway?",
    "Count to ten.",
    "Spell rainbow.",
    "Tell me a joke.",
]
KV_CAPACITY = 4096
CHANGES = {
    "prompt": {"typed": "lower_case"},
    "duplex": {"force_listen_count": 0},
    "sampling": {"decode_mode": "greedy", "repetition_penalty": 1.0, "length_penalty": 1.0},
    "tts": {"temperature": 0.05, "repetition_penalty": 1.0},
    "token2wav": {"silence_token": SILENT_CODE},
    "voice": {"fixed": True},
}
# The voice prompt is silence (see `checkpoint`); the exporter takes nothing shorter.
PROMPT_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini export`."""
    parser.add_argument(
        "--checkpoints", type=Path, default=Path(__file__).parent / "checkpoints", help="the small checkpoints"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("out/mini"), help="the checkpoint folder is written to WORK/checkpoint"
    )
    parser.add_argument("--out", type=Path, required=True, help="bundle folder")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")


def load(folder: Path, vocabulary: Vocabulary) -> tuple[Hearing, Speaking, dict, dict]:
    """The four trained parts. Raises `FileNotFoundError` for one that has not been trained."""
    found = {name: load_small(folder / f"{name}.pt") for name in ("hearing", "speaking", "flow", "hift")}
    hearing = Hearing(HearingDims(**{**found["hearing"]["dims"], "vocab": vocabulary.rows}))
    rows_by_word(found["hearing"]["weights"], found["hearing"]["words"], hearing, vocabulary)
    speaking = Speaking(vocabulary.rows)
    rows_by_word(found["speaking"]["weights"], found["speaking"]["words"], speaking, vocabulary, TABLES)
    return hearing.eval(), speaking.eval(), found["flow"]["weights"], found["hift"]["weights"]


def adjust(bundle: Path) -> None:
    """Writes `CHANGES` into the bundle's manifest."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for section, values in CHANGES.items():
        unknown = set(values) - set(manifest[section])
        if unknown:
            raise KeyError(f"{path}: section {section} has no {sorted(unknown)}")
        manifest[section].update(values)
    manifest["suggestions"] = SUGGESTIONS
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_checkpoint(parts: tuple[Hearing, Speaking, dict, dict], vocabulary: Vocabulary, folder: Path) -> Checkpoint:
    """The parts in the release's layout, in `folder`; what was there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    with torch.no_grad():
        checkpoint.write(folder, vocabulary, *parts)
    return Checkpoint(folder)


def write_bundle(source: Checkpoint, out: Path, precision: str) -> None:
    """The bundle of a checkpoint of this model, with its `CHANGES`."""
    voice = source.folder.with_name("silence.wav")
    soundfile.write(voice, np.zeros(int(PROMPT_S * 16000), np.float32), 16000, subtype="PCM_16")
    export_bundle(source, out, Options(precision, "cpu", KV_CAPACITY), NAME, [("default", voice)])
    adjust(out)


def run(args: argparse.Namespace) -> int:
    """Writes WORK/checkpoint and the bundle."""
    vocabulary = Vocabulary()
    source = write_checkpoint(load(args.checkpoints, vocabulary), vocabulary, args.work / "checkpoint")
    write_bundle(source, args.out, args.precision)
    return 0
