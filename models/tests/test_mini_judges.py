"""What the evaluation counts, and the picture of the curves."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mini import judge_human, judge_written, world
from mini.curves import draw, read
from mini.judge_engine import clicks
from mini.judge_hearing import Tally, answer_from, skeleton
from mini.sessions import INTERRUPTED, LISTEN, Exchange, Session
from mini.speakers import LEVEL
from mini.store import load_small
from mini.train_speaking import distance
from mini.world import Turn

SPEAK, MORE, END = "<|speak|>", "<|chunk_eos|>", "<|turn_eos|>"
UNITS = [LISTEN, [SPEAK, "two", "plus", MORE], [SPEAK, "two", ",", "is", "four", END, MORE], LISTEN]
TURN = Turn("plus", ("two plus two",), "two plus two, is four")


def _session(kind: str = "one") -> Session:
    return Session(kind, np.zeros(0, np.float32), UNITS, [Exchange(TURN, 0.1, 0.9, 1)])


def test_a_right_answer_in_time():
    tally = Tally()
    tally.add(_session(), UNITS)
    assert tally.report() == {"intent": 1.0, "exact": 1.0, "timely": 1.0, "early": 0.0, "n": 1}
    assert answer_from(UNITS, 1) == "two plus two is four"


def test_a_wrong_slot_is_the_right_intent_and_early_is_early():
    tally = Tally()
    tally.add(_session(), [[SPEAK, "two", "plus", "three", MORE], [SPEAK, "is", "five", END, MORE], LISTEN, LISTEN])
    report = tally.report()
    assert (report["intent"], report["exact"], report["timely"], report["early"]) == (1.0, 0.0, 0.0, 1.0)
    assert tally.errors == [("two plus two", "two plus two is four", "two plus three is five")]
    tally.add(_session(), [LISTEN] * 4)
    assert tally.report()["intent"] == 0.5
    tally.add(_session(), UNITS)
    assert tally.wrong_by_intent() == {"plus": "2/3"}


def test_skeletons_tell_skills_apart():
    assert skeleton("the capital of france is paris") == skeleton("the capital of japan is tokyo")
    assert skeleton("after may comes june") != skeleton("before may comes june")
    assert skeleton("forty two plus one is forty three") == skeleton("one plus two is three")


def test_noise_counts_units_that_speak():
    tally = Tally()
    tally.add(Session("noise", np.zeros(0, np.float32), [LISTEN] * 4), UNITS)
    assert tally.report() == {"false_speech": 2, "units": 4}


@pytest.mark.parametrize(
    ("after", "heard"), [(INTERRUPTED, 1.0), ([SPEAK, END, MORE], 1.0), ([SPEAK, "two", MORE], 0.0)]
)
def test_an_interruption_counts_only_when_the_model_was_speaking(after, heard):
    exchanges = [Exchange(TURN, 0.1, 0.9, 1), Exchange(Turn("stop", ("stop",), ""), 2.1, 2.6, 3, 2)]
    session = Session("interrupted", np.zeros(0, np.float32), UNITS, exchanges)
    tally = Tally()
    tally.add(session, [LISTEN, UNITS[1], after, after])
    tally.add(session, [LISTEN] * 4)
    assert tally.report() == {"broken": heard, "n": 1}


def test_every_question_of_a_conversation_counts_but_the_broken_off():
    name = Turn("my name", ("who am i",), "two plus two, is four")
    exchanges = [Exchange(TURN, 0.1, 0.9, 1), Exchange(name, 3.1, 3.9, 4), Exchange(TURN, 7.0, 7.5, 7)]
    units = [LISTEN, *UNITS[1:], *UNITS[1:], *UNITS[1:]]
    tally = Tally()
    tally.add(Session("talk", np.zeros(0, np.float32), units, exchanges), [*units[:7], *[LISTEN] * 3])
    assert tally.report() == {"exact": 0.667, "n": 3, "recall": 1.0, "n_recall": 1}
    assert tally.errors == [("two plus two", "two plus two is four", "")]
    broken = [*exchanges[:2], Exchange(TURN, 5.2, 5.9, 7, 5)]
    tally.add(Session("talk", np.zeros(0, np.float32), units, broken), units)
    assert tally.report() == {"exact": 0.8, "n": 5, "recall": 1.0, "n_recall": 1}


def test_a_jump_at_a_join_is_a_click_and_speech_is_not():
    wave = np.sin(np.arange(3000) * 0.2).astype(np.float32)
    lines = [
        {"reply_samples": count, "end_of_turn": end}
        for count, end in ((0, False), (1000, False), (1000, False), (1000, True))
    ]
    assert clicks(wave, lines) == (2, 0)
    wave[2000:] += 2
    assert clicks(wave, lines) == (2, 1)


def test_written_answers_are_counted_without_their_commas(monkeypatch, capsys):
    monkeypatch.setattr(judge_written, "load", lambda *_: (None,))
    monkeypatch.setattr(world, "sample_known", lambda _: TURN)
    reports = []
    for said in ("two plus two is four", "two plus two is five"):
        monkeypatch.setattr(judge_written, "answer", lambda *_, said=said: said)
        assert judge_written.run(Namespace(checkpoints=Path(), count=3, errors=1)) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == {"n": 3, "exact": 1.0, "wrong": {}, "errors": []}
    assert (reports[1]["exact"], reports[1]["wrong"], len(reports[1]["errors"])) == (0.0, {"plus": "3/3"}, 1)


def test_edit_distance():
    assert [distance(list(a), list(b)) for a, b in (("kitten", "sitting"), ("", "abc"), ("abc", "abc"))] == [3, 3, 0]


def test_recordings_of_people_come_in_any_form_and_leave_at_one_level(tmp_path):
    tone = np.sin(np.arange(4000) / 9).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", np.stack([tone, np.zeros_like(tone)], 1), 8000)
    (tmp_path / "soft.raw").write_bytes((tone * 300).astype(np.int16).tobytes())
    for name, rate in (("loud.wav", 8000), ("soft.raw", 16000)):
        samples, found = judge_human.read(tmp_path / name)
        assert (found, len(samples)) == (rate, 4000)
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(LEVEL, rel=0.01)
        assert np.corrcoef(samples, tone)[0, 1] > 0.99


def test_curves_run_on_over_restarts(tmp_path):
    lines = [{"step": i, "cpu_min": m, "loss": 1 / (i + 1)} for i, m in enumerate((1.0, 2.0, 0.5, 1.5))]
    (tmp_path / "speaking.jsonl").write_text(
        "\n".join(json.dumps(line) for line in [*lines, {"step": 4, "judged": {}}])
    )
    assert [line["cpu_min"] for line in read(tmp_path / "speaking.jsonl")] == [1.0, 2.0, 2.5, 3.5]
    assert draw(tmp_path).startswith("<svg") and "speaking loss" in draw(tmp_path)
    with pytest.raises(FileNotFoundError, match="no training"):
        draw(tmp_path / "empty")


def test_checkpoints_in_the_repository_are_small_and_load():
    for path in (Path(__file__).parents[1] / "mini" / "checkpoints").glob("*.pt"):
        assert path.stat().st_size < 15e6
        assert load_small(path)["weights"]
