"""Words, control tokens and their ids.

The release's tokenizer is a byte-level BPE; so is this one, with an empty list of merges: every word of the world is
one entry, everything else falls apart into bytes. Control tokens are the release's, in its order.
"""

import random
from dataclasses import dataclass, field
from functools import cached_property

from tokenizers import pre_tokenizers

from duologue_export.tiny.vocabulary import ADDED
from mini import facts, world

# What a blank in front of a word looks like in a byte-level vocabulary.
BLANK = "Ġ"
PROMPT_WORDS = ["system", "user", "assistant", "Streaming", f"{BLANK}Omni", f"{BLANK}Conversation", "Transcribe"]
# Enough to meet every word of every list many times (the rarest, an echo word, about 20 times).
_SAMPLES = 60_000
ROW_MULTIPLE = 32


def collect() -> list[str]:
    """Every word that a user may say inside the world or that an answer may hold, sorted."""
    draw, words = random.Random(0), set()
    for index in range(_SAMPLES):
        if index % 8 == 0:
            memory = world.Memory()
        turn = world.sample(draw, memory)
        turn.remember(memory)
        words |= set(turn.answer.replace(",", " ").split())
        if turn.intent != "unknown":
            words |= set(turn.question.split())
    # Late ones are met too rarely.
    for text in facts.JOKES + facts.STORIES:
        words |= set(text.replace(",", " ").split())
    return sorted(words)


@dataclass(frozen=True)
class Vocabulary:
    """`words` in the order of their ids."""

    words: list[str] = field(default_factory=collect)

    @cached_property
    def base(self) -> dict[str, int]:
        """Tokens of the BPE model: bytes, prompt words, words with their blank, <unk>."""
        tokens = [
            *sorted(pre_tokenizers.ByteLevel.alphabet()),
            *PROMPT_WORDS,
            *(BLANK + word for word in self.words),
            "<unk>",
        ]
        return {token: index for index, token in enumerate(tokens)}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids by token; control tokens under their names."""
        return {**self.base, **{token: len(self.base) + index for index, token in enumerate(ADDED)}}

    @property
    def first_added(self) -> int:
        """Id of `<|endoftext|>`."""
        return len(self.base)

    @property
    def rows(self) -> int:
        """Height of the embedding tables."""
        return -(-len(self.ids) // ROW_MULTIPLE) * ROW_MULTIPLE

    def id(self, item: str) -> int:
        """Id of a control token (`<...>`), a comma, or a word as `world` writes it."""
        if item.startswith("<") or item == ",":
            return self.ids[item]
        return self.ids[BLANK + item]

    def encode(self, text: str) -> list[int]:
        """Ids of words and commas separated by blanks; a comma may cling to its word."""
        return [self.id(item) for item in text.replace(",", " ,").split()]

    def encode_typed(self, text: str) -> list[int]:
        """Ids of any text in lower case as the tokenizer finds them: words of this vocabulary, else bytes."""
        out: list[int] = []
        for item in text.replace(",", " ,").replace("?", " ?").split():
            piece = item if item in (",", "?") else BLANK + item
            out += [self.ids[piece]] if piece in self.ids else [self.ids[letter] for letter in piece]
        return out

    @cached_property
    def names(self) -> dict[int, str]:
        """What `id` takes, by id; bytes and prompt words are absent."""
        return {self.id(item): item for item in [*self.words, ",", *ADDED]}
