"""The bundle in the repository: made from the checkpoints beside it, small, and as good as its page says.

Sessions come from the real speech engines, with voices that training never heard, and the program answers them. Few of
them: the least figures stand well below what `make mini-eval` reports.
"""

from pathlib import Path

import pytest

from duologue_export.bundle import Bundle
from duologue_export.verify import verify
from mini import export
from mini.judge_engine import EngineJudge, sessions_of
from mini.pace import Pace
from mini.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
BINARY, MINI = ROOT / "target/release/duologue", ROOT / "models/mini"
BUNDLE = MINI / "bundle"
MOST_BYTES, MOST_FILE_BYTES = 60e6, 50e6
COUNT = 24
LEAST = {
    "espeak": {"intent": 0.95, "exact": 0.9, "timely": 0.95},
    "rms": {"intent": 0.8, "exact": 0.7},
    "snr15": {"exact": 0.65},
    "interrupted": {"broken": 0.9},
    "talk": {"exact": 0.88},
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary()


@pytest.fixture(scope="module")
def parts(vocabulary):
    return export.load(MINI / "checkpoints", vocabulary)


@pytest.fixture(scope="module")
def checkpoint(parts, vocabulary, tmp_path_factory):
    return export.write_checkpoint(parts, vocabulary, tmp_path_factory.mktemp("mini") / "checkpoint")


@pytest.fixture(scope="module")
def pace(vocabulary) -> Pace:
    return Pace.load(vocabulary.words)


def test_the_bundle_is_made_from_the_checkpoints_and_small(checkpoint):
    failures = {row.name: row.failures for row in verify(checkpoint, Bundle(BUNDLE)) if not row.ok}
    assert not failures
    sizes = [path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()]
    assert sum(sizes) < MOST_BYTES and max(sizes) < MOST_FILE_BYTES


def test_the_program_decides_and_says_what_the_training_code_does(checkpoint, parts, vocabulary, pace, tmp_path):
    export.write_bundle(checkpoint, tmp_path / "fp32", "fp32")
    engine = EngineJudge(BINARY, tmp_path / "fp32", vocabulary, parts[0])
    for name in ("espeak", "interrupted", "noise"):
        engine.judge(name, sessions_of(pace, name, 4))
    assert engine.same == engine.compared >= 10


@pytest.mark.parametrize("name", LEAST)
def test_unknown_voices_get_right_answers(name, vocabulary, pace):
    engine = EngineJudge(BINARY, BUNDLE, vocabulary)
    tally = engine.judge(name, sessions_of(pace, name, COUNT))
    report = tally.report()
    low = {figure: report[figure] for figure, least in LEAST[name].items() if report[figure] < least}
    assert not low, (report, tally.errors)
    assert engine.joins > 0 and engine.clicks == 0


def test_noise_is_not_answered(vocabulary, pace):
    report = EngineJudge(BINARY, BUNDLE, vocabulary).judge("noise", sessions_of(pace, "noise", COUNT)).report()
    assert report["false_speech"] == 0 and report["units"] > 100
