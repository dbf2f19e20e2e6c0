"""The reply voice reading answers and strings of words: what the speech side learns from.

Every sentence is kept with its phones, words, pitch and speech codes. Files SHARD-NNN.npz of some hundred sentences lie
in WORK/corpus; a run adds what is missing, so the corpus can grow while others train on it.

A code says which phone is spoken in a frame of 40 ms, how far it has come (first frame, later, last) and how high the
voice is (three levels). The release's tokenizer was taught by speech recognition so that its codes carry what is said;
these codes take the synthesiser's own phones, so that a small model can learn to choose them.
"""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mini import world
from mini.engines import Flite
from mini.features import filter_bank
from mini.pace import spoken
from mini.speakers import FLITE_PHONES, SILENCE
from mini.vocabulary import Vocabulary

RATE_HZ, SOURCE_RATE_HZ = 24000, 16000
CODE_S = 0.04
FRAMES_PER_CODE, HOP, N_FFT, MELS = 2, 480, 1920, 80
SAMPLES_PER_CODE = HOP * FRAMES_PER_CODE
STAGES, LEVELS = 3, 3
CODES = len(FLITE_PHONES) * STAGES * LEVELS
# Pitch borders of the three levels in Hz, thirds of the voice's voiced frames.
PITCH_BORDERS = (165.0, 185.0)
SENTENCES_PER_SHARD = 250
_VOICED = frozenset("aa ae ah ao aw ax ay b d dh eh er ey g ih iy jh l m n ng ow oy r uh uw v w y z zh".split())  # noqa: SIM905
# Part of sentences that are random words instead of answers, and their lengths.
_RANDOM_WORDS = 0.5


def code(phone: int, stage: int, level: int) -> int:
    """The number of a code."""
    return (phone * STAGES + stage) * LEVELS + level


SILENT_CODE = code(SILENCE[1], 1, 1)


@dataclass
class Sentence:
    """`text` as written in `world`; `words` (word or comma excluded, start s); `samples` int16 at 16 kHz; `pitch` Hz
    per mel frame, 0 where unvoiced; `codes` one per 40 ms."""

    text: str
    words: list[tuple[str, float]]
    samples: np.ndarray
    pitch: np.ndarray
    codes: np.ndarray

    def wave(self) -> np.ndarray:
        """float32 at 24 kHz, a whole number of codes long."""
        return to_24k(self.samples.astype(np.float32) / 32768, len(self.codes) * SAMPLES_PER_CODE)


