"""How well the reply voice is understood: a recogniser that knows nothing of this model listens.

Measured on answers, for the source (the synthesiser itself), copy synthesis (true mel, vocoder) and speech from text
(words, codes, flow, vocoder, in the server's chunks):

- forced choice: the recogniser must pick the answer among all candidates;
- free: word errors of its general English model, to be read beside those of the source;
- STOI of copy synthesis against the source.

Needs the packages in requirements-mini.txt.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from pocketsphinx import Decoder as Recogniser
from pystoi import stoi

from mini import corpus, world
from mini.corpus import FRAMES_PER_CODE, SILENT_CODE, Sentence, vocoder_mel
from mini.engines import Flite
from mini.export import load
from mini.pace import Pace
from mini.speakers import to_16k
from mini.train_flow import PROMPT, SILENCE, chunks_of
from mini.train_speaking import distance, generate, units_of
from mini.vocabulary import Vocabulary
from mini.voice import Encoder, Estimator, Speaking, Vocoder

CANDIDATES = 280
_SEED = 11


class Listener:
    """pocketsphinx with its English model: a choice among sentences, or free recognition."""

    def __init__(self) -> None:
        self._choice, self._free = (Recogniser(samprate=16000, loglevel="FATAL") for _ in range(2))

    def knows(self, text: str) -> bool:
        """Whether all words are in its dictionary."""
        return all(self._free.lookup_word(word) is not None for word in text.replace(",", " ").split())

    def offer(self, sentences: list[str]) -> None:
        """The sentences to choose from."""
        rule = " | ".join(sentences)
        self._choice.add_jsgf_string("choice", f"#JSGF V1.0; grammar choice; public <sentence> = {rule};")
        self._choice.activate_search("choice")

    def choose(self, wave: np.ndarray) -> str:
        """The sentence heard; empty when none fits. `wave` float32 at 24 kHz."""
        return self._hear(self._choice, wave)

    def transcribe(self, wave: np.ndarray) -> list[str]:
        """Words heard."""
        return self._hear(self._free, wave).split()

    def _hear(self, recogniser: Recogniser, wave: np.ndarray) -> str:
        samples = to_16k(np.pad(wave, 4800), corpus.RATE_HZ)
        recogniser.start_utt()
        recogniser.process_raw((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        recogniser.end_utt()
        found = recogniser.hyp()
        return "" if found is None else found.hypstr


class Speech:
    """The speech side: codes -> wave as the server's calls are cut."""

    def __init__(self, flow: dict, hift: dict, use_flow: bool = True):
        self._encoder, self._estimator, self._vocoder = Encoder(flow), Estimator(flow), Vocoder(hift)
        self._estimator.refresh()
        self._use_flow = use_flow

    @torch.inference_mode()
    def vocode(self, mel: np.ndarray) -> np.ndarray:
        """Mel [80, F] -> wave."""
        torch.manual_seed(0)
        tensor = torch.from_numpy(mel)[None]
        return self._vocoder.from_pitch(tensor, self._vocoder.f0(tensor))[0].numpy()

    @torch.inference_mode()
    def speak(self, codes: list[int]) -> np.ndarray:
        """Codes of a turn -> wave without the silence in front."""
        lead = PROMPT + SILENCE
        padded = torch.tensor([[SILENT_CODE] * lead + codes])
        chunks = chunks_of(padded.shape[1])
        mel = self._encoder.speak(padded, chunks)
        if self._use_flow:
            noise = torch.randn(mel.shape, generator=torch.Generator().manual_seed(0))
            mel = self._estimator.sample(noise, mel, [FRAMES_PER_CODE * size for size in chunks])
        return self.vocode(mel[0, :, lead * FRAMES_PER_CODE :].numpy())


def judge(
    makers: dict[str, Callable[[Sentence], np.ndarray]],
    tests: list[Sentence],
    candidates: list[str],
    listener: Listener,
) -> dict:
    """Forced choice, free word error rate and STOI of every signal."""
    listener.offer(candidates)
    out = {}
    for name, make in makers.items():
        chosen, wrong, words, scores = 0, 0, 0, []
        for sentence in tests:
            source, wave, text = sentence.wave(), make(sentence), plain(sentence.text)
            chosen += listener.choose(wave) == text
            wrong += distance(listener.transcribe(wave), text.split())
            words += len(text.split())
            if len(wave) == len(source):
                scores.append(stoi(source, wave, corpus.RATE_HZ))
        out[name] = {"forced_choice": round(chosen / len(tests), 3), "word_errors": round(wrong / words, 3)}
        if scores and name != "source":
            out[name]["stoi"] = round(float(np.mean(scores)), 3)
    return out


def answers(listener: Listener, count: int) -> list[str]:
    """Different answers of the world whose words the recogniser knows."""
    draw, memory = random.Random(_SEED), world.Memory()
    found: dict[str, None] = {}
    while len(found) < count:
        turn = world.sample(draw, memory)
        turn.remember(memory)
        if turn.answer and listener.knows(turn.answer):
            found[turn.answer] = None
    return list(found)


def plain(text: str) -> str:
    """Words only."""
    return " ".join(text.replace(",", " ").split())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini judge-voice`."""
    parser.add_argument("--checkpoints", type=Path, default=Path(__file__).parent / "checkpoints")
    parser.add_argument("--count", type=int, default=40, help="test sentences")
    parser.add_argument("--wavs", type=Path, help="folder for the first five of every signal")


def run(args: argparse.Namespace) -> int:
    """Prints the figures as JSON."""
    torch.set_num_threads(1)
    vocabulary, listener = Vocabulary(), Listener()
    pace = Pace.load(vocabulary.words)
    _, speaking, flow, hift = load(args.checkpoints, vocabulary)
    texts = answers(listener, CANDIDATES)
    candidates = [plain(text) for text in texts]
    flite = Flite()
    tests = [corpus.read(flite, text) for text in texts[: args.count]]
    makers = signals(speaking, Speech(flow, hift), Speech(flow, hift, use_flow=False), pace, vocabulary)
    if args.wavs is not None:
        args.wavs.mkdir(parents=True, exist_ok=True)
        for name, make in makers.items():
            for index, sentence in enumerate(tests[:5]):
                soundfile.write(args.wavs / f"{name}-{index}.wav", make(sentence), corpus.RATE_HZ, subtype="PCM_16")
    print(
        json.dumps(
            {"candidates": len(candidates), "sentences": len(tests), **judge(makers, tests, candidates, listener)},
            indent=1,
        )
    )
    return 0


def signals(
    speaking: Speaking, speech: Speech, regression: Speech, pace: Pace, vocabulary: Vocabulary
) -> dict[str, Callable]:
    """Every signal by name: sentence -> wave."""

    def from_text(sentence: Sentence) -> list[int]:
        units = generate(speaking, units_of(sentence, pace)[0], vocabulary)
        return [code for unit in units for code in unit] or [SILENT_CODE]

    return {
        "source": lambda s: s.wave(),
        "copy": lambda s: speech.vocode(vocoder_mel(s.wave())),
        "true codes, mu": lambda s: regression.speak(s.codes.tolist()),
        "true codes, flow": lambda s: speech.speak(s.codes.tolist()),
        "text, mu": lambda s: regression.speak(from_text(s)),
        "text, flow": lambda s: speech.speak(from_text(s)),
    }
