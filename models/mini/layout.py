"""Sessions as the token sequences that the server feeds (server/session/src/dialogue.rs, models/BUNDLE.md `prompt`).

    <|im_start|>system\\nStreaming Omni Conversation.\\n<|audio_start|><|audio_end|><|im_end|>
    <unit> 10 audio rows  <|listen|> </unit>
    <unit> 10 audio rows  <|speak|> hello , how <|chunk_eos|> </unit>
    <unit> 10 audio rows  <|speak|> are you <|turn_eos|> <|chunk_eos|> </unit>
    <unit> 10 audio rows  what is your name  <|speak|> my name is <|chunk_eos|> </unit>      (typed)

The voice prompt's rows between audio_start and audio_end are absent: the reply voice is fixed. With "Transcribe." as
the system prompt the answer is what the user said. A written question is a chat:

    <|im_start|>user\\n what is two plus two<|im_end|>\\n<|im_start|>assistant\\n two plus two is four<|im_end|>
"""

from dataclasses import dataclass

import numpy as np

from mini.features import unit_mels
from mini.sessions import LISTEN, Session
from mini.speakers import SILENCE, UNALIGNED
from mini.vocabulary import Vocabulary

ROWS_PER_UNIT = 10
PHONES_PER_UNIT = 50
IGNORED = -100
LISTEN_WEIGHT = 0.5
# A newline is this byte token.
NEWLINE = "Ċ"


@dataclass
class Example:
    """One sequence. `ids` [L]; `audio` [L] index of the audio row at that place or -1; `targets` [L] next token or
    IGNORED; `weights` [L]; `mel` [80, 100 U + 2]; `phones` [2, 50 U] a label per encoder frame and engine. Chats have
    no audio."""

    ids: np.ndarray
    audio: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    mel: np.ndarray | None = None
    phones: np.ndarray | None = None

    @property
    def units(self) -> int:
        """Units of audio."""
        return 0 if self.mel is None else self.mel.shape[1] // 100


def system_prompt(vocabulary: Vocabulary, transcribe: bool = False) -> list[int]:
    """Ids in front of the first unit."""
    task = ["Transcribe"] if transcribe else ["Streaming", "ĠOmni", "ĠConversation"]
    names = ["<|im_start|>", "system", NEWLINE, *task, ".", NEWLINE, "<|audio_start|>", "<|audio_end|>", "<|im_end|>"]
    return [vocabulary.ids[name] for name in names]


class _Writer:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.audio: list[int] = []
        self.targets: list[int] = []
        self.weights: list[float] = []

    def put(self, token: int, audio: int = -1) -> None:
        self.ids.append(token)
        self.audio.append(audio)
        self.targets.append(IGNORED)
        self.weights.append(0.0)

    def predict(self, token: int, weight: float = 1.0) -> None:
        """The row before must choose `token`, which is then fed."""
        self.targets[-1], self.weights[-1] = token, weight
        self.put(token)

    def example(self, mel=None, phones=None) -> Example:
        arrays = (
            np.array(x, dtype)
            for x, dtype in (
                (self.ids, np.int64),
                (self.audio, np.int64),
                (self.targets, np.int64),
                (self.weights, np.float32),
            )
        )
        return Example(*arrays, mel, phones)


def example(session: Session, vocabulary: Vocabulary) -> Example:
    """A spoken session."""
    writer = _Writer()
    for token in system_prompt(vocabulary, session.kind == "transcription"):
        writer.put(token)
    for index, unit in enumerate(session.units):
        writer.put(vocabulary.ids["<unit>"])
        for row in range(ROWS_PER_UNIT):
            writer.put(0, index * ROWS_PER_UNIT + row)
        for token in vocabulary.encode_typed(session.typed.get(index, "")):
            writer.put(token)
        for item in unit:
            writer.predict(vocabulary.id(item), LISTEN_WEIGHT if unit is LISTEN else 1.0)
        writer.put(vocabulary.ids["</unit>"])
    return writer.example(unit_mels(session.stream), phone_labels(session))


def phone_labels(session: Session) -> np.ndarray:
    """[2, 50 * units]: the phone of each 20 ms in the engine that spoke, IGNORED in the other (in both where the phones
    are not known); silence in both."""
    frames = len(session.units) * PHONES_PER_UNIT
    labels = np.tile(np.array(SILENCE, np.int64)[:, None], (1, frames))
    for start, end, engine, phone in session.phones:
        span = slice(int(start * PHONES_PER_UNIT), int(end * PHONES_PER_UNIT))
        labels[:, span] = IGNORED
        if engine != UNALIGNED:
            labels[engine, span] = phone
    return labels


def chat_prompt(question: str, vocabulary: Vocabulary) -> list[int]:
    """Ids in front of a written answer. Raises `KeyError` for a word outside the vocabulary."""
    ids = vocabulary.ids
    head = [
        ids["<|im_start|>"],
        ids["user"],
        ids[NEWLINE],
        *vocabulary.encode(question),
        ids["<|im_end|>"],
        ids[NEWLINE],
    ]
    return [*head, ids["<|im_start|>"], ids["assistant"], ids[NEWLINE]]


def chat(questions: list[tuple[str, str]], vocabulary: Vocabulary) -> Example:
    """A written conversation of (question, answer) pairs."""
    writer = _Writer()
    for question, answer in questions:
        for token in chat_prompt(question, vocabulary):
            writer.put(token)
        for token in [*vocabulary.encode(answer), vocabulary.ids["<|im_end|>"]]:
            writer.predict(token)
        writer.put(vocabulary.ids[NEWLINE])
    return writer.example()


def collate(examples: list[Example]) -> dict[str, np.ndarray]:
    """Pads to the longest: arrays with a leading batch axis. Mel is padded at the end, where nothing looks at it."""
    length, units = max(len(e.ids) for e in examples), max(e.units for e in examples)
    batch = {
        "ids": np.zeros((len(examples), length), np.int64),
        "audio": np.full((len(examples), length), -1, np.int64),
        "targets": np.full((len(examples), length), IGNORED, np.int64),
        "weights": np.zeros((len(examples), length), np.float32),
    }
    if units:
        batch["mel"] = np.zeros((len(examples), 80, 100 * units + 2), np.float32)
        batch["phones"] = np.full((len(examples), 2, PHONES_PER_UNIT * units), IGNORED, np.int64)
    for row, e in enumerate(examples):
        for name in ("ids", "audio", "targets", "weights"):
            batch[name][row, : len(e.ids)] = getattr(e, name)
        if e.mel is not None:
            batch["mel"][row, :, : e.mel.shape[1]] = e.mel
            batch["phones"][row, :, : e.phones.shape[1]] = e.phones
    return batch
