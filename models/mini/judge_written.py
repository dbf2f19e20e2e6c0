"""What the language model knows, apart from what it hears: written questions, greedy answers of the PyTorch code.

A question that is answered wrong here is not helped by more hours of sound; see `world.skill`.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from mini import world
from mini.export import load
from mini.hearing import Hearing
from mini.layout import chat_prompt
from mini.vocabulary import Vocabulary

_SEED = 9
# The longest story has fewer words.
_MOST_TOKENS = 120


@torch.inference_mode()
def answer(model: Hearing, vocabulary: Vocabulary, question: str) -> str:
    """The written answer, commas left out. Raises `KeyError` for a word outside the vocabulary."""
    caches: list[list] = [[] for _ in model.llm.model.layers]
    words: list[str] = []
    fed = chat_prompt(question, vocabulary)
    for _ in range(_MOST_TOKENS):
        hidden = model.llm.model(model.llm.model.embed_tokens(torch.tensor([fed])), caches)
        token = int(model.llm.lm_head(hidden[0, -1]).argmax())
        if token == vocabulary.ids["<|im_end|>"]:
            break
        words.append(vocabulary.names.get(token, "?"))
        fed = [token]
    return " ".join(word for word in words if word != ",")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini judge-written`."""
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the trained parts")
    parser.add_argument("--count", type=int, default=600, help="questions, those that nobody answers left out")
    parser.add_argument("--errors", type=int, default=0, help="print this many wrong answers")


def run(args: argparse.Namespace) -> int:
    """Prints a JSON report: right answers of all, and by intent where one is wrong."""
    vocabulary = Vocabulary()
    model, *_ = load(args.checkpoints, vocabulary)
    draw, asked, right, errors = random.Random(_SEED), Counter(), Counter(), []
    for _ in tqdm(range(args.count), desc="written", disable=None):
        turn = world.sample_known(draw)
        if not turn.answer:
            continue
        said, wanted = answer(model, vocabulary, turn.question), " ".join(turn.answer.replace(",", " ").split())
        asked[turn.intent] += 1
        right[turn.intent] += said == wanted
        if said != wanted:
            errors.append((turn.question, wanted, said))
    wrong = {name: f"{count - right[name]}/{count}" for name, count in asked.items() if right[name] < count}
    report = {"n": asked.total(), "exact": round(right.total() / asked.total(), 3), "wrong": wrong}
    print(json.dumps(report | ({"errors": errors[: args.errors]} if args.errors else {}), indent=1))
    return 0
