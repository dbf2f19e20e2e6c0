"""How fast the reply voice speaks: which words of an answer belong to which unit.

The first unit of an answer holds more than a second of speech. The vocoder keeps the end of what it was given until the
next unit's codes come, and that must not be heard as a gap: a listener plays the first unit while the second is made.

Word durations are measured once with the reply voice and averaged over contexts. Single words deviate by some
hundredths of a second either way, which the speech model learns to even out; the sum over a long story stays right.
"""

import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mini.engines import Flite, Speech

VOICE, STRETCH = "slt", 1.05
# Measured once, kept beside the trained weights that were taught with it.
TABLE = Path(__file__).parent / "pace.json"
# Speech of an answer's first unit, and by how much it is ahead of the units.
FIRST_S = 1.4
AHEAD_S = FIRST_S - 1.0
# A unit's text must stay below the manifest's max_chars_per_unit (28), and its tokens below max_new_speak_tokens (20).
MAX_CHARACTERS, MAX_WORDS = 27, 16
# What flite leaves out before the first word and after the last one, as trimmed by `spoken`.
LEAD_S = 0.04
# The last word of an answer is drawn out and fades: rather a little too long, for speech past the last unit is cut.
FINAL_S = 0.35
_WORDS_PER_SENTENCE, _ROUNDS = 8, 3


def spoken(flite: Flite, text: str) -> tuple[Speech, list[tuple[str, float]]]:
    """(speech of `text` by the reply voice without flite's silence around it, words with their start in seconds).

    Raises `ValueError` when flite read other words than were written (numerals, abbreviations)."""
    speech = flite.say(text.replace(" ,", ","), VOICE, STRETCH)
    words = text.replace(",", " ").split()
    if len(words) != len(speech.words):
        raise ValueError(f"flite reads {text!r} as {[name for _, name in speech.words]}")
    rate = speech.rate_hz
    first = max(0, int((speech.words[0][0] - LEAD_S) * rate))
    loud = np.flatnonzero(np.abs(speech.samples) > 0.004)
    end = min(len(speech.samples), (int(loud[-1]) if len(loud) else 0) + int(0.06 * rate))
    samples = speech.samples[first:end]
    starts = [start - first / rate for start, _ in speech.words]
    return Speech(samples, rate, [(start - first / rate, name) for start, name in speech.phones]), list(
        zip(words, starts, strict=True)
    )


class Pace:
    """Seconds from a word's start to the next word's start, by word; `,` is the pause that a comma adds."""

    def __init__(self, durations: dict[str, float]):
        self.durations = durations
        self._mean = float(np.mean(list(durations.values())))

    @classmethod
    def load(cls, words: list[str], path: Path = TABLE) -> "Pace":
        """From `path`; words that are not there are measured first and added."""
        known = json.loads(path.read_text()) if path.is_file() else {}
        missing = [word for word in [*words, ","] if word not in known]
        if missing:
            # What is known stays: the answers that were practised so far were timed by it, the comma too.
            known = measure([word for word in missing if word != ","]) | known
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known, indent=0, sort_keys=True))
        return cls(known)

    def starts(self, words: list[str]) -> list[float]:
        """Start in seconds of every word or comma, and the end of the last as one more entry."""
        times = [LEAD_S]
        for word in words:
            times.append(times[-1] + self.durations.get(word, self._mean))
        return times

    def units(self, answer: str) -> list[list[str]]:
        """The words and commas of an answer, unit by unit; the last unit may have none."""
        items = answer.replace(",", " ,").split()
        starts = self.starts(items)
        units: list[list[str]] = [[]]
        for item, start in zip(items, starts, strict=False):
            while len(units) < _unit_at(start) + 1:
                units.append([])
            characters = sum(len(word) + (word != ",") for word in [*units[-1], item])
            if characters > MAX_CHARACTERS or len(units[-1]) >= MAX_WORDS:
                units.append([])
            units[-1].append(item)
        while len(units) < _unit_at(starts[-1] + FINAL_S) + 1:
            units.append([])
        return units


def _unit_at(second: float) -> int:
    """The unit of an answer that speaks at `second` of it."""
    return max(0, int(second - AHEAD_S))


def measure(words: list[str]) -> dict[str, float]:
    """Durations of `words` by the reply voice: the mean over several random sentences."""
    flite, draw = Flite(), random.Random(0)
    found: dict[str, list[float]] = defaultdict(list)
    pauses = []
    for _ in tqdm(range(_ROUNDS), desc="pace", disable=None):
        mixed = draw.sample(words, len(words))
        for i in range(0, len(mixed), _WORDS_PER_SENTENCE):
            # A filler at both ends: the first and the last word of a sentence are spoken differently.
            sentence = ["now", *mixed[i : i + _WORDS_PER_SENTENCE], "now"]
            try:
                starts = [start for _, start in spoken(flite, " ".join(sentence))[1]]
                with_comma = [start for _, start in spoken(flite, ", ".join(sentence[:3]))[1]]
            except ValueError:
                continue
            for word, start, end in zip(sentence[1:-1], starts[1:-1], starts[2:], strict=True):
                found[word].append(end - start)
            pauses.append((with_comma[2] - with_comma[1]) - (starts[2] - starts[1]))
    return {
        **{word: round(float(np.mean(values)), 3) for word, values in found.items()},
        ",": round(float(np.mean(pauses)), 3),
    }
