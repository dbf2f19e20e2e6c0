# ruff: noqa: E501, SIM905 (lists of names read better as text)
"""Voices of users, and what rooms, distance and microphones do to them.

Two of three sound like machines, nearly all of them in seventy kinds; the others were people once, who are few, so their
pitch, pace and vocal tract are moved further. Held-out voices are never trained on: ten espeak variants, flite's rms, festival's ked.
"""

import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mini.engines import Espeak, Flite, Pico, Speech
from mini.features import RATE_HZ

ACCENTS = "en en-029 en-GB-scotland en-GB-x-gbclan en-GB-x-gbcwmd en-GB-x-rp en-US en-US-nyc".split()
HELD_OUT = "Mike f3 Andrea m7 steph Jacky travis klatt4 Henrique anika".split()
TRAINED = (
    "Denis edward caleb iven4 Tweaky Nguyen Gene belinda antonio gustave Gene2 pablo ed quincy klatt2 klatt3 sandro adam robert "
    "Diogo steph3 Lee Mario Annie Storm pedro rob john kaukovalta iven2 aunty m8 benjamin klatt boris f1 edward2 m2 Hugo Michael "
    "paul steph2 norbert miguel Alicia m1 victor linda Andy m4 m3 f2 iven3 Alex grandpa iven marcelo david max m6 michel klatt6 "
    "m5 klatt5 f5 shelby Marco f4 zac"
).split()
ESPEAK_PHONES = (
    "? @ 0 3 3: ; @- @2 @5 @L A: A@ D E I I# I2 IR N O2 O: O@ OI S T U U@ V VR _ _: _| a a# aI aI2 aI3 aI@ aU aa b d dZ e@ eI f g h "
    "i i: i@ i@3 j k l m n o@ oU p r r- s t t# t2 tS t[ u: v w w# z"
).split()
FLITE_PHONES = (
    "? pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
).split()
PHONES = (ESPEAK_PHONES, FLITE_PHONES)
SILENCE = (ESPEAK_PHONES.index("_:"), FLITE_PHONES.index("pau"))
_INDEX = tuple({name: index for index, name in enumerate(names)} for names in PHONES)
# In place of an engine: the phones of this speech are not known.
UNALIGNED = len(PHONES)
# How many of a hundred users have which voice. The statistical flite voices cost fifteen times as much as the others.
_SHARES = {"espeak": 58, "kal16": 10, "awb": 6, "slt": 6, "en-GB": 10, "en-US": 10}
# Resampling by these factors moves formants and pitch together: other vocal tracts.
_TRACTS = (1.0, 1.0, 0.88, 0.92, 0.96, 1.04, 1.08, 1.13)
_WIDER_TRACTS = (1.0, 0.8, 0.84, 0.88, 0.92, 0.96, 1.04, 1.08, 1.12, 1.17)
# Level of a user before the room: -20 dBFS.
LEVEL = 0.1


@dataclass
class Utterance:
    """A user's speech at 16 kHz, level `LEVEL`, no silence around it. `phones`: (start, end in seconds, engine 0 espeak
    or 1 flite, index into its `PHONES`), or one of engine `UNALIGNED` over everything."""

    samples: np.ndarray
    phones: list[tuple[float, float, int, int]]


def _low_pass(cutoff: float, taps: int = 41) -> np.ndarray:
    # Windowed sinc; cutoff as a part of the sampling rate.
    n = np.arange(taps) - taps // 2
    kernel = np.sinc(2 * cutoff * n) * np.hamming(taps)
    return (kernel / kernel.sum()).astype(np.float32)


_BELOW_8K = _low_pass(7300 / 22050)


def to_16k(samples: np.ndarray, rate_hz: float) -> np.ndarray:
    """Band-limits and resamples (linear between samples, 30 dB and more below the signal for speech)."""
    if rate_hz == RATE_HZ:
        return samples
    if rate_hz > RATE_HZ:
        samples = np.convolve(samples, _BELOW_8K, mode="same")
    count = int(len(samples) * RATE_HZ / rate_hz)
    return np.interp(np.arange(count) * (rate_hz / RATE_HZ), np.arange(len(samples)), samples).astype(np.float32)


class Studio:
    """The engines of this process."""

    def __init__(self) -> None:
        self.espeak = Espeak()
        self.flite = Flite()

    @cached_property
    def pico(self) -> Pico:
        """Made when first needed: held-out voices can be judged without its package."""
        return Pico()


class Speaker:
    """One person: every sentence in the same voice. `kind` is `train`, or a held-out set: `espeak`, `rms`."""

    def __init__(self, studio: Studio, draw: random.Random, kind: str = "train"):
        self._studio = studio
        self._voice = kind if kind != "train" else draw.choices(list(_SHARES), list(_SHARES.values()))[0]
        self._variant = f"gmw/{draw.choice(ACCENTS)}+{draw.choice(HELD_OUT if kind == 'espeak' else TRAINED)}"
        self._pace, self._pitch, self._range = draw.randint(130, 215), draw.randint(20, 80), draw.randint(25, 80)
        self._stretch = draw.uniform(0.9, 1.2) if kind == "rms" else draw.uniform(0.8, 1.35)
        self._shift = 1.0 if kind == "rms" else draw.uniform(0.65, 1.25)
        self._tract = 1.0
        if kind == "train":
            self._tract = draw.choice(_TRACTS if self._voice == "espeak" else _WIDER_TRACTS)

    def say(self, text: str) -> Utterance:
        """One sentence."""
        studio = self._studio
        if self._voice == "espeak":
            speech, engine = studio.espeak.say(text, self._variant, self._pace, self._pitch, self._range), 0
        elif self._voice in Pico.VOICES:
            speech, engine = studio.pico.say(text, self._voice, self._stretch, self._shift), UNALIGNED
        else:
            speech, engine = studio.flite.say(text, self._voice, self._stretch, self._shift), 1
        return finish(speech, engine, self._tract)


