#!/usr/bin/env python3
"""Makes the recordings of the barge-in tests: sounds that must not stop the agent, and interruptions that must.

    sudo apt-get install espeak-ng flite && ../../models/.venv/bin/python make.py

Backchannels and interruptions are spoken by the free voices of espeak-ng and flite (awb, rms, slt); coughs and throat
clearing are noise and a buzz through the resonances of a mouth. Everything is 16 kHz, mono, 16 bit, at most one second,
at a stated level. A backchannel is shorter than the 450 ms of voice that count as an interruption: by its length alone,
nothing tells a longer "mm-hm" from a word. `index.json` lists every file with its level and its first voiced sample,
the zero point of the figures.

The files are committed, so the tests need neither program. Random numbers are seeded; other versions of the voices give
other files.
"""

import io
import json
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RATE = 16000
HERE = Path(__file__).parent

# name, voice, text (espeak-ng phonemes in [[ ]]), speed in words a minute, level in dBFS
BACKCHANNELS = [
    ("mm_hm_1", "en-us", "[[m'm?h'm]]", 200, -24),
    ("mm_hm_2", "en-us+m3", "[[m'mh'm]]", 190, -28),
    ("mm_hm_3", "en-us+f3", "[[m'mh'm]]", 210, -22),
    ("uh_huh_1", "flite:awb", "uh huh", 0, -22),
    ("uh_huh_2", "flite:slt", "uh huh", 0, -26),
    ("uh_huh_3", "en-us+Andy", "[['Vh'V]]", 200, -30),
    ("hmm_1", "en-us", "hmm", 200, -24),
    ("hmm_2", "en-us+f3", "hmm", 210, -20),
    ("hmm_3", "en-us+Alicia", "hmm", 220, -28),
    ("mm_1", "en-us+m3", "mm", 230, -24),
    ("yeah_1", "flite:slt", "yeah", 0, -24),
    ("yeah_2", "flite:awb", "yeah", 0, -20),
    ("right_1", "en-us+f3", "right", 210, -26),
]
INTERRUPTIONS = [
    ("stop_stop", "flite:rms", "stop, stop", 0, -24),
    ("wait_a_second", "flite:slt", "wait a second", 0, -22),
    ("no_tell_me", "flite:awb", "no, tell me more", 0, -26),
    ("hold_on", "en-us", "hold on please", 190, -24),
    ("excuse_me", "en-us+f3", "excuse me", 160, -28),
    ("what_about", "flite:rms", "what about tomorrow", 0, -32),
    ("no_no_no", "en-us+m3", "no no no no", 190, -18),
    ("be_quiet", "flite:slt", "be quiet now", 0, -30),
]
# name, level in dBFS, how much voice is in it (relative to the peak of the noise); made by the functions below
COUGHS = [
    ("cough_1", -14, 0.2),
    ("cough_2", -20, 0.7),
    ("cough_3", -26, 1.5),
    ("double_cough_1", -16, 0.4),
    ("double_cough_2", -24, 1.5),
]
THROATS = [("throat_1", -22, 0.0), ("throat_2", -26, 1.0)]


