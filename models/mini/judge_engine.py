"""The evaluation that counts: the exported bundle in the server's engine, on voices and sentences it was not trained
on.

Every session of `judge_hearing`'s sets is written as a wav, answered by `duologue talk`, and its timeline is counted
the same way. The festival set (`ked`) is made by an engine that training never sees. With `--assert` the floors below
must be reached; what the bundle in the repository does reach is asserted by `models/tests/test_mini_bundle.py`. With
`--checkpoints` the PyTorch code hears the same sessions, and every unit must be the same.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from mini import judge_hearing, world
from mini.engines import festival
from mini.export import load
from mini.features import LEAD_SAMPLES, RATE_HZ, stream_samples
from mini.hearing import Hearing
from mini.judge_hearing import Tally, ends_silently
from mini.pace import Pace
from mini.program import talk
from mini.sessions import HANG_S, LISTEN, Exchange, Session
from mini.speakers import finish
from mini.vocabulary import Vocabulary

# The floors of README.md: set -> figure -> least (or, for `early`, most).
FLOORS = {
    "espeak": {"intent": 0.95, "exact": 0.88, "outside": 0.85, "timely": 0.97, "early": 0.01},
    "rms": {"intent": 0.90, "exact": 0.80},
    "ked": {"intent": 0.80, "exact": 0.65},
    "snr15": {"exact": 0.75},
    "interrupted": {"broken": 0.90},
}
# How many times as many sessions as of the others: a floor of one in a hundred needs hundreds, and noise half an hour.
TIMES = {"espeak": 4, "noise": 3.35}
# Speech itself steps by up to four times its mean.
_JUMP, _AROUND = 6.0, 240


def ked_sessions(count: int, sample: world.Skill | None = None, seed: int = 77) -> list[Session]:
    """Single questions spoken by festival's ked voice; without `sample`, of every skill."""
    draw, out = random.Random(seed), []
    while len(out) < count:
        turn = sample(draw, world.Memory()) if sample else world.sample_known(draw)
        if not turn.answer:
            continue
        samples = finish(festival(turn.question), 1).samples
        start = draw.uniform(0.05, 1.2)
        end = start + len(samples) / RATE_HZ
        unit = int(end + HANG_S)
        stream = np.zeros(stream_samples(unit + 4), np.float32)
        first = int(start * RATE_HZ)
        stream[first : first + len(samples)] = samples
        stream += np.random.default_rng(len(out)).standard_normal(len(stream), np.float32) * np.float32(3e-4)
        stream[:LEAD_SAMPLES] = 0
        units = [LISTEN] * (unit + 4)
        out.append(Session("one", stream, units, [Exchange(turn, start, end, unit)]))
    return out


def answer(
    binary: Path, bundle: Path, session: Session, folder: Path
) -> tuple[list[list[str]], list[dict], np.ndarray]:
    """(units as `judge_hearing.decode` gives them, unit lines of the timeline, the reply at 24 kHz) of one session."""
    wav, timeline = folder / "user.wav", folder / "timeline.jsonl"
    samples = session.stream[LEAD_SAMPLES : LEAD_SAMPLES + len(session.units) * RATE_HZ]
    soundfile.write(wav, samples, RATE_HZ, subtype="FLOAT")
    reply_wav = folder / "reply.wav"
    lines = talk(binary, bundle, wav, reply_wav, timeline)[: len(session.units)]
    units = []
    for line in lines:
        ends = ["<|turn_eos|>"] if line["end_of_turn"] else []
        words = line["text"].replace(",", " , ").split()
        units.append(["<|speak|>", *words, *ends] if line["decision"] == "speak" else [*ends, "<|listen|>"])
    reply, _ = soundfile.read(reply_wav, dtype="float32")
    return units, lines, reply


def clicks(reply: np.ndarray, lines: list[dict]) -> tuple[int, int]:
    """(joins of units within a reply, those where the wave jumps). A jump is a step between two samples that is
    `_JUMP` times the typical step (root mean square) of the 20 ms around it."""
    joins = jumps = at = 0
    for line, following in zip(lines, [*lines[1:], {"reply_samples": 0}], strict=True):
        at += line["reply_samples"]
        if not line["reply_samples"] or line["end_of_turn"] or not following["reply_samples"]:
            continue
        steps = np.diff(reply[max(0, at - _AROUND) : at + _AROUND])
        joins += 1
        jumps += bool(abs(reply[at] - reply[at - 1]) > _JUMP * np.sqrt(np.mean(steps**2)) + 1e-4)
    return joins, jumps