def finish(speech: Speech, engine: int, tract: float = 1.0) -> Utterance:
    """An engine's output as an `Utterance`; `tract` above 1 makes a smaller person."""
    samples = to_16k(speech.samples, speech.rate_hz / tract if tract != 1.0 else speech.rate_hz)
    scale = tract if tract != 1.0 else 1.0
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max() + 1e-5)
    if len(loud) == 0:
        return Utterance(np.zeros(RATE_HZ // 10, np.float32), [])
    first = int(loud[0])
    samples = samples[first : loud[-1] + 1]
    samples = samples / (np.sqrt(np.mean(samples**2)) + 1e-6) * LEVEL
    if engine == UNALIGNED:
        return Utterance(samples, [(0.0, len(samples) / RATE_HZ, UNALIGNED, 0)])
    starts = [start * scale - first / RATE_HZ for start, _ in speech.phones]
    ends = [*starts[1:], len(samples) / RATE_HZ][: len(starts)]
    phones = [
        (max(start, 0.0), min(end, len(samples) / RATE_HZ), engine, _INDEX[engine].get(name, 0))
        for start, end, (_, name) in zip(starts, ends, speech.phones, strict=True)
        if end > 0
    ]
    return Utterance(samples, phones)


def fast_length(count: int) -> int:
    """The smallest product of 2, 3 and 5 that is not below `count`: transforms of other lengths take ten times as
    long."""
    best = 1 << (count - 1).bit_length()
    three = 1
    while three < best:
        five = three
        while five < best:
            best = min(best, five << max(0, (-(-count // five) - 1).bit_length()))
            five *= 5
        three *= 3
    return best


def convolve(samples: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution by FFT, cut to the length of `samples`."""
    size = fast_length(len(samples) + len(kernel) - 1)
    product = np.fft.rfft(samples, size) * np.fft.rfft(kernel, size)
    return np.fft.irfft(product, size)[: len(samples)].astype(np.float32)


def reverberation(random: np.random.Generator, seconds: float, wet: float) -> np.ndarray:
    """A room's response: the direct sound and a noisy tail."""
    count = int(RATE_HZ * seconds)
    tail = random.standard_normal(count) * np.exp(-6 * np.arange(count) / count) * wet
    tail[0] = 1
    return tail.astype(np.float32)


def colour(samples: np.ndarray, random: np.random.Generator, phone_line: bool) -> np.ndarray:
    """A microphone's colour: a random smooth curve over frequency, for a phone line only 300 to 3400 Hz."""
    size = fast_length(len(samples))
    spectrum = np.fft.rfft(samples, size)
    hertz = np.linspace(0, RATE_HZ / 2, len(spectrum))
    knots = np.array([0, 150, 400, 1000, 2500, 5000, 8000])
    decibel = np.interp(hertz, knots, random.normal(0, 4, len(knots)))
    if phone_line:
        decibel = decibel - np.clip((300 - hertz) / 8, 0, 40) - np.clip((hertz - 3400) / 15, 0, 50)
    return np.fft.irfft(spectrum * (10 ** (decibel / 20)).astype(np.float32), size)[: len(samples)].astype(np.float32)


def noise(random: np.random.Generator, count: int, kind: str) -> np.ndarray:
    """Noise of RMS 1: white, pink, brown, hum, music, or clicks (peaks above that)."""
    time = np.arange(count) / RATE_HZ
    if kind in ("white", "pink", "brown"):
        size = fast_length(count)
        spectrum = np.fft.rfft(random.standard_normal(size, np.float32))
        slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}[kind]
        shape = np.maximum(np.arange(len(spectrum), dtype=np.float32), 20) ** np.float32(-slope)
        samples = np.fft.irfft(spectrum * shape, size)[:count]
    elif kind == "hum":
        samples = 0.1 * random.standard_normal(count, np.float32)
        for _ in range(4):
            samples += 0.7 * np.sin(2 * np.pi * random.uniform(45, 400) * time + random.uniform(0, 6))
    elif kind == "music":
        samples, start = np.zeros(count), 0
        while start < count:
            length = min(int(random.uniform(0.1, 0.8) * RATE_HZ), count - start)
            t = time[:length]
            for pitch in random.choice(
                (110, 131, 147, 165, 196, 220, 262, 294, 330, 392, 440, 523), random.integers(1, 4)
            ):
                for harmonic in range(1, random.integers(2, 7)):
                    samples[start : start + length] += (
                        np.sin(2 * np.pi * pitch * harmonic * t) * np.exp(-t * 4) / harmonic
                    )
            start += length
    else:
        samples = 0.02 * random.standard_normal(count, np.float32)
        for _ in range(random.integers(1, 3 + count // RATE_HZ)):
            start = random.integers(0, max(1, count - 3000))
            length = min(int(random.integers(50, 2500)), count - start)
            burst = random.standard_normal(length) * np.exp(-5 * np.arange(length) / length)
            samples[start : start + length] += burst * random.uniform(1, 8)
        return samples.astype(np.float32)
    return (samples / (np.sqrt(np.mean(samples**2)) + 1e-9)).astype(np.float32)


NOISES = ("white", "pink", "brown", "hum", "music", "clicks")
