"""Training batches of sessions, made by a process of their own while the model trains."""

import multiprocessing as mp
import os
import queue
import random

from mini import world
from mini.layout import Example, chat, collate, example
from mini.pace import Pace
from mini.sessions import Director
from mini.vocabulary import Vocabulary

# Audio of one batch in seconds on a CPU, and how many batches are made at once so that sessions of a similar length
# meet.
UNITS_PER_BATCH = 60
_POOL = 6
# Batches waiting; the maker waits when they are not taken.
_QUEUE = 16
CHATS_PER_BATCH = 64
# One written batch after this many spoken ones.
SPOKEN_PER_CHAT = 2


class BatchMaker:
    """An endless stream of `collate` batches. Until `mix` is called: single questions only, cut after the first
    answering unit, half of them to transcribe; from then on everything."""

    def __init__(self, vocabulary: Vocabulary, pace: Pace, seed: int, makers: int = 1, units: int = UNITS_PER_BATCH):
        # A fresh interpreter per maker: a forked one would inherit the state of a GPU.
        context = mp.get_context("spawn")
        self._queue: mp.Queue = context.Queue(_QUEUE)
        self._mixed = context.Value("b", 0)
        self._makers = []
        for index in range(makers):
            arguments = (self._queue, self._mixed, vocabulary.words, pace.durations, f"{seed} {index}", units)
            self._makers.append(context.Process(target=_make, args=arguments, daemon=True))
            self._makers[-1].start()

    def mix(self) -> None:
        """All kinds of sessions from now on (batches that wait already come first)."""
        self._mixed.value = 1

    def next(self) -> dict:
        """The next batch; numpy arrays. Raises `RuntimeError` when the maker has died."""
        while True:
            try:
                return self._queue.get(timeout=60)
            except queue.Empty:
                if not all(maker.is_alive() for maker in self._makers):
                    raise RuntimeError("a process that makes sessions has ended; its error stands above") from None


def _make(batches_out: mp.Queue, mixed, words: list[str], durations: dict, seed: str, most: int) -> None:
    os.nice(5)
    vocabulary, draw = Vocabulary(words), random.Random(seed)
    director = Director(Pace(durations), draw.getrandbits(32), sample=world.practise_spoken)
    while True:
        pool, units = [], 0
        while units < _POOL * most:
            pool.append(one(director, draw, vocabulary, bool(mixed.value)))
            units += pool[-1].units
        pool.sort(key=lambda e: e.units)
        batches = [collate(group) for group in grouped(pool, most)]
        batches += [
            collate([written(draw, vocabulary) for _ in range(CHATS_PER_BATCH)])
            for _ in range(max(1, len(batches) // SPOKEN_PER_CHAT))
        ]
        draw.shuffle(batches)
        for batch in batches:
            batches_out.put(batch)


def one(director: Director, draw: random.Random, vocabulary: Vocabulary, mixed: bool) -> Example:
    """One spoken example."""
    if draw.random() < (0.25 if mixed else 0.5):
        return example(director.transcription(), vocabulary)
    if mixed:
        return example(director.session(), vocabulary)
    session = director.session("one")
    return example(session.first(session.exchanges[0].unit + 1), vocabulary)


def written(draw: random.Random, vocabulary: Vocabulary) -> Example:
    """One written conversation of one to three questions."""
    memory, pairs = world.Memory(), []
    while len(pairs) < draw.randint(1, 3):
        turn = world.practise_written(draw, memory)
        if turn.intent == "unknown":
            # Words outside the vocabulary cannot be written; those of the world in no order can.
            turn = world.Turn("unknown", (scrambled(draw),), world.UNKNOWN)
        turn.remember(memory)
        pairs.append((turn.question, turn.answer))
    return chat(pairs, vocabulary)


def scrambled(draw: random.Random) -> str:
    """Known words in no order."""
    words = " ".join(world.sample_known(draw).question for _ in range(3)).split()
    draw.shuffle(words)
    return " ".join(words[: draw.randint(4, 8)])


def grouped(pool: list[Example], most: int = UNITS_PER_BATCH) -> list[list[Example]]:
    """Sorted examples in groups that hold at most `most` units, padding included; a longer example is alone."""
    groups: list[list[Example]] = [[]]
    for item in pool:
        if groups[-1] and (len(groups[-1]) + 1) * item.units > most:
            groups.append([])
        groups[-1].append(item)
    return groups
