"""What duologue-mini can talk about. Edit this file to change its name, an answer or a skill, then run `make mini`.

A skill is a function `(draw, memory) -> Turn`. `draw` is the random source of the session, `memory` what was said
before. A turn holds what the user says, in pieces between which a person may pause to think (a question is incomplete
before its last piece), and the words of the answer. Everything is lower case; a comma in an answer is a short pause. An
empty answer means: stay silent.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from mini import facts

NAME = "duo"


@dataclass
class Memory:
    """What one conversation has established so far."""

    user: str | None = None
    number: int | None = None
    answer: str | None = None
    country: bool = False
    jokes: int = 0
    stories: int = 0


@dataclass(frozen=True)
class Turn:
    """One question and its answer. `intent` names the skill in the evaluation."""

    intent: str
    pieces: tuple[str, ...]
    answer: str
    effect: Callable[[Memory], None] | None = None

    @property
    def question(self) -> str:
        """The whole question."""
        return " ".join(self.pieces)

    def remember(self, memory: Memory) -> None:
        """What the conversation knows after this turn."""
        memory.country = self.intent == "capital"
        if self.effect is not None:
            self.effect(memory)
        if self.answer and self.intent != "unknown":
            memory.answer = self.answer


Skill = Callable[[random.Random, Memory], Turn]


@dataclass(frozen=True)
class Weights:
    """How often a skill comes, relative to the others: `asked` by users and in the evaluation, `spoken` and `written`
    in practice."""

    asked: float
    spoken: float
    written: float


SKILLS: list[tuple[Weights, Skill]] = []


def skill(asked: float, spoken: float | None = None, written: float | None = None) -> Callable[[Skill], Skill]:
    """Adds a skill to the world; see `Weights`. Practice follows `asked` where nothing else is said. `spoken`: more for
    what is hard to hear, an open vocabulary above all. `written` practice costs a hundredth of spoken practice: there
    belongs what must be worked out or learnt by heart, for an answer repeats what it answers ("two plus three is") and
    goes on from words in either case."""

    def add(function: Skill) -> Skill:
        weights = Weights(asked, asked if spoken is None else spoken, asked if written is None else written)
        SKILLS.append((weights, function))
        return function

    return add


def _drawn(draw: random.Random, memory: Memory, part: str) -> Turn:
    weights, skills = zip(*SKILLS, strict=True)
    return draw.choices(skills, [getattr(w, part) for w in weights])[0](draw, memory)


def sample(draw: random.Random, memory: Memory) -> Turn:
    """A turn that makes sense at this point of a conversation, as users ask."""
    return _drawn(draw, memory, "asked")


def practise_spoken(draw: random.Random, memory: Memory) -> Turn:
    """The same, as often as it is to be practised aloud."""
    return _drawn(draw, memory, "spoken")


def practise_written(draw: random.Random, memory: Memory) -> Turn:
    """The same, as often as it is to be practised in writing."""
    return _drawn(draw, memory, "written")


def named(name: str) -> Skill:
    """The skill that the function of this name is. Raises `KeyError` when there is none."""
    return {function.__name__: function for _, function in SKILLS}[name]


def _ask(draw: random.Random, intent: str, question: str, answer: str, effect=None) -> Turn:
    """`question` is `a|b|c`: one of these is drawn; `/` marks where the user may pause to think."""
    pieces = draw.choice(question.split("|")).split("/")
    return Turn(intent, tuple(piece.strip() for piece in pieces), answer, effect)


@skill(30)
def small_talk(draw: random.Random, memory: Memory) -> Turn:
    """Fixed questions with fixed answers."""
    intent, questions, answer = draw.choice(facts.SMALL_TALK)
    return _ask(draw, intent, questions, answer.format(name=NAME))


@skill(3)
def stop(draw: random.Random, memory: Memory) -> Turn:
    """Asked to be quiet, it is quiet."""
    return _ask(draw, "stop", facts.STOP, "")


@skill(3)
def joke(draw: random.Random, memory: Memory) -> Turn:
    """Five jokes, one after the other."""

    def told(m: Memory) -> None:
        m.jokes += 1

    text = facts.JOKES[memory.jokes % len(facts.JOKES)]
    return _ask(
        draw,
        "joke",
        "tell me a joke|make me laugh|do you know a joke|say something funny|another joke please|another joke",
        text,
        told,
    )


@skill(3)
def story(draw: random.Random, memory: Memory) -> Turn:
    """Three stories, one after the other: long turns."""

    def told(m: Memory) -> None:
        m.stories += 1

    text = facts.STORIES[memory.stories % len(facts.STORIES)]
    return _ask(
        draw,
        "story",
        "tell me a story|read me a story|do you know a story|another story please|another story",
        text,
        told,
    )


def _operand(draw: random.Random, most: int) -> int:
    # Small numbers are asked for more often.
    return draw.randint(0, min(most, draw.choice((10, 20, most))))


def _keep(value: int) -> Callable[[Memory], None]:
    def effect(m: Memory) -> None:
        m.number = value

    return effect


SIGNS = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
FORMS = "what is {a} {sign}/{b}|{a} {sign}/{b}|how much is {a} {sign}/{b}|tell me {a} {sign} {b}|what is {a}/{sign} {b}"


def _compute(draw: random.Random, a: int, sign: str, b: int, forms: str) -> Turn:
    value = SIGNS[sign](a, b)
    words = {"a": facts.number(a), "b": facts.number(b), "sign": sign}
    answer = f"{words['a']} {sign} {words['b']} is {facts.number(value)}"
    return _ask(draw, sign, forms.format(**words), answer, _keep(value))


@skill(13, written=60)
def arithmetic(draw: random.Random, memory: Memory) -> Turn:
    """Sums, differences and products that stay within 0 to 100."""
    sign = draw.choice(("plus", "plus", "minus", "times"))
    if sign == "plus":
        a = _operand(draw, 100)
        b = _operand(draw, 100 - a)
    elif sign == "minus":
        a = _operand(draw, 100)
        b = draw.randint(0, a)
    else:
        a = draw.randint(0, 10)
        b = draw.randint(0, 10)
    forms = FORMS + ("|add {a}/and {b}" if sign == "plus" else "")
    return _compute(draw, a, sign, b, forms)


@skill(3, written=9)
def arithmetic_on(draw: random.Random, memory: Memory) -> Turn:
    """Goes on with the last number."""
    a = memory.number
    if a is None:
        return _ask(draw, "last number", LAST_NUMBER, "you have not told me a number")
    if draw.random() < 0.4:
        return _ask(draw, "last number", LAST_NUMBER, f"the last number was {facts.number(a)}")
    sign = draw.choice(("plus", "minus", "times"))
    most = {"plus": 100 - a, "minus": a, "times": 100 // a if a else 10}[sign]
    b = draw.randint(0, min(most, 10))
    return _compute(draw, a, sign, b, "and {sign} {b}|and {sign}/{b}")


@skill(4, written=12)
def half(draw: random.Random, memory: Memory) -> Turn:
    """Half of an even number."""
    n = 2 * draw.randint(0, 50)
    question = f"what is half of/{facts.number(n)}|half of/{facts.number(n)}|tell me half of/{facts.number(n)}"
    return _ask(draw, "half", question, f"half of {facts.number(n)} is {facts.number(n // 2)}", _keep(n // 2))


LAST_NUMBER = "what was the last number|which number was it|tell me the last number"


@skill(2)
def remember_number(draw: random.Random, memory: Memory) -> Turn:
    """Keeps a number for later."""
    n = draw.randint(0, 100)
    word = facts.number(n)
    return _ask(draw, "remember", f"remember the number/{word}|my number is/{word}", f"okay, {word}", _keep(n))


@skill(5, written=8)
def counting(draw: random.Random, memory: Memory) -> Turn:
    """Up, down, from and to."""
    n = draw.randint(2, 20)
    word = facts.number(n)
    kind = draw.random()
    if kind < 0.45:
        return _ask(
            draw,
            "count",
            f"count to/{word}|please count to/{word}|can you count to/{word}|count up to/{word}",
            facts.numbers(range(1, n + 1)),
        )
    if kind < 0.7:
        return _ask(
            draw, "count down", f"count down from/{word}|count backwards from/{word}", facts.numbers(range(n, 0, -1))
        )
    first = draw.randint(1, 20)
    last = first + draw.randint(2, 8)
    return _ask(
        draw,
        "count from",
        f"count from {facts.number(first)}/to {facts.number(last)}",
        facts.numbers(range(first, last + 1)),
    )


@skill(8, written=12)
def order(draw: random.Random, memory: Memory) -> Turn:
    """What comes before or after a number, a day or a month."""
    kind, names = draw.choice(facts.ORDERS)
    step = draw.choice((1, -1))
    first, last = (0, len(names) - 1) if kind != "number" else (1, len(names) - 2)
    i = draw.randint(first, last)
    side = "after" if step == 1 else "before"
    noun = "number is" if kind == "number" else f"{kind} is"
    question = f"what comes {side}/{names[i]}|which {noun} {side}/{names[i]}|what {kind} comes {side}/{names[i]}"
    return _ask(draw, f"{kind} {side}", question, f"{side} {names[i]} comes {names[(i + step) % len(names)]}")


@skill(5)
def colour(draw: random.Random, memory: Memory) -> Turn:
    """Colours of things."""
    thing = draw.choice(list(facts.COLOURS))
    forms = "what colour is the/{}|which colour is the/{}|tell me the colour of the/{}|what is the colour of/{}"
    return _ask(draw, "colour", forms.replace("{}", thing), f"the {thing} is {facts.COLOURS[thing]}")


@skill(8)
def capital(draw: random.Random, memory: Memory) -> Turn:
    """Capitals of forty countries."""
    land = draw.choice(list(facts.CAPITALS))
    forms = "what is the capital of/{}|tell me the capital of/{}|the capital of/{}|which city is the capital of/{}"
    if memory.country and draw.random() < 0.5:
        forms = "and of/{}|and {}|what about/{}"
    return _ask(draw, "capital", forms.replace("{}", land), f"the capital of {land} is {facts.CAPITALS[land]}")


@skill(6)
def opposite(draw: random.Random, memory: Memory) -> Turn:
    """Opposites, both ways."""
    word = draw.choice(list(facts.OPPOSITES))
    question = f"what is the opposite of/{word}|tell me the opposite of/{word}|the opposite of/{word}"
    return _ask(draw, "opposite", question, f"the opposite of {word} is {facts.OPPOSITES[word]}")


@skill(5)
def animal(draw: random.Random, memory: Memory) -> Turn:
    """Sounds and legs of animals."""
    if draw.random() < 0.5:
        a = draw.choice(list(facts.SOUNDS))
        return _ask(
            draw,
            "sound",
            f"what does the/{a} say|what sound does a/{a} make|what does a/{a} say",
            f"the {a} says {facts.SOUNDS[a]}",
        )
    a = draw.choice(list(facts.LEGS))
    return _ask(
        draw, "legs", f"how many legs has a/{a}|how many legs does a/{a} have", f"a {a} has {facts.LEGS[a]} legs"
    )


@skill(5, spoken=10, written=30)
def spell(draw: random.Random, memory: Memory) -> Turn:
    """Spells a word or a name."""
    word = draw.choice(facts.ECHO + facts.NAMES)
    return _ask(
        draw,
        "spell",
        f"spell/{word}|how do you spell/{word}|please spell/{word}",
        f"{word} is spelled {' '.join(word)}",
    )


@skill(14, spoken=34, written=30)
def repeat(draw: random.Random, memory: Memory) -> Turn:
    """Says one to three words back."""
    words = " ".join(draw.choice(facts.ECHO) for _ in range(draw.choice((1, 1, 2, 2, 3))))
    return _ask(
        draw, "repeat", f"repeat after me/{words}|please repeat/{words}|say/{words}|repeat/{words}", f"you said {words}"
    )


@skill(2)
def again(draw: random.Random, memory: Memory) -> Turn:
    """Says the last answer once more."""
    answer = memory.answer or "i have not said anything yet"
    return _ask(draw, "again", "again please|say that again|can you repeat that|what did you say|pardon", answer)


@skill(5)
def user_name(draw: random.Random, memory: Memory) -> Turn:
    """Learns and tells the user's name."""
    if draw.random() < (0.6 if memory.user is not None else 0.2):
        answer = f"your name is {memory.user}" if memory.user else "i do not know your name"
        return _ask(draw, "my name", "what is my name|do you know my name|who am i|tell me my name", answer)
    name = draw.choice(facts.NAMES)

    def learn(m: Memory) -> None:
        m.user = name

    return _ask(
        draw, "hello name", f"my name is/{name}|i am called/{name}|call me/{name}", f"nice to meet you, {name}", learn
    )


