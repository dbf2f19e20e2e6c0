#!/usr/bin/env python3
"""Unit times of Duologue beside the official PyTorch code: same checkpoint, same audio, same core, in turns.

  compare.py --code DIR --token2wav-code DIR --python VENV/bin/python --golden tests/golden --session A \\
             --bundle out/bundles/golden-fp32

`--code` is a checkout of the official demo (the folder that holds MiniCPMO45), `--token2wav-code` the unpacked `src`
folder of minicpmo-utils 1.0.5, `--python` an interpreter with what they need. Every round runs both programs pinned to
one core with one thread each, which gives the units' times. Duologue then runs again with `--beside` as a second core,
which gives the stages' times: its LLM thread ends a unit while its speech thread has begun, so on one core a stage's
time would hold the other thread's work. Each stage still runs on one core. Prints a table of medians by stage and their
ratio, with the spread over the rounds, and writes the rows as JSON.

Both programs must give the tokens of the recording in every unit, else nothing is printed and the exit code is 1:
different tokens are different work. With `--same-work` other tokens will do if there are as many of them and the unit
listens or speaks as recorded: for a bundle of integer weights. `official.py` says what is patched in the official code.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STAGES = ["unit", "prefill", "llm", "tts", "token2wav"]


def one_thread() -> dict:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}


def recording(args) -> list[dict]:
    """Units of the golden session."""
    return json.loads((args.golden / f"session_{args.session}/session.json").read_text())["units"]


def official_round(args) -> list[dict]:
    command = ["taskset", "-c", str(args.core), args.python, __file__, "--official-worker"]
    for name in ("code", "token2wav_code", "golden", "session"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    # What goes wrong is said on its own standard error.
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread())
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def official_worker(args) -> int:
    import numpy as np
    import soundfile
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    import official

    torch.set_num_threads(1)
    golden = args.golden.resolve()
    session = json.loads((golden / f"session_{args.session}/session.json").read_text())
    model = official.load(
        args.code.resolve(), args.token2wav_code.resolve(), golden / "checkpoint", np.load(golden / "cfm_noise.npy")
    )
    audio, _ = soundfile.read(golden / "inputs" / session["input_audio"], dtype="float32")
    reference = golden / "inputs" / session["ref_audio"]
    voice, _ = soundfile.read(reference, dtype="float32")
    with torch.no_grad():
        for row in official.run_session(model, session, audio, reference, voice):
            print(json.dumps(row), flush=True)
    return 0


def duologue_round(args, cores: list[int]) -> list[dict]:
    with tempfile.TemporaryDirectory() as out:
        command = ["taskset", "-c", ",".join(map(str, cores))]
        command += [str(args.duologue), "replay", "--bundle", str(args.bundle)]
        command += ["--golden", str(args.golden / f"session_{args.session}"), "--out", out, "--threads", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, text=True, env=one_thread())
        rows = []
        for line in (Path(out) / "timeline.jsonl").read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "unit":
                cost = event["cost_ms"]
                rows.append(
                    {
                        "unit": event["unit"],
                        "is_listen": event["decision"] == "listen",
                        "unit_ms": cost["unit"],
                        "prefill_ms": cost["mel"] + cost["apm"] + cost["vision"] + cost["prefill"],
                        "llm_ms": cost["llm"],
                        "tts_ms": cost["tts"],
                        "token2wav_ms": cost["flow"] + cost["hift"],
                    }
                )
        units = json.loads((Path(out) / "session.json").read_text())["units"]
        return [row | {"tokens": units[row["unit"]]["tokens"]} for row in rows]


def differing_units(rows: list[dict], recorded: list[dict], same_work: bool) -> list[int]:
    """Units that are missing or not as recorded: their tokens, with `same_work` decision and number of tokens."""

    def work(unit: dict):
        return (unit["is_listen"], len(unit["tokens"])) if same_work else unit["tokens"]

    done = {row["unit"]: work(row) for row in rows}
    return [number for number, unit in enumerate(recorded) if done.get(number) != work(unit)]


def medians(rows: list[dict], listen: bool) -> dict:
    chosen = [r for r in rows if r["is_listen"] == listen]
    return {s: statistics.median(r[f"{s}_ms"] for r in chosen) for s in STAGES} if chosen else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--token2wav-code", type=Path, required=True)
    parser.add_argument("--golden", type=Path, default=Path("tests/golden"))
    parser.add_argument("--session", default="A", help="a session without video frames")
    parser.add_argument("--python", help="interpreter with the official code's packages")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--duologue", type=Path, default=Path("target/release/duologue"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0, help="CPU core both programs are pinned to")
    parser.add_argument("--beside", type=int, default=1, help="second core for the run that times the stages")
    parser.add_argument("--same-work", action="store_true", help="other tokens will do if there are as many")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--official-worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.official_worker:
        return official_worker(args)
    if not args.python or not args.bundle:
        parser.error("--python and --bundle are required")

    recorded, rounds = recording(args), []
    for number in range(args.rounds):
        # Who goes first changes with every round, as the machine may cool or fill up.
        official = official_round(args) if number % 2 == 0 else None
        alone, beside = duologue_round(args, [args.core]), duologue_round(args, [args.core, args.beside])
        official = official or official_round(args)
        for program, rows in (("the official code", official), ("duologue", alone), ("duologue", beside)):
            if differing := differing_units(rows, recorded, args.same_work and program == "duologue"):
                print(
                    f"{program} did not give the recorded tokens in units {differing}; the comparison is void",
                    file=sys.stderr,
                )
                return 1
        ours = [two | {"unit_ms": one["unit_ms"]} for one, two in zip(alone, beside, strict=True)]
        rounds.append({"official": official, "duologue": ours})
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)

    if args.json:
        args.json.write_text(json.dumps(rounds))
    for listen in (False, True):
        if not any(unit["is_listen"] == listen for unit in recorded):
            continue
        per_round = [(medians(r["official"], listen), medians(r["duologue"], listen)) for r in rounds]
        print(f"\n{'listen' if listen else 'speak'} unit, median ms (min..max over {len(rounds)} rounds)")
        print(f"{'stage':10} {'official':>24} {'duologue':>24} {'ratio':>20}")
        for stage in STAGES:
            a, b = [p[0][stage] for p in per_round], [p[1][stage] for p in per_round]
            if max(a) == 0 or max(b) == 0:
                continue
            ratio = [x / y for x, y in zip(a, b, strict=True)]
            cell = lambda v: f"{statistics.median(v):.2f} ({min(v):.2f}..{max(v):.2f})"  # noqa: E731
            print(f"{stage:10} {cell(a):>24} {cell(b):>24} {cell(ratio):>20}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
