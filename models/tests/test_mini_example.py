"""The example conversation's picture and timing, and the clips of it that the bench speaks."""

import io
import struct
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mini.corpus import RATE_HZ as REPLY_HZ
from mini.example import heard, picture, png, spectrogram
from mini.features import RATE_HZ

SCENARIOS = sorted((Path(__file__).parents[2] / "bench" / "scenarios").glob("*.toml"))


def _unit(start: float, samples: int, text: str, end: bool = False) -> dict:
    decision = "speak" if samples else "listen"
    return {"start_s": start, "reply_samples": samples, "text": text, "end_of_turn": end, "decision": decision}


def test_replies_follow_their_units_and_each_other():
    user, reply = np.ones(3 * RATE_HZ, np.float32), np.arange(1, 2 * REPLY_HZ + 1, dtype=np.float32)
    # The first unit gives more than a second: the next piece waits for its end.
    units = [_unit(0, 0, ""), _unit(1, REPLY_HZ + 4800, " a"), _unit(2, REPLY_HZ - 4800, " b", True)]
    sound = heard(user, reply, units)
    assert not sound[: 2 * REPLY_HZ, 1].any()
    np.testing.assert_array_equal(sound[2 * REPLY_HZ : 4 * REPLY_HZ, 1], reply)
    assert sound[: 3 * REPLY_HZ, 0].all() and not sound[3 * REPLY_HZ :, 0].any()


def test_a_reply_that_goes_on_begins_later_and_has_no_gap():
    user, reply = np.zeros(3 * RATE_HZ, np.float32), np.arange(1, 2 * REPLY_HZ + 1, dtype=np.float32)
    first = REPLY_HZ - 6720
    sound = heard(user, reply, [_unit(0, first, " a"), _unit(1, 2 * REPLY_HZ - first, " b", True)])
    begin = REPLY_HZ + 6720
    assert not sound[:begin, 1].any()
    np.testing.assert_array_equal(sound[begin : begin + 2 * REPLY_HZ, 1], reply)


def test_a_tone_is_dark_at_its_height_only():
    tone = 0.5 * np.sin(2 * np.pi * 3000 * np.arange(REPLY_HZ) / REPLY_HZ).astype(np.float32)
    rows = spectrogram(tone).astype(float).mean(1)
    assert abs(rows.argmin() - len(rows) // 2) <= 1
    assert rows.max() - rows.min() > 120


def test_the_png_holds_the_pixels():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = io.BytesIO(png(pixels)[8:])
    chunks = {}
    while head := data.read(8):
        size, kind = struct.unpack(">I4s", head)
        chunks[kind] = data.read(size)
        assert struct.unpack(">I", data.read(4))[0] == zlib.crc32(kind + chunks[kind])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(3, 5)
    np.testing.assert_array_equal(rows[:, 1:], pixels)


def test_the_picture_has_what_both_said():
    sound = np.zeros((2 * REPLY_HZ, 2), np.float32)
    units = [_unit(0, 100, " hello,"), _unit(1, 100, " you & me", True)]
    text = picture(sound, [(0.1, "who <is> it")], units)
    assert "who &lt;is&gt; it" in text and "hello, you &amp; me" in text


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_clip_of_a_bench_scenario_is_one_whole_question(path):
    for user in tomllib.loads(path.read_text(encoding="utf-8"))["user"]:
        if "from_s" not in user or not user["wav"].endswith("question.wav"):
            continue
        sound, rate = soundfile.read(path.parent / user["wav"], dtype="float32")
        first, last = (round(user[name] * rate) for name in ("from_s", "to_s"))
        clip, around = sound[first:last], rate // 10
        voiced = np.flatnonzero(np.abs(clip) > 0.01)
        assert voiced[-1] - voiced[0] > 0.6 * len(clip), f"{user} is mostly silence"
        for silence in (sound[first - around : first], sound[last : last + around]):
            assert np.abs(silence).max() < 0.01, f"{user} cuts a question"
