"""The example conversation: a held-out voice asks, the bundle answers.

Writes into OUT: question.wav (what `make talk` plays), conversation.wav (left the user, right the reply, as a listener
hears them), timeline.jsonl, and conversation.svg: both voices as spectrograms on one time axis, with the words.
"""

import argparse
import base64
import html
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import soundfile

from mini.corpus import RATE_HZ as REPLY_HZ
from mini.engines import Espeak
from mini.features import RATE_HZ
from mini.program import talk
from mini.speakers import finish

# Seconds of silence before each question: the reply before it has been heard by then.
QUESTIONS = (
    (0.6, "what is your name"),
    (3.4, "what is the capital of norway"),
    (4.4, "what is two times three"),
    (4.2, "what is the opposite of hot"),
    (4.4, "tell me a joke"),
)
# A held-out voice: its variant, words per minute, pitch and range of pitch.
VOICE = ("gmw/en-US+Andrea", 160, 45, 50)
_HOP_S, _BINS, _PX_PER_S = 0.01, 128, 60
# Behind the end of the sound, for the words of the last reply.
_MARGIN_PX = 140


def question(espeak: Espeak) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """(the user's side at 16 kHz, (start in seconds, words) of each question)."""
    parts, asked, at = [], [], 0
    for gap, text in QUESTIONS:
        speech = finish(espeak.say(text, *VOICE), 0).samples
        at += int(gap * RATE_HZ)
        asked.append((at / RATE_HZ, text))
        parts += [np.zeros(int(gap * RATE_HZ), np.float32), speech]
        at += len(speech)
    return np.concatenate([*parts, np.zeros(RATE_HZ // 2, np.float32)]), asked


def heard(user: np.ndarray, reply: np.ndarray, units: list[dict]) -> np.ndarray:
    """[samples, 2] at 24 kHz, as the server paces it: a reply begins when its second of audio is complete, and when it
    goes on, later by what its first unit is short of a second; then unit follows unit."""
    ends = max(len(user) / RATE_HZ, *(unit["start_s"] + 1 + unit["reply_samples"] / REPLY_HZ for unit in units)) + 0.5
    out = np.zeros((int(ends * REPLY_HZ) + len(reply), 2), np.float32)
    slow = np.arange(int(len(user) * REPLY_HZ / RATE_HZ)) * RATE_HZ / REPLY_HZ
    out[: len(slow), 0] = np.interp(slow, np.arange(len(user)), user)
    taken, free, goes_on = 0, 0, False
    for unit in units:
        count = unit["reply_samples"]
        start = int((unit["start_s"] + 1) * REPLY_HZ)
        if not (goes_on or unit["end_of_turn"]):
            start += max(0, REPLY_HZ - count)
        start, goes_on = max(start, free), count > 0 and not unit["end_of_turn"]
        out[start : start + count, 1] = reply[taken : taken + count]
        taken, free = taken + count, start + count
    return out[: max(int(ends * REPLY_HZ), free)]


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """[_BINS, frames] uint8, low frequencies below, up to 6 kHz; white is silent."""
    hop, size = int(_HOP_S * REPLY_HZ), 1024
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, size // 2), size)[::hop] * np.hanning(size)
    power = np.abs(np.fft.rfft(windows, axis=1))[:, : size // 4] ** 2
    bands = power.reshape(len(power), _BINS, -1).mean(2)
    level = np.clip(10 * np.log10(bands + 1e-9) / 60 + 0.5, 0, 1)
    return (255 * (1 - level)).astype(np.uint8).T[::-1]


def png(pixels: np.ndarray) -> bytes:
    """A grey picture [height, width] as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def picture(sound: np.ndarray, asked: list[tuple[float, str]], units: list[dict]) -> str:
    """The conversation as SVG."""
    width, tall = int(len(sound) / REPLY_HZ * _PX_PER_S), 120
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + _MARGIN_PX}" height="{2 * tall + 90}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for side, top in ((0, 24), (1, tall + 44)):
        data = base64.b64encode(png(spectrogram(sound[:, side]))).decode()
        out.append(
            f'<image x="0" y="{top}" width="{width}" height="{tall}" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{data}"/>'
        )
    for start, words in asked:
        out.append(f'<text x="{start * _PX_PER_S:.0f}" y="16" fill="#a4491f">{html.escape(words)}</text>')
    for unit in units:
        x, speaks = (unit["start_s"] + 1) * _PX_PER_S, unit["decision"] == "speak"
        colour, mark = ("#0f6b6e", 6) if speaks else ("#999", 1)
        out.append(f'<rect x="{x + 1:.0f}" y="{tall + 34}" width="{_PX_PER_S - 2}" height="{mark}" fill="{colour}"/>')
    words, start = "", 0.0
    for unit in units:
        start = start if words else unit["start_s"] + 1
        words += unit["text"]
        if words and (unit["end_of_turn"] or unit["decision"] == "listen"):
            y = 2 * tall + 62
            out.append(f'<text x="{start * _PX_PER_S:.0f}" y="{y}" fill="#0f6b6e">{html.escape(words.strip())}</text>')
            words = ""
    return "\n".join([*out, "</svg>\n"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini example`."""
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--binary", type=Path, required=True, help="the program `duologue`")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "example")


def run(args: argparse.Namespace) -> int:
    """Writes the files. Raises `RuntimeError` when the program fails."""
    args.out.mkdir(parents=True, exist_ok=True)
    user, asked = question(Espeak())
    wav, timeline = args.out / "question.wav", args.out / "timeline.jsonl"
    soundfile.write(wav, user, RATE_HZ, subtype="PCM_16")
    with tempfile.TemporaryDirectory() as folder:
        reply = Path(folder) / "reply.wav"
        units = talk(args.binary, args.bundle, wav, reply, timeline)
        spoken, _ = soundfile.read(reply, dtype="float32")
    sound = heard(user, spoken, units)
    soundfile.write(args.out / "conversation.wav", sound, REPLY_HZ, subtype="PCM_16")
    (args.out / "conversation.svg").write_text(picture(sound, asked, units), encoding="utf-8")
    return 0
