"""How well the model hears: greedy decoding of whole sessions, unit by unit, as the server does it.

Sets: `train` (trained voices), `espeak` (held-out variants), `rms` (a held-out flite voice), `snr15` (held-out espeak
with white noise 15 dB below the speech), `noise` (nobody speaks: noises, music, silence), `far` (nobody but a second
speaker at the other end of the room, in noise), `interrupted` (the user talks into an answer),
`talk` (conversations of 3 to 6 questions, some of which need what was said before).
Sessions of a set are the same at every call.
"""

from collections import Counter
from dataclasses import dataclass, field

import torch

from mini import facts, world
from mini.features import unit_mels
from mini.hearing import Hearing
from mini.layout import ROWS_PER_UNIT, system_prompt
from mini.pace import Pace
from mini.sessions import Director, Session
from mini.store import tensor
from mini.vocabulary import Vocabulary

QUICK = 30
SETS = {
    "train": {"kind": "one"},
    "espeak": {"kind": "one", "voices": "espeak", "noise_db": 45},
    "rms": {"kind": "one", "voices": "rms", "noise_db": 45},
    "snr15": {"kind": "one", "voices": "espeak", "noise_db": 15},
    "noise": {"kind": "noise"},
    "interrupted": {"kind": "interrupted", "voices": "espeak", "noise_db": 45},
    "talk": {"kind": "talk", "voices": "espeak", "noise_db": 45},
    "far": {"kind": "far"},
}
# What only somebody who remembers can answer; so is a question that begins with "and".
RECALL = {"my name", "last number", "again"}
_SEED = 4242
# Steps of a unit (manifest duplex.max_new_speak_tokens), the terminator included.
_MOST_STEPS = 20
_CLASSES = [
    {facts.number(n).split()[-1] for n in range(101)},
    set(facts.DAYS),
    set(facts.MONTHS),
    set(facts.COLOURS) | set(facts.SOUNDS) | set(facts.LEGS),
    set(facts.COLOURS.values()),
    set(facts.CAPITALS),
    set(facts.CAPITALS.values()),
    set(facts.OPPOSITES),
    set(facts.SOUNDS.values()),
    set(facts.NAMES),
    set("abcdefghijklmnopqrstuvwxyz") - {"a", "i"},
    set(facts.ECHO),
    set(facts.LIKES),
]


def ends_silently(unit: list[str]) -> bool:
    """The unit ends a turn and says nothing: turn_eos, and then listen or not. The server reports both alike, for in
    both it lets the end of the sentence be heard (server/session/src/dialogue.rs)."""
    return "<|turn_eos|>" in unit and all(item.startswith("<|") for item in unit)


def skeleton(answer: str) -> str:
    """An answer with its slot words replaced by their class: equal for equal intents."""
    out: list[str] = []
    for word in answer.replace(",", " ").split():
        kind = next((f"#{i}" for i, words in enumerate(_CLASSES) if word in words), word)
        if not (out and out[-1] == kind and kind.startswith("#")):
            out.append(kind)
    return " ".join(out)


@torch.inference_mode()
def decode(model: Hearing, vocabulary: Vocabulary, session: Session) -> list[list[str]]:
    """The model's own units for a session's audio: `session.units` by greedy decoding."""
    ids = vocabulary.ids
    rows = model.rows(tensor(unit_mels(session.stream))[None])[0]
    caches: list[list] = [[] for _ in model.llm.model.layers]

    def feed(x: torch.Tensor) -> int:
        hidden = model.llm.model(x, caches)
        return int(model.llm.lm_head(hidden[0, -1]).argmax())

    def embed(*tokens: int) -> torch.Tensor:
        return model.llm.model.embed_tokens(torch.tensor([tokens]))

    feed(embed(*system_prompt(vocabulary, session.kind == "transcription")))
    ends = {ids[name] for name in ("<|listen|>", "<|chunk_eos|>", "<|chunk_tts_eos|>")}
    units, turn_open = [], False
    for index in range(len(session.units)):
        span = rows[:, index * ROWS_PER_UNIT : (index + 1) * ROWS_PER_UNIT]
        rows_in = [embed(ids["<unit>"]), span]
        if index in session.typed:
            rows_in.append(embed(*vocabulary.encode_typed(session.typed[index])))
        token, unit = feed(torch.cat(rows_in, 1)), []
        for step in range(_MOST_STEPS):
            if token == ids["<|listen|>"] and turn_open:
                # The server does not let an open turn listen (server/session/src/dialogue.rs).
                token = ids["<|tts_bos|>"]
            if step == _MOST_STEPS - 1:
                token = ids["<|chunk_eos|>"]
            unit.append(vocabulary.names.get(token, "?"))
            if token in ends:
                break
            turn_open = token != ids["<|turn_eos|>"]
            token = feed(embed(token))
        feed(embed(token, ids["</unit>"]))
        units.append(unit)
    return units


def spoken_words(unit: list[str]) -> list[str]:
    """Words of a unit, commas left out."""
    return [item for item in unit if not item.startswith("<") and item != ","]


def answer_from(units: list[list[str]], first: int) -> str:
    """Words from unit `first` up to the end of the turn."""
    words: list[str] = []
    for unit in units[first:]:
        if "<|speak|>" not in unit:
            break
        words += spoken_words(unit)
        if "<|turn_eos|>" in unit:
            break
    return " ".join(words)