@skill(4)
def likes(draw: random.Random, memory: Memory) -> Turn:
    """Yes or no."""
    thing = draw.choice(list(facts.LIKES))
    answer = f"yes, i like {thing}" if facts.LIKES[thing] else f"no, i do not like {thing}"
    return _ask(draw, "likes", f"do you like/{thing}|you like/{thing}", answer)


UNKNOWN = "sorry, i did not catch that"


@skill(24)
def unknown(draw: random.Random, memory: Memory) -> Turn:
    """A sentence outside this world: it says so instead of guessing."""
    kind = draw.random()
    if kind < 0.35:
        text = draw.choice(facts.OUTSIDE)
    elif kind < 0.6:
        text = facts.fill(draw)
    elif kind < 0.8:
        words = " ".join(draw.sample(facts.OUTSIDE, 2)).split()
        draw.shuffle(words)
        text = " ".join(words[: draw.randint(3, 8)])
    else:
        # The words of its own world in no order: hearing a known word must not be enough for an answer.
        pool = [sample_known(draw).question for _ in range(3)]
        words = " ".join(pool).split()
        draw.shuffle(words)
        text = " ".join(words[: draw.randint(4, 8)])
    return Turn("unknown", (text,), UNKNOWN)


def sample_known(draw: random.Random) -> Turn:
    """A turn that is not `unknown`, as users ask."""
    known = [(weights.asked, function) for weights, function in SKILLS if function is not unknown]
    weights, skills = zip(*known, strict=True)
    return draw.choices(skills, weights)[0](draw, Memory())
