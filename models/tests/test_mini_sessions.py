"""The world, the sessions and their token layout, with engines that only beep: what is said, when, and how it is
fed."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer

from mini import facts, world
from mini import pace as pace_module
from mini.batches import grouped, written
from mini.checkpoint import write_tokenizer
from mini.engines import Pico, Speech
from mini.features import LEAD_SAMPLES, stream_samples
from mini.layout import IGNORED, PHONES_PER_UNIT, chat, collate, example, phone_labels, system_prompt
from mini.pace import MAX_CHARACTERS, Pace
from mini.sessions import HANG_S, HEARD_S, INTERRUPTED, KINDS, LISTEN, UNASKED, Director, Session
from mini.speakers import LEVEL, SILENCE, UNALIGNED, fast_length, finish, noise, to_16k
from mini.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary()


@pytest.fixture(scope="module")
def pace(vocabulary) -> Pace:
    return Pace({**dict.fromkeys(vocabulary.words, 0.34), ",": 0.22})


def _beep(text: str, *_args) -> Speech:
    seconds = 0.3 * len(text.split())
    samples = np.sin(np.arange(int(16000 * seconds)) * 0.2).astype(np.float32)
    return Speech(samples, 16000, [(0.0, "t"), (seconds / 2, "z")], [(0.3 * i, w) for i, w in enumerate(text.split())])


@pytest.fixture(scope="module")
def sessions(pace) -> list:
    """Twenty sessions of every kind, fewer long ones."""
    engine = SimpleNamespace(say=_beep)
    director = Director(pace, 7, SimpleNamespace(espeak=engine, flite=engine, pico=engine))
    return [director.session(kind) for kind in KINDS for _ in range(4 if kind == "long" else 20)] + [
        director.transcription() for _ in range(10)
    ]


def test_answers_are_right_and_remembered():
    draw, memory = random.Random(1), world.Memory()
    seen = set()
    for _ in range(4000):
        before = world.Memory(memory.user, memory.number, memory.answer)
        turn = world.sample(draw, memory)
        words = turn.answer.split()
        if turn.intent in world.SIGNS:
            numbers = {facts.number(n): n for n in range(101)}
            left, right = turn.answer.split(f" {turn.intent} ")
            b, value = right.split(" is ")
            assert world.SIGNS[turn.intent](numbers[left], numbers[b]) == numbers[value]
        elif turn.intent == "spell":
            assert "".join(words[3:]) == words[0]
        elif turn.intent == "my name":
            assert words[-1] == (before.user or "name")
        elif turn.intent == "again":
            assert turn.answer == (before.answer or "i have not said anything yet")
        turn.remember(memory)
        seen.add(turn.intent)
    assert {"stop", "unknown", "story", "joke", "capital", "last number", "hello name"} <= seen


def test_every_answer_can_be_written(vocabulary):
    draw, memory = random.Random(2), world.Memory()
    for _ in range(2000):
        turn = world.sample(draw, memory)
        turn.remember(memory)
        assert [vocabulary.names[token] for token in vocabulary.encode(turn.answer)] == turn.answer.replace(
            ",", " ,"
        ).split()


def test_units_of_an_answer_keep_the_server_limits(pace):
    for answer in [
        *facts.STORIES,
        *facts.JOKES,
        facts.numbers(range(1, 21)),
        "september november december umbrella caterpillar",
    ]:
        units = pace.units(answer)
        assert [word for unit in units for word in unit] == answer.replace(",", " ,").split()
        assert all(sum(len(word) + (word != ",") for word in unit) <= MAX_CHARACTERS for unit in units)


def test_the_first_unit_of_an_answer_is_ahead(pace):
    # Words of 0.34 s from 0.04 s on, a comma of 0.22 s: the first unit ends at 1.4 s, the others a second later each.
    words = facts.numbers(range(1, 13))
    starts, units = pace.starts(words.replace(",", " ,").split()), pace.units(words)
    placed = [index for index, unit in enumerate(units) for _ in unit]
    assert placed == [max(0, int(start - 0.4)) for start in starts[: len(placed)]]


def test_answers_begin_in_the_unit_after_the_question_and_nowhere_else(sessions):
    for session in sessions:
        starts = {e.unit for e in session.exchanges if e.turn.answer}
        for index, unit in enumerate(session.units):
            before = session.units[index - 1] if index else LISTEN
            begins = "<|speak|>" in unit and ("<|speak|>" not in before or "<|turn_eos|>" in before)
            assert begins == (index in starts), session.units
        for exchange in session.exchanges:
            # Not before the question has ended, and within one unit of it unless an interruption is still being closed.
            assert exchange.unit + 1 > exchange.ended + HANG_S - 1e-6
            assert exchange.unit <= int(exchange.ended + HANG_S) + 1


def test_turns_are_closed_and_noise_is_never_answered(sessions):
    for session in sessions:
        speaking = False
        for unit in session.units:
            if unit == INTERRUPTED:
                assert speaking
            if unit is LISTEN:
                assert not speaking
            speaking = "<|speak|>" in unit and "<|turn_eos|>" not in unit
        assert session.kind not in UNASKED or all(unit is LISTEN for unit in session.units)
        assert not speaking


def test_a_typed_question_follows_the_audio_of_the_unit_that_answers(sessions, vocabulary):
    typed = [s for s in sessions if s.typed]
    assert typed
    for session in typed:
        by_unit = {e.unit: e for e in session.exchanges}
        built = example(session, vocabulary)
        starts = np.flatnonzero(built.ids == vocabulary.ids["<unit>"])
        for unit, text in session.typed.items():
            assert text.rstrip("?") == by_unit[unit].turn.question
            ids = vocabulary.encode_typed(text)
            first = starts[unit] + 11
            assert built.ids[first : first + len(ids)].tolist() == ids
            assert (built.targets[first : first + len(ids) - 1] == IGNORED).all()
            assert built.targets[first + len(ids) - 1] == vocabulary.id(session.units[unit][0])


def test_typed_text_is_read_as_the_tokenizer_reads_it(vocabulary, tmp_path):
    write_tokenizer(tmp_path, vocabulary)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["what is your name?", "tell me a joke", "who is the president", "repeat apple, zebra"]:
        assert tokenizer.encode(" " + text, add_special_tokens=False).ids == vocabulary.encode_typed(text)


def test_interruptions_are_heard_before_they_count(sessions):
    broken = [(s, e) for s in sessions for e in s.exchanges if e.interrupts is not None]
    assert len(broken) > 12
    for session, exchange in broken:
        assert session.units[exchange.interrupts] == INTERRUPTED
        assert exchange.interrupts + 1 - exchange.asked >= HEARD_S - 1e-6
        assert exchange.unit > exchange.interrupts


def test_streams_have_the_length_and_level_of_the_server(sessions):
    for session in sessions:
        assert len(session.stream) == stream_samples(len(session.units))
        assert not session.stream[:LEAD_SAMPLES].any() and np.abs(session.stream).max() <= 1


def test_a_session_becomes_the_sequence_that_the_server_feeds(sessions, vocabulary):
    session = next(s for s in sessions if s.kind == "interrupted" and any(e.interrupts for e in s.exchanges))
    e = example(session, vocabulary)
    prompt = system_prompt(vocabulary)
    assert e.ids[: len(prompt)].tolist() == prompt
    assert (e.audio >= 0).sum() == 10 * len(session.units)
    assert e.audio[e.audio >= 0].tolist() == list(range(10 * len(session.units)))
    chosen = [vocabulary.names[token] for token in e.targets[e.targets != IGNORED]]
    assert chosen == [item for unit in session.units for item in unit]
    # A target is what comes next.
    at = np.flatnonzero(e.targets != IGNORED)
    assert (e.ids[at + 1] == e.targets[at]).all()
    assert e.mel.shape == (80, 100 * len(session.units) + 2) and e.phones.shape == (2, 50 * len(session.units))
    assert (e.phones[0, :2] == SILENCE[0]).all() and (e.phones >= 0).any(0).all()


def test_written_conversations_and_batches(vocabulary, sessions):
    e = chat([("what is two plus two", "two plus two is four")], vocabulary)
    assert [vocabulary.names[t] for t in e.targets[e.targets != IGNORED]] == [
        "two",
        "plus",
        "two",
        "is",
        "four",
        "<|im_end|>",
    ]
    draw = random.Random(3)
    assert collate([written(draw, vocabulary) for _ in range(4)])["ids"].shape[0] == 4
    pool = sorted((example(s, vocabulary) for s in sessions[:40]), key=lambda e: e.units)
    for group in grouped(pool):
        batch = collate(group)
        assert len(group) * group[-1].units <= 60 or len(group) == 1
        assert (batch["weights"] > 0).sum() == (batch["targets"] != IGNORED).sum()


def test_where_phones_are_not_known_nothing_is_taught_about_them():
    unaligned = finish(_beep("one two"), UNALIGNED)
    stream = np.zeros(stream_samples(2), np.float32)
    labels = phone_labels(Session("one", stream, [LISTEN] * 2, phones=unaligned.phones))
    spoken = round(len(unaligned.samples) / 16000 * PHONES_PER_UNIT)
    assert (labels[:, : spoken - 1] == IGNORED).all()
    assert (labels[:, spoken + 1 :] == np.array(SILENCE)[:, None]).all()


def test_pico_speaks_at_the_pace_and_pitch_it_is_told():
    pico = Pico()
    for voice in Pico.VOICES:
        usual, slow = (pico.say("what is two plus three", voice, stretch).samples for stretch in (1.0, 1.5))
        assert len(slow) / len(usual) == pytest.approx(1.5, rel=0.1)
        assert 0.1 < np.abs(usual).max() < 0.99, "audible and not clipped"
        high = pico.say("what is two plus three", voice, 1.0, 1.5).samples
        assert pitch_hz(high) / pitch_hz(usual) == pytest.approx(1.5, rel=0.1)


def pitch_hz(samples: np.ndarray) -> float:
    """Median over the loud frames of 50 ms of the strongest period from 60 to 400 Hz."""
    frames = [samples[i : i + 800] for i in range(0, len(samples) - 800, 400)]
    loudest = max(np.mean(frame**2) for frame in frames)
    found = []
    for frame in frames:
        if np.mean(frame**2) > 0.3 * loudest:
            similar = np.correlate(frame, frame, "full")[799:]
            found.append(16000 / (40 + np.argmax(similar[40:267])))
    return float(np.median(found))


def test_sound_tools():
    plain = finish(_beep("one two"), 0)
    assert abs(np.sqrt(np.mean(plain.samples**2)) - LEVEL) < 1e-3 and len(plain.phones) == 2
    # festival tells no phones.
    assert finish(Speech(_beep("one").samples, 16000), 1).phones == []
    assert [fast_length(n) for n in (1, 7, 17, 1000, 1001)] == [1, 8, 18, 1000, 1024]
    tone = np.sin(2 * np.pi * 440 * np.arange(22050) / 22050).astype(np.float32)
    resampled = to_16k(tone, 22050)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert len(resampled) == 16000 and np.abs(resampled - wanted)[100:-100].max() < 0.02
    for kind in ("white", "pink", "brown", "hum", "music"):
        assert abs(np.sqrt(np.mean(noise(np.random.default_rng(1), 20000, kind) ** 2)) - 1) < 0.01


def test_a_new_word_is_measured_and_what_was_known_stays(tmp_path, monkeypatch):
    table = tmp_path / "pace.json"
    table.write_text('{"one": 0.3, ",": 0.2}')
    monkeypatch.setattr(pace_module, "measure", lambda words: {**dict.fromkeys(words, 0.5), ",": 0.9})
    assert Pace.load(["one", "half"], table).durations == {"one": 0.3, "half": 0.5, ",": 0.2}
    assert Pace.load(["one", "half"], table).durations["half"] == 0.5


def test_written_practice_is_mostly_what_must_be_worked_out_and_one_skill_can_be_asked_alone(pace):
    draw, memory = random.Random(1), world.Memory()
    worked_out = {"plus", "minus", "times", "half", "spell", "repeat", "count", "count down", "count from"}

    def share(sample: world.Skill, intents: set[str]) -> float:
        return sum(sample(draw, memory).intent in intents for _ in range(500)) / 500

    assert share(world.practise_written, worked_out) > 0.5 > share(world.sample, worked_out)
    assert share(world.practise_spoken, {"repeat"}) > 1.5 * share(world.sample, {"repeat"})
    engine = SimpleNamespace(say=_beep)
    director = Director(pace, 7, SimpleNamespace(espeak=engine, flite=engine), world.named("half"))
    assert {e.turn.intent for _ in range(5) for e in director.session("two").exchanges} == {"half"}
    with pytest.raises(KeyError):
        world.named("flies")