@dataclass
class Tally:
    """Counts of one set. `errors` are (asked, wanted, said)."""

    asked: int = 0
    intent: int = 0
    exact: int = 0
    outside: int = 0
    outside_told: int = 0
    timely: int = 0
    early: int = 0
    units: int = 0
    false_speech: int = 0
    breaks: int = 0
    broken: int = 0
    turns: int = 0
    turns_exact: int = 0
    recalls: int = 0
    recalls_exact: int = 0
    errors: list[tuple[str, str, str]] = field(default_factory=list)
    intents: Counter[str] = field(default_factory=Counter)
    intents_exact: Counter[str] = field(default_factory=Counter)

    def add(self, session: Session, units: list[list[str]]) -> None:
        """Counts one decoded session: its first answered exchange, or its silence, or its interruption."""
        self.units += len(units)
        first = next((e for e in session.exchanges if e.turn.answer), None)
        spoke = next((i for i, unit in enumerate(units) if "<|speak|>" in unit), None)
        if not session.exchanges:
            self.false_speech += sum("<|speak|>" in unit for unit in units)
        if first is None:
            return
        if session.kind == "interrupted":
            self._add_break(session, units)
            return
        if session.kind == "talk":
            self._add_talk(session, units)
            return
        self.asked += 1
        self.early += spoke is not None and spoke < first.unit
        self.timely += spoke == first.unit
        said = "" if spoke is None else answer_from(units, spoke)
        wanted = " ".join(first.turn.answer.replace(",", " ").split())
        self.exact += said == wanted
        self.intents[first.turn.intent] += 1
        self.intents_exact[first.turn.intent] += said == wanted
        self.intent += skeleton(said) == skeleton(wanted)
        if first.turn.intent == "unknown":
            self.outside += 1
            self.outside_told += said == wanted
        if said != wanted:
            self.errors.append((first.turn.question, wanted, said))

    def wrong_by_intent(self) -> dict[str, str]:
        """`wrong/asked` of every intent with a wrong answer, the worst first."""
        wrong = {name: asked - self.intents_exact[name] for name, asked in self.intents.items()}
        names = sorted((name for name in wrong if wrong[name]), key=lambda name: -wrong[name])
        return {name: f"{wrong[name]}/{self.intents[name]}" for name in names}

    def _add_break(self, session: Session, units: list[list[str]]) -> None:
        second = next((e for e in session.exchanges if e.interrupts is not None), None)
        # Only where the model was speaking when the user began.
        if second is None or "<|speak|>" not in units[second.interrupts - 1]:
            return
        if "<|turn_eos|>" in units[second.interrupts - 1]:
            return
        self.breaks += 1
        after = units[second.interrupts : second.interrupts + 2]
        self.broken += any("<|listen|>" in unit or ends_silently(unit) for unit in after)

    def _add_talk(self, session: Session, units: list[list[str]]) -> None:
        """Every question whose answer nobody broke off. An answer counts when it begins in its unit."""
        for exchange, after in zip(session.exchanges, [*session.exchanges[1:], None], strict=True):
            turn = exchange.turn
            if not turn.answer or (after is not None and after.interrupts is not None):
                continue
            said, wanted = answer_from(units, exchange.unit), " ".join(turn.answer.replace(",", " ").split())
            recalls = turn.intent in RECALL or turn.question.startswith("and ")
            self.intents[turn.intent] += 1
            self.intents_exact[turn.intent] += said == wanted
            self.turns, self.turns_exact = self.turns + 1, self.turns_exact + (said == wanted)
            self.recalls, self.recalls_exact = self.recalls + recalls, self.recalls_exact + (recalls and said == wanted)
            if said != wanted:
                self.errors.append((turn.question, wanted, said))

    def report(self) -> dict:
        """Rates; absent where nothing was counted."""
        out: dict = {}
        if self.asked:
            for name in ("intent", "exact", "timely", "early"):
                out[name] = round(getattr(self, name) / self.asked, 3)
            out["n"] = self.asked
            if self.outside:
                out |= {"outside": round(self.outside_told / self.outside, 3), "n_outside": self.outside}
        elif self.breaks:
            out |= {"broken": round(self.broken / self.breaks, 3), "n": self.breaks}
        elif self.turns:
            out |= {"exact": round(self.turns_exact / self.turns, 3), "n": self.turns}
            if self.recalls:
                out |= {"recall": round(self.recalls_exact / self.recalls, 3), "n_recall": self.recalls}
        else:
            out |= {"false_speech": self.false_speech, "units": self.units}
        return out


def sessions(pace: Pace, name: str, count: int, sample: world.Skill = world.sample) -> list[Session]:
    """The first `count` sessions of a set; `sample` chooses the questions."""
    director = Director(pace, _SEED + list(SETS).index(name), sample=sample)
    return [director.session(**SETS[name]) for _ in range(count)]


def judge(model: Hearing, vocabulary: Vocabulary, pace: Pace, count: int, names: list[str] | None = None) -> dict:
    """Reports of all sets (or `names`) with `count` sessions each."""
    out = {}
    for name in names or SETS:
        tally = Tally()
        for session in sessions(pace, name, count):
            tally.add(session, decode(model, vocabulary, session))
        out[name] = tally.report()
        out[name]["errors"] = tally.errors[:3]
    return out
