"""Conversations: a stream of audio and what the model should do in every unit of one second.

The rules that the units follow:

- the unit that contains the end of a question plus 200 ms is the first that speaks, never while the user pauses to
  think;
- an answer is spoken unit by unit as `pace` says; its last unit ends with turn_eos;
- a user who begins to talk into an answer with a question or a "stop" is listened to from the unit on that holds 0.4 s
  of it: that unit is turn_eos, listen (what the server also feeds when a client forces it to listen);
- short words of agreement, a distant second speaker, the model's own voice in the microphone, noise and music change
  nothing;
- a question can be typed: it follows the audio of a unit, which is the first that speaks.
"""

import random
from dataclasses import dataclass, field

import numpy as np

from mini import facts, world
from mini.features import LEAD_SAMPLES, RATE_HZ, stream_samples
from mini.pace import Pace, spoken
from mini.speakers import LEVEL, NOISES, Speaker, Studio, Utterance, colour, convolve, finish, noise, reverberation

LISTEN = ["<|listen|>"]
INTERRUPTED = ["<|turn_eos|>", "<|listen|>"]
HANG_S = 0.2
HEARD_S = 0.4
# Part of the questions that are typed.
TYPED = 0.07
# Part of the transcriptions that are words without a sentence.
WORD_LISTS = 0.5
KINDS = {"one": 52, "two": 16, "talk": 5, "long": 2.5, "interrupted": 14, "noise": 7, "far": 4}
# Kinds without a question: nobody, or somebody at the other end of the room.
UNASKED = ("noise", "far")


@dataclass
class Exchange:
    """One question of a session: `asked` and `ended` are stream seconds, `unit` the first that answers."""

    turn: world.Turn
    asked: float
    ended: float
    unit: int
    interrupts: int | None = None


@dataclass
class Session:
    """`units[i]`: what the model should produce in unit i, without `</unit>`. `phones`: as in `Utterance`, in stream
    seconds. `typed`: questions that were typed, by the unit that they reach."""

    kind: str
    stream: np.ndarray
    units: list[list[str]]
    exchanges: list[Exchange] = field(default_factory=list)
    phones: list[tuple[float, float, int, int]] = field(default_factory=list)
    typed: dict[int, str] = field(default_factory=dict)

    def first(self, units: int) -> "Session":
        """The session as it stands after `units` units."""
        phones = [phone for phone in self.phones if phone[0] < units]
        typed = {unit: text for unit, text in self.typed.items() if unit < units}
        return Session(
            self.kind, self.stream[: stream_samples(units)], self.units[:units], self.exchanges, phones, typed
        )


class Director:
    """Makes sessions. `seed` fixes everything it draws; one per process. `studio`: the engines (default: the installed
    ones). `sample`: chooses the questions (default: the whole world)."""

    def __init__(self, pace: Pace, seed: int, studio: Studio | None = None, sample: world.Skill = world.sample):
        self._studio, self.sample = studio or Studio(), sample
        self._pace = pace
        self._draw = random.Random(seed)
        self._noise = np.random.default_rng(seed)

    def session(
        self, kind: str | None = None, voices: str = "train", clean: bool = False, noise_db: float | None = None
    ) -> Session:
        """A session of a kind of `KINDS` (drawn when not given). `voices`: see `Speaker`. `clean`: no room, no noise.
        `noise_db`: white noise at this distance below the speech."""
        draw = self._draw
        kind = kind or draw.choices(list(KINDS), list(KINDS.values()))[0]
        scene = _Scene(self, kind, Speaker(self._studio, draw, voices))
        if kind in UNASKED:
            scene.units = [LISTEN] * draw.randint(3, 8)
        else:
            turns = {"one": 1, "two": 2, "talk": draw.randint(3, 6), "long": draw.randint(7, 14), "interrupted": 2}[
                kind
            ]
            scene.converse(turns)
        return scene.record(clean, noise_db, voices != "train")

    def transcription(self, voices: str = "train") -> Session:
        """A question, or words of the open vocabulary in no order, whose answer is the same words, all in one unit."""
        if self._draw.random() < WORD_LISTS:
            pieces = (" ".join(self._draw.sample(facts.ECHO + facts.NAMES, self._draw.randint(2, 5))),)
        else:
            pieces = world.sample_known(self._draw).pieces
        turn = world.Turn("transcription", pieces, " ".join(pieces))
        scene = _Scene(self, "transcription", Speaker(self._studio, self._draw, voices))
        utterance = scene.place(turn, self._draw.uniform(0.02, 1.3))
        unit = scene.listen_until(utterance)
        scene.units.append(["<|speak|>", *turn.question.split(), "<|turn_eos|>", "<|chunk_eos|>"])
        scene.exchanges.append(Exchange(turn, *utterance, unit))
        return scene.record(False, None, False)


