"""What the bundle makes of recordings of people, none of whom it has heard: what it writes down ("Transcribe." as the
system prompt) and what it answers. Nothing is counted, for nobody has recorded its questions.

The source package of pocketsphinx has a few in test/data: `pip download --no-deps --no-binary pocketsphinx
pocketsphinx==5.1.1`, unpacked.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from mini.features import RATE_HZ
from mini.program import talk
from mini.speakers import LEVEL

# Silence around a recording: the answer needs the unit after it, and may be two units long.
_BEFORE_S, _AFTER_S = 0.5, 2.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini judge-human`."""
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--binary", type=Path, required=True, help="the program `duologue`")
    parser.add_argument("recordings", type=Path, nargs="+", help="wav, or .raw of 16 bit and 16 kHz")


def read(path: Path) -> tuple[np.ndarray, int]:
    """(mono samples at the level of the training voices, rate in Hz)."""
    raw = {"samplerate": RATE_HZ, "channels": 1, "subtype": "PCM_16"} if path.suffix == ".raw" else {}
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True, **raw)
    samples = samples.mean(1)
    return samples / (np.sqrt(np.mean(samples**2)) + 1e-6) * LEVEL, rate


def run(args: argparse.Namespace) -> int:
    """Prints a line of JSON for each recording."""
    with tempfile.TemporaryDirectory() as scratch:
        user, reply, timeline = (Path(scratch) / name for name in ("user.wav", "reply.wav", "timeline.jsonl"))
        for path in args.recordings:
            samples, rate = read(path)
            silence = [np.zeros(int(seconds * rate), np.float32) for seconds in (_BEFORE_S, _AFTER_S)]
            soundfile.write(user, np.concatenate([silence[0], samples, silence[1]]), rate, subtype="FLOAT")
            found = {
                name: " ".join(line["text"].strip() for line in lines if line["text"])
                for name, lines in (
                    ("heard", talk(args.binary, args.bundle, user, reply, timeline, "Transcribe.")),
                    ("answered", talk(args.binary, args.bundle, user, reply, timeline)),
                )
            }
            print(json.dumps({"recording": path.name, **found}), flush=True)
    return 0