def same_units(engine: list[list[str]], torch_units: list[list[str]]) -> bool:
    """Whether both decided alike in every unit and said the same words. The timeline of the engine has words, no tokens
    of units' ends."""

    def plain(unit: list[str]) -> tuple[bool, bool, list[str]]:
        words = [item for item in unit if not item.startswith("<")]
        return "<|speak|>" in unit and not ends_silently(unit), "<|turn_eos|>" in unit, words

    return [plain(unit) for unit in engine] == [plain(unit) for unit in torch_units]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini judge`."""
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--binary", type=Path, required=True, help="the program `duologue`")
    times = ", ".join(f"{name} {factor}" for name, factor in TIMES.items())
    parser.add_argument("--count", type=int, default=100, help=f"sessions per set, times: {times}")
    parser.add_argument("--set", action="append", dest="sets", help="only this set; repeatable")
    parser.add_argument("--assert", action="store_true", dest="check", help="fail below the floors")
    parser.add_argument("--checkpoints", type=Path, help="compare with these trained parts in PyTorch")
    parser.add_argument(
        "--errors", type=int, default=0, help="print this many wrong answers per set, and counts by intent"
    )
    parser.add_argument("--skill", help="only questions of this function of world.py")


def sessions_of(pace: Pace, name: str, count: int, skill: str | None = None) -> list[Session]:
    """The first `count` sessions of a set, `ked` included; those with a typed question are left out, for a wav cannot
    type. `skill`: ask nothing else."""
    sample = world.named(skill) if skill else None
    if name == "ked":
        return ked_sessions(count, sample)
    spoken = judge_hearing.sessions(pace, name, count, sample or world.sample)
    return [session for session in spoken if not session.typed]


class EngineJudge:
    """Lets a bundle answer sessions and counts. `hearing`: the PyTorch model that must decide alike."""

    def __init__(self, binary: Path, bundle: Path, vocabulary: Vocabulary, hearing: Hearing | None = None):
        self._binary, self._bundle, self._vocabulary, self._hearing = binary, bundle, vocabulary, hearing
        self._busy_ms, self._heard_s = 0.0, 0
        self.joins = self.clicks = 0
        self.compared = self.same = 0

    def judge(self, name: str, sessions: list[Session]) -> Tally:
        """What happened in `sessions`, the ones of set `name`."""
        tally = Tally()
        with tempfile.TemporaryDirectory() as folder:
            for session in tqdm(sessions, desc=name, disable=None):
                units, lines, reply = answer(self._binary, self._bundle, session, Path(folder))
                joins, jumps = clicks(reply, lines)
                self.joins, self.clicks = self.joins + joins, self.clicks + jumps
                tally.add(session, units)
                if self._hearing is not None:
                    self.compared += 1
                    self.same += same_units(units, judge_hearing.decode(self._hearing, self._vocabulary, session))
                self._busy_ms += sum(line["cost_ms"]["unit"] for line in lines)
                self._heard_s += len(lines)
        return tally

    @property
    def rtf(self) -> float:
        """Engine time of all units so far per second of audio."""
        return self._busy_ms / 1e3 / max(1, self._heard_s)


def run(args: argparse.Namespace) -> int:
    """Prints a JSON report; 1 when a floor is missed and `--assert` is given."""
    vocabulary = Vocabulary()
    pace = Pace.load(vocabulary.words)
    hearing = load(args.checkpoints, vocabulary)[0] if args.checkpoints else None
    engine, report, missed = EngineJudge(args.binary, args.bundle, vocabulary, hearing), {}, []
    for name in args.sets or [*judge_hearing.SETS, "ked"]:
        count = round(args.count * TIMES.get(name, 1))
        tally = engine.judge(name, sessions_of(pace, name, count, args.skill))
        report[name] = tally.report()
        if args.errors:
            report[name] |= {"wrong": tally.wrong_by_intent(), "errors": tally.errors[: args.errors]}
        for figure, floor in FLOORS.get(name, {}).items():
            value = report[name].get(figure, 0.0)
            if value > floor if figure == "early" else value < floor:
                missed.append(f"{name} {figure} {value} (floor {floor})")
    report["rtf"] = round(engine.rtf, 3)
    report["joins"] = {"n": engine.joins, "clicks": engine.clicks}
    if engine.compared:
        report["same_as_torch"] = {"sessions": engine.compared, "same": engine.same}
        if engine.same < engine.compared:
            missed.append(f"{engine.compared - engine.same} of {engine.compared} sessions differ from PyTorch")
    report["missed"] = missed
    print(json.dumps(report, indent=1))
    return 1 if args.check and missed else 0
