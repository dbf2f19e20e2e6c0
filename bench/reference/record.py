#!/usr/bin/env python3
"""Records a session of the official PyTorch code on any checkpoint, so that `compare.py` can measure there.

  VENV/bin/python record.py --code DIR --token2wav-code DIR --checkpoint DIR --like tests/golden/session_A \\
                            --units 6 --out OUT

The settings are those of the recorded session `--like`, so are its first `--units` seconds of audio and what is forced
in them. OUT is laid out like tests/golden: `checkpoint` (a link), `inputs`, `cfm_noise.npy` and the session's folder,
of which only session.json is written. It steers a replay and names the tokens of every unit; it holds no sound, so it
cannot judge one.

Needs an interpreter with the official code's packages; `official.py` says what is patched in that code.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import official
import soundfile
import torch

_FROM_TEMPLATE = [
    "session",
    "input_audio",
    "ref_audio",
    "gen",
    "window",
    "force_listen_count",
    "max_new_speak_tokens_per_chunk",
    "tts_temperature",
    "tts_repetition_penalty",
    "n_timesteps",
]


def lay_out(like: Path, checkpoint: Path, out: Path) -> Path:
    """Makes OUT with everything but the session -> the folder of the session."""
    session = out / like.name
    session.mkdir(parents=True)
    shutil.copytree(like.parent / "inputs", out / "inputs")
    shutil.copyfile(like.parent / "cfm_noise.npy", out / "cfm_noise.npy")
    (out / "checkpoint").symlink_to(checkpoint.resolve(), target_is_directory=True)
    return session


def record(args: argparse.Namespace, out: Path) -> dict:
    """Runs the session -> what belongs into session.json."""
    template = json.loads((args.like / "session.json").read_text())
    template["units"] = template["units"][: args.units]
    if any(unit.get("frames") for unit in template["units"]):
        raise SystemExit(f"{args.like} has pictures in its first {args.units} units, which are not driven here")
    noise = np.load(out / "cfm_noise.npy")
    model = official.load(args.code.resolve(), args.token2wav_code.resolve(), args.checkpoint.resolve(), noise)
    audio, _ = soundfile.read(out / "inputs" / template["input_audio"], dtype="float32")
    reference = out / "inputs" / template["ref_audio"]
    voice, _ = soundfile.read(reference, dtype="float32")

    tokenizer, prompt = model.processor.tokenizer, template["prompt"]
    for name in ("prefix", "suffix"):
        prompt[f"{name}_ids"] = tokenizer.encode(prompt[name], add_special_tokens=False)
    with torch.no_grad():
        units = list(official.run_session(model, template, audio, reference, voice))
    return {
        **{name: template[name] for name in _FROM_TEMPLATE},
        "prompt": prompt,
        "kv_after_prepare": units[0]["kv_before"],
        "units": [
            {
                "unit": row["unit"],
                "force_listen": steered["force_listen"],
                "is_listen": row["is_listen"],
                "tokens": row["tokens"],
            }
            for row, steered in zip(units, template["units"], strict=True)
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--token2wav-code", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--like", type=Path, default=Path("tests/golden/session_A"))
    parser.add_argument("--units", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists already")
    # What fails half way must not look like a recording.
    part = args.out.with_name(args.out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    session = lay_out(args.like.resolve(), args.checkpoint, part)
    recorded = record(args, part)
    (session / "session.json").write_text(json.dumps(recorded, indent=1))
    part.rename(args.out)
    listens = sum(unit["is_listen"] for unit in recorded["units"])
    print(f"{args.out / session.name}: {len(recorded['units'])} units, {listens} of them listen")
    return 0


if __name__ == "__main__":
    sys.exit(main())