def to_24k(samples: np.ndarray, count: int) -> np.ndarray:
    """16 kHz -> 24 kHz by padding the spectrum; `count` output samples, zeros at the end."""
    size = -(-max(len(samples), 1) // 4000) * 4000
    spectrum = np.fft.rfft(samples, size)
    wide = np.zeros(size * 3 // 4 + 1, spectrum.dtype)
    wide[: len(spectrum)] = spectrum * 1.5
    out = np.fft.irfft(wide, size * 3 // 2)[: len(samples) * 3 // 2]
    return np.pad(out, (0, max(0, count - len(out))))[:count].astype(np.float32)


_FILTERS = filter_bank(RATE_HZ, N_FFT)
_HANN = np.hanning(N_FFT + 1)[:-1].astype(np.float32)


def vocoder_mel(wave: np.ndarray) -> np.ndarray:
    """Mel of the vocoder (token2wav.py:143-158): [80, samples / 480], natural log of magnitudes, floor 1e-5."""
    padded = np.pad(wave, (N_FFT - HOP) // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    magnitude = np.sqrt(np.abs(np.fft.rfft(windows * _HANN, axis=1)) ** 2 + 1e-9)
    return np.log(np.maximum(magnitude @ _FILTERS, 1e-5)).T.astype(np.float32)


def pitch_of(samples: np.ndarray, frames: int, lowest: float = 125, highest: float = 320) -> np.ndarray:
    """Pitch in Hz per 20 ms by autocorrelation of 40 ms at 16 kHz, 0 where it is not periodic."""
    hop, width, size = SOURCE_RATE_HZ // 50, SOURCE_RATE_HZ // 25, 2048
    padded = np.pad(samples.astype(np.float32), (width // 2, width + frames * hop))
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop][:frames] * np.hanning(width).astype(
        np.float32
    )
    spectrum = np.fft.rfft(windows, size, axis=1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, size, axis=1)
    taper = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(width), size)) ** 2, size)
    first, last = int(SOURCE_RATE_HZ / highest), int(SOURCE_RATE_HZ / lowest)
    normal = correlation[:, first:last] / (taper[first:last] / taper[0]) / np.maximum(correlation[:, :1], 1e-9)
    best = normal.argmax(1)
    inner = np.clip(best, 1, normal.shape[1] - 2)
    rows = np.arange(len(best))
    left, mid, right = (normal[rows, inner + d] for d in (-1, 0, 1))
    bend = np.where(np.abs(left - 2 * mid + right) < 1e-6, 1e-6, left - 2 * mid + right)
    period = first + inner + np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    strong = (normal[rows, best] > 0.5) & (correlation[:, 0] > 1e-3 * correlation[:, 0].max())
    return np.where(strong, SOURCE_RATE_HZ / period, 0).astype(np.float32)


def codes_of(phones: list[tuple[float, str]], seconds: float, pitch: np.ndarray) -> np.ndarray:
    """Phones (start s, name) -> codes [ceil(seconds / 0.04)] int64. Every phone gets a frame where there is room."""
    count = int(np.ceil(seconds / CODE_S))
    names = [name for _, name in phones]
    ends = [start for start, _ in phones[1:]] + [seconds]
    # Silence that was cut off in front leaves phones that end at or before 0.
    kept = [(name, end) for name, end in zip(names, ends, strict=True) if end > 0.01]
    out, at = np.full(count, SILENT_CODE, np.int64), 0
    for index, (name, end) in enumerate(kept):
        left = len(kept) - index - 1
        stop = min(max(at + 1, round(end / CODE_S)), max(at, count - left))
        phone = FLITE_PHONES.index(name) if name in FLITE_PHONES else 0
        for frame in range(at, stop):
            stage = 0 if frame == at else 2 if frame == stop - 1 else 1
            heights = pitch[frame * FRAMES_PER_CODE : (frame + 1) * FRAMES_PER_CODE]
            heights = heights[heights > 0]
            level = int(np.searchsorted(PITCH_BORDERS, heights.mean())) if name in _VOICED and len(heights) else 1
            out[frame] = code(phone, stage, level)
        at = stop
    return out


def read(flite: Flite, text: str) -> Sentence:
    """The reply voice reads `text`. Raises `ValueError` when it reads other words."""
    speech, words = spoken(flite, text)
    seconds = len(speech.samples) / speech.rate_hz
    pitch = pitch_of(speech.samples, int(np.ceil(seconds / CODE_S)) * FRAMES_PER_CODE)
    samples = np.clip(speech.samples * 32768, -32768, 32767).astype(np.int16)
    return Sentence(text, words, samples, pitch, codes_of(speech.phones, seconds, pitch))


def texts(draw: random.Random, words: list[str]):
    """An endless mix of answers and random words."""
    memory = world.Memory()
    while True:
        if draw.random() < _RANDOM_WORDS:
            yield " ".join(draw.sample(words, draw.randint(3, 8)))
            continue
        turn = world.sample(draw, memory)
        turn.remember(memory)
        # The same few fixed answers would fill the corpus.
        if turn.answer and (turn.intent != "unknown" or draw.random() < 0.1):
            yield turn.answer


def write_shard(path: Path, sentences: list[Sentence]) -> None:
    """Saves sentences as flat arrays with their lengths."""
    lengths = np.array([[len(s.samples), len(s.pitch), len(s.codes), len(s.words)] for s in sentences])
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        texts=np.array([s.text for s in sentences]),
        lengths=lengths,
        samples=np.concatenate([s.samples for s in sentences]),
        pitch=np.concatenate([s.pitch for s in sentences]),
        codes=np.concatenate([s.codes for s in sentences]).astype(np.int16),
        words=np.array([word for s in sentences for word, _ in s.words]),
        starts=np.array([start for s in sentences for _, start in s.words], np.float32),
    )
    part.replace(path)


def load(folder: Path, shards: slice = slice(None)) -> list[Sentence]:
    """The sentences of the shards that are there. Raises `FileNotFoundError` when there are none."""
    paths = sorted(path for path in folder.glob("*.npz") if ".part" not in path.name)[shards]
    if not paths:
        raise FileNotFoundError(f"{folder}: no corpus. Run `python -m mini corpus` first.")
    out = []
    for path in paths:
        data = np.load(path)
        ends = data["lengths"].cumsum(0)
        samples, pitch, codes, words, starts = (data[name] for name in ("samples", "pitch", "codes", "words", "starts"))
        for text, size, (a, b, c, d) in zip(data["texts"], data["lengths"], ends, strict=True):
            named = [(str(w), float(s)) for w, s in zip(words[d - size[3] : d], starts[d - size[3] : d], strict=True)]
            out.append(
                Sentence(
                    str(text),
                    named,
                    samples[a - size[0] : a],
                    pitch[b - size[1] : b],
                    codes[c - size[2] : c].astype(np.int64),
                )
            )
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini corpus`."""
    parser.add_argument("--work", type=Path, default=Path("out/mini"))
    parser.add_argument(
        "--shards", type=int, default=100, help=f"files of {SENTENCES_PER_SHARD} sentences (about 10 minutes each)"
    )


def run(args: argparse.Namespace) -> int:
    """Adds the shards that are missing; shard 0 is for testing only."""
    folder = args.work / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    flite, words = Flite(), Vocabulary().words
    for index in range(args.shards):
        path = folder / f"shard-{index:03d}.npz"
        if path.exists():
            continue
        source, sentences = texts(random.Random(f"corpus {index}"), words), []
        with tqdm(total=SENTENCES_PER_SHARD, desc=path.stem, disable=None) as bar:
            while len(sentences) < SENTENCES_PER_SHARD:
                try:
                    sentences.append(read(flite, next(source)))
                except ValueError:
                    continue
                bar.update()
        write_shard(path, sentences)
    return 0