def read_wav(data: bytes) -> tuple[np.ndarray, int]:
    """Samples of a 16-bit mono wav; espeak-ng writes to a pipe, so the length in the header is not to be trusted."""
    with wave.open(io.BytesIO(data)) as file:
        rate = file.getframerate()
    body = data[data.index(b"data") + 8 :]
    return np.frombuffer(body[: len(body) // 2 * 2], dtype="<i2") / 32768, rate


def to_rate(samples: np.ndarray, rate: int) -> np.ndarray:
    """Band-limited change of rate by cutting the spectrum."""
    if rate == RATE:
        return samples
    count = round(len(samples) * RATE / rate)
    return np.fft.irfft(np.fft.rfft(samples)[: count // 2 + 1], count) * count / len(samples)


def speak(voice: str, text: str, speed: int) -> np.ndarray:
    """The first second of it."""
    if voice.startswith("flite:"):
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            subprocess.run(["flite", "-voice", voice[6:], "-t", text, "-o", file.name], check=True)
            data = Path(file.name).read_bytes()
    else:
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
        data = subprocess.run(command, check=True, capture_output=True).stdout
    return trim(to_rate(*read_wav(data)))[:RATE]


def trim(samples: np.ndarray) -> np.ndarray:
    """Without the silence around it (40 dB below the peak)."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def mouth(samples: np.ndarray, resonances: list[tuple[float, float, float]]) -> np.ndarray:
    """The source through parallel resonances (Hz, bandwidth in Hz, gain)."""
    freqs = np.fft.rfftfreq(len(samples), 1 / RATE)
    shape = sum(gain / (1 + ((freqs - centre) / (width / 2)) ** 2) for centre, width, gain in resonances)
    return np.fft.irfft(np.fft.rfft(samples) * np.sqrt(shape), len(samples))


def envelope(points: list[tuple[float, float]], count: int) -> np.ndarray:
    """Straight lines through (seconds, gain)."""
    times, gains = zip(*points, strict=True)
    return np.interp(np.arange(count) / RATE, times, gains)


def buzz(pitch_hz: np.ndarray) -> np.ndarray:
    """Pulses of the vocal folds through an open mouth, peak 1."""
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / RATE), prepend=0)
    sound = mouth(pulses, [(550, 120, 1), (1400, 200, 0.4), (2500, 300, 0.1)])
    return sound / np.abs(sound).max()


def cough(rng: np.random.Generator, voiced: float) -> np.ndarray:
    """A burst, a hiss that falls, and a short voiced end (the three phases of a cough)."""
    length = rng.uniform(0.24, 0.34)
    count = int(length * RATE)
    noise = rng.normal(size=count) * envelope([(0, 0), (0.008, 1), (0.05, 0.45), (0.16, 0.2), (length, 0)], count)
    burst = mouth(noise, [(450, 300, 1), (1500, 600, 0.8), (2700, 900, 0.5), (4500, 2500, 0.2)])
    end = buzz(envelope([(0, 190), (length, 110)], count)) * envelope([(0, 0), (0.1, 0), (0.14, 1), (length, 0)], count)
    return burst / np.abs(burst).max() + voiced * end


def throat(rng: np.random.Generator, voiced: float) -> np.ndarray:
    """Clearing the throat: rough noise, chopped by the folds some thirty times a second."""
    length = rng.uniform(0.32, 0.42)
    count = int(length * RATE)
    rattle = 0.3 + 0.7 * (np.sin(2 * np.pi * np.cumsum(rng.normal(32, 6, size=count)) / RATE) > 0)
    shape = envelope([(0, 0), (0.04, 1), (length - 0.1, 0.7), (length, 0)], count)
    rough = mouth(rng.normal(size=count) * rattle * shape, [(350, 250, 1), (1100, 400, 0.5), (2300, 700, 0.2)])
    return rough / np.abs(rough).max() + voiced * shape * buzz(rng.normal(85, 20, size=count))


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return np.dot(a, b) / np.sqrt(1e-12 + np.dot(a, a) * np.dot(b, b))


def first_voiced(samples: np.ndarray) -> int | None:
    """First sample of the first 24 ms that are loud (25 dB below the loudest or more) and periodic (70 to 400 Hz)."""
    width, hop = 384, 80
    levels = [np.sqrt(np.mean(samples[at : at + width] ** 2)) for at in range(0, len(samples) - width, hop)]
    for number, level in enumerate(levels):
        part = samples[number * hop : number * hop + width]
        part = part - part.mean()
        lags = range(RATE // 400, RATE // 70)
        same = max(similarity(part[:-lag], part[lag:]) for lag in lags)
        if level > max(levels) * 10 ** (-25 / 20) and same > 0.6:
            return number * hop
    return None


@dataclass
class Recording:
    name: str
    kind: str
    text: str
    voice: str
    level_dbfs: int
    samples: np.ndarray

    def write(self) -> dict:
        """Writes the wav at its level with fades of 5 ms; returns its line of the index."""
        fade = np.minimum(1, np.arange(len(self.samples)) / (0.005 * RATE))
        sound = self.samples * fade * fade[::-1]
        sound = sound / np.sqrt(np.mean(sound**2)) * 10 ** (self.level_dbfs / 20)
        sound = np.clip(sound, -0.99, 0.99)
        assert len(sound) <= RATE, f"{self.name} lasts {len(sound) / RATE:.2f} s"
        path = HERE / self.kind / f"{self.name}.wav"
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(np.round(sound * 32767).astype("<i2").tobytes())
        return {
            "file": f"{self.kind}/{self.name}.wav",
            "text": self.text,
            "voice": self.voice,
            "level_dbfs": self.level_dbfs,
            "samples": len(sound),
            "first_voiced_sample": first_voiced(sound),
        }


def main() -> None:
    rng = np.random.default_rng(3)
    recordings = []
    for kind, table in (("backchannel", BACKCHANNELS), ("interruption", INTERRUPTIONS)):
        for name, voice, text, speed, level in table:
            recordings.append(Recording(name, kind, text, voice, level, speak(voice, text, speed)))
    for name, level, voiced in COUGHS:
        parts = [cough(rng, voiced)]
        if name.startswith("double"):
            parts += [np.zeros(int(rng.uniform(0.1, 0.2) * RATE)), 0.7 * cough(rng, voiced)]
        recordings.append(Recording(name, "backchannel", "(cough)", "noise", level, np.concatenate(parts)))
    for name, level, voiced in THROATS:
        recordings.append(Recording(name, "backchannel", "(clears throat)", "noise", level, throat(rng, voiced)))
    recordings.sort(key=lambda recording: (recording.kind, recording.name))
    lines = [recording.write() for recording in recordings]
    (HERE / "index.json").write_text("[\n" + ",\n".join("  " + json.dumps(line) for line in lines) + "\n]\n")


if __name__ == "__main__":
    main()