class _Scene:
    """A session in the making."""

    def __init__(self, director: Director, kind: str, speaker: Speaker):
        self._director, self._draw, self._speaker = director, director._draw, speaker
        self.kind = kind
        self.units: list[list[str]] = []
        self.exchanges: list[Exchange] = []
        self.typed: dict[int, str] = {}
        self._clips: list[tuple[float, Utterance, float]] = []
        self._quiet: list[tuple[float, np.ndarray]] = []
        self._memory = world.Memory()

    def place(self, turn: world.Turn, start: float) -> tuple[float, float]:
        """Lets the user ask at `start` (stream seconds) -> (start, end). Sometimes with pauses to think."""
        pieces = [turn.question]
        if len(turn.pieces) > 1 and self._draw.random() < 0.2:
            pieces = list(turn.pieces)
        gain, at = 10 ** self._draw.uniform(-0.2, 0.2), start
        for index, piece in enumerate(pieces):
            at += self._draw.uniform(0.25, 1.2) if index else 0
            utterance = self._speaker.say(piece)
            self._clips.append((at, utterance, gain))
            at += len(utterance.samples) / RATE_HZ
        return start, at

    def listen_until(self, span: tuple[float, float], earliest: int = 0) -> int:
        """Adds listening units up to the one that answers; returns its number."""
        unit = max(int(span[1] + HANG_S), earliest)
        self.units += [LISTEN] * (unit - len(self.units))
        return unit

    def converse(self, turns: int) -> None:
        """The user asks `turns` questions; in kind `interrupted` the second one falls into the first answer."""
        draw, start, broken = self._draw, self._draw.uniform(0.05, 1.6), None
        for index in range(turns):
            last = index == turns - 1
            interrupt = not last and draw.random() < {"interrupted": 1.0, "long": 0.2, "talk": 0.2}.get(self.kind, 0)
            turn = self._choose(long=interrupt, stops=broken is not None)
            if self.kind != "interrupted" and broken is None and draw.random() < TYPED:
                unit, span = self._type(turn, start)
            else:
                span = self.place(turn, start)
                # The unit that breaks off can not be the one that answers.
                unit = self.listen_until(span, len(self.units))
            self.exchanges.append(Exchange(turn, *span, unit, broken))
            turn.remember(self._memory)
            spoken_units = self._director._pace.units(turn.answer) if turn.answer else []
            self._answer(spoken_units)
            if not spoken_units:
                self.units.append(LISTEN)
            broken = None
            if interrupt and len(spoken_units) >= 2:
                start = draw.uniform(unit + 0.9, unit + len(spoken_units) - 0.45)
                broken = int(start) if int(start) + 1 - start >= HEARD_S else int(start) + 1
                if broken > unit and broken < unit + len(spoken_units):
                    self.units = [*self.units[:broken], INTERRUPTED]
                    continue
                broken = None
            if len(spoken_units) > 1 and draw.random() < 0.3:
                self._agree(unit, len(spoken_units))
            start = len(self.units) + draw.uniform(0.05, 1.3) + (draw.randint(0, 3) if draw.random() < 0.2 else 0)
        self.units += [LISTEN] * draw.choice((0, 1, 1, 2))

    def _type(self, turn: world.Turn, start: float) -> tuple[int, tuple[float, float]]:
        """A typed question -> (the unit that it reaches and that answers, its (start, end))."""
        unit = max(int(start), len(self.units))
        self.units += [LISTEN] * (unit - len(self.units))
        self.typed[unit] = turn.question + ("?" if self._draw.random() < 0.2 else "")
        return unit, (float(unit), unit + 1.0 - HANG_S)

    def _choose(self, long: bool, stops: bool) -> world.Turn:
        draw = self._draw
        if stops and draw.random() < 0.4:
            return world.stop(draw, self._memory)
        sample = self._director.sample
        turn = sample(draw, self._memory)
        if long:
            # Half of the interrupted answers are stories and lists, which is what people interrupt.
            if draw.random() < 0.5:
                return draw.choice((world.story, world.joke, world.counting))(draw, self._memory)
            while len(turn.answer.split()) < 7:
                turn = sample(draw, self._memory)
        return turn

    def _answer(self, units: list[list[str]]) -> None:
        for index, words in enumerate(units):
            ends = ["<|turn_eos|>"] if index == len(units) - 1 else []
            self.units.append(["<|speak|>", *words, *ends, "<|chunk_eos|>"])

    def _agree(self, unit: int, count: int) -> None:
        """The user says "uh huh" into an answer, which goes on. Heard one unit after it was decided."""
        utterance = self._speaker.say(self._draw.choice(facts.BACKCHANNELS))
        self._clips.append((self._draw.uniform(unit + 1, unit + count - 0.3), utterance, 0.8))

    def _own_voice(self) -> None:
        """What the loudspeaker plays reaches the microphone."""
        draw, director = self._draw, self._director
        for exchange in self.exchanges:
            count = sum("<|speak|>" in unit for unit in self.units[exchange.unit : exchange.unit + 30])
            if not exchange.turn.answer or count > 8:
                continue
            try:
                speech, _ = spoken(director._studio.flite, exchange.turn.answer)
            except ValueError:
                continue
            echo = convolve(finish(speech, 1).samples, reverberation(director._noise, draw.uniform(0.05, 0.25), 0.1))
            following = next(
                (e.interrupts for e in self.exchanges if e.interrupts and e.interrupts > exchange.unit), None
            )
            if following is not None:
                echo = echo[: int((following - exchange.unit) * RATE_HZ)]
            self._quiet.append((exchange.unit + 1 + draw.uniform(0.05, 0.3), echo * 10 ** draw.uniform(-1.4, -0.6)))

    def _far_speaker(self) -> None:
        """Somebody talks at the other end of the room."""
        draw, random_ = self._draw, self._director._noise
        other = Speaker(self._director._studio, draw)
        text = draw.choice(facts.OUTSIDE) if draw.random() < 0.5 else world.sample_known(draw).question
        far = convolve(other.say(text).samples, reverberation(random_, draw.uniform(0.3, 0.6), draw.uniform(0.1, 0.2)))
        far *= LEVEL / (np.sqrt(np.mean(far**2)) + 1e-6) * 10 ** draw.uniform(-1.6, -1.0)
        self._quiet.append((draw.uniform(0, max(0.1, len(self.units) - 1)), far))

    def record(self, clean: bool, noise_db: float | None, test: bool) -> Session:
        """Mixes everything into one stream."""
        draw, random_ = self._draw, self._director._noise
        count = stream_samples(len(self.units))
        stream = np.zeros(count, np.float32)
        for at, utterance, gain in self._clips:
            _add(stream, utterance.samples * gain, at)
        if not (clean or test):
            if self.kind != "transcription" and draw.random() < 0.06:
                self._own_voice()
            if self.kind == "far" or (self.kind != "noise" and draw.random() < 0.06):
                self._far_speaker()
            if self._clips and draw.random() < 0.35:
                stream = convolve(stream, reverberation(random_, draw.uniform(0.05, 0.35), draw.uniform(0.02, 0.12)))
        for at, samples in self._quiet:
            _add(stream, samples, at)
        if noise_db is not None:
            stream += noise(random_, count, "white") * LEVEL * 10 ** (-noise_db / 20)
        elif not clean:
            if self.kind in UNASKED or draw.random() < 0.7:
                loudness = draw.uniform(-50, -2) if self.kind in UNASKED else draw.uniform(-50, -8)
                stream += noise(random_, count, draw.choice(NOISES)) * LEVEL * 10 ** (loudness / 20)
            if draw.random() < 0.4:
                stream = colour(stream, random_, draw.random() < 0.2)
            stream *= 10 ** draw.uniform(-1.1, 0.45)
        if clean or draw.random() < 0.9:
            stream += random_.standard_normal(count, np.float32) * np.float32(1e-5)
        stream[:LEAD_SAMPLES] = 0
        phones = [
            (at + start, at + end, engine, phone)
            for at, utterance, _ in self._clips
            for start, end, engine, phone in utterance.phones
        ]
        return Session(self.kind, np.clip(stream, -1, 1), self.units, self.exchanges, phones, self.typed)


def _add(stream: np.ndarray, samples: np.ndarray, at: float) -> None:
    first = int(at * RATE_HZ)
    samples = samples[: max(0, len(stream) - first)]
    stream[first : first + len(samples)] += samples
