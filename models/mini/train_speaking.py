"""Trains the speech token model: words, unit by unit, to codes of 40 ms.

The condition of a unit is its text tokens and audio_bos; 35 codes follow in the first unit, 25 in every other but the
last, whose end is the end-of-speech code. State lives in WORK/speaking.pt, the small file for the repository at
`--checkpoint`.
"""

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from duologue_export.dims import UNIT_CODES
from duologue_export.tiny.vocabulary import AUDIO_BOS_OFFSET
from mini import corpus
from mini.corpus import CODES, LEVELS, SILENT_CODE, STAGES, Sentence
from mini.muon import Optimizers
from mini.pace import Pace
from mini.store import load_small, rows_by_word, save_small, use
from mini.vocabulary import Vocabulary
from mini.voice import FIRST_UNIT_CODES, Speaking

LEARNING_RATE, MUON_RATE, WARM_UP, WEIGHT_DECAY, CLIP = 1.5e-3, 3e-3, 100, 0.02, 1.0
AVERAGE = 0.995
SMOOTHING, REPLACED = 0.02, 0.06
CODES_PER_BATCH = 1500
TABLES = ("emb_text.weight",)
SAVE_EVERY_S, JUDGE_EVERY_S, RELOAD_EVERY_S = 300, 600, 600


def units_of(sentence: Sentence, pace: Pace) -> tuple[list[list[str]], list[list[int]]]:
    """(words, codes) per unit. Units before the last are filled up with silence; speech past the last one is cut."""
    words = pace.units(sentence.text)
    codes = sentence.codes.tolist()
    ends = [FIRST_UNIT_CODES + index * UNIT_CODES for index in range(len(words))]
    starts = [0, *ends[:-1]]
    codes += [SILENT_CODE] * (starts[-1] - len(codes))
    return words, [codes[start:end] for start, end in zip(starts, ends, strict=True)]


def most_codes(unit: int) -> int:
    """Codes of a unit that does not end early."""
    return FIRST_UNIT_CODES if unit == 0 else UNIT_CODES


def condition(words: list[str], last: bool, vocabulary: Vocabulary) -> list[int]:
    """Text ids of a unit as the server hands them on: its words, turn_eos at the end of the turn, audio_bos."""
    ids = [vocabulary.id(word) for word in words]
    return [*ids, *([vocabulary.ids["<|turn_eos|>"]] if last else []), vocabulary.first_added + AUDIO_BOS_OFFSET]


def sequence(
    words: list[list[str]], codes: list[list[int]], vocabulary: Vocabulary
) -> tuple[list[int], list[bool], list[int]]:
    """(ids, whether each is a code, target of each or -1)."""
    ids, kinds, targets = [], [], []
    for index, (unit, spoken) in enumerate(zip(words, codes, strict=True)):
        last = index == len(words) - 1
        text = condition(unit, last, vocabulary)
        ids += text
        kinds += [False] * len(text)
        targets += [-1] * len(text)
        for code in spoken:
            targets[-1] = code
            ids.append(code)
            kinds.append(True)
            targets.append(-1)
        if last and len(spoken) < most_codes(index):
            targets[-1] = CODES
    return ids, kinds, targets


def batch(items: list[tuple]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pads sequences at their end."""
    length = max(len(ids) for ids, _, _ in items)
    ids, kinds = torch.zeros(len(items), length, dtype=torch.long), torch.zeros(len(items), length, dtype=torch.bool)
    targets = torch.full((len(items), length), -1)
    for row, (a, b, c) in enumerate(items):
        ids[row, : len(a)], kinds[row, : len(a)], targets[row, : len(a)] = (torch.tensor(x) for x in (a, b, c))
    return ids, kinds, targets


def loss_of(model: Speaking, items: list[tuple], replaced: float = 0.0) -> tuple[torch.Tensor, float]:
    """(cross-entropy, accuracy). A part `replaced` of the codes that are fed is random: what was chosen wrongly must
    not derail the rest."""
    ids, kinds, targets = batch(items)
    if replaced:
        wrong = (torch.rand(ids.shape) < replaced) & kinds
        ids = torch.where(wrong, torch.randint(0, CODES, ids.shape), ids)
    chosen = targets >= 0
    logits = model.head_code(model.model(model.rows(ids, kinds))[chosen])
    loss = F.cross_entropy(logits, targets[chosen], label_smoothing=SMOOTHING if replaced else 0.0)
    return loss, (logits.argmax(-1) == targets[chosen]).float().mean().item()


@torch.inference_mode()
def generate(model: Speaking, units: list[list[str]], vocabulary: Vocabulary) -> list[list[int]]:
    """Greedy codes per unit by the server's rules (server/session/src/speech.rs): only the last unit may end early."""
    caches: list[list] = [[] for _ in model.model.layers]
    out = []
    for index, words in enumerate(units):
        last = index == len(units) - 1
        rows = model.emb_text(torch.tensor([condition(words, last, vocabulary)]))
        codes: list[int] = []
        while True:
            hidden = model.model(rows, caches)
            if len(codes) == most_codes(index):
                break
            logits = model.head_code(hidden[0, -1])
            if not last:
                logits[CODES] = -torch.inf
            code = int(logits.argmax())
            if code == CODES:
                break
            codes.append(code)
            rows = model.emb_code(torch.tensor([[code]]))
        out.append(codes)
    return out


def phones(codes: list[int]) -> list[int]:
    """The phones that codes spell, silence left out: a phone begins where the number or the stage starts anew."""
    out, before = [], None
    for code in codes:
        phone, stage = code // (STAGES * LEVELS), code // LEVELS % STAGES
        if before is None or phone != before or stage == 0:
            out.append(phone)
        before = phone
    silent = SILENT_CODE // (STAGES * LEVELS)
    return [phone for phone in out if phone != silent]


def distance(a: list, b: list) -> int:
    """Edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        left, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            left, row[j + 1] = row[j + 1], min(left + (x != y), row[j] + 1, row[j + 1] + 1)
    return row[-1]


def judge(model: Speaking, tests: list[Sentence], pace: Pace, vocabulary: Vocabulary, count: int = 40) -> dict:
    """Loss and accuracy given true codes; phone error rate of greedy codes, for answers and for random words."""
    with torch.no_grad():
        items = [sequence(*units_of(s, pace), vocabulary) for s in tests]
        pairs = [loss_of(model, items[i : i + 20]) for i in range(0, len(items), 20)]
    wrong, total, lengths = 0, 0, []
    for sentence in tests[:count]:
        words, _ = units_of(sentence, pace)
        said = [code for unit in generate(model, words, vocabulary) for code in unit]
        wanted = phones(sentence.codes.tolist())
        wrong += distance(phones(said), wanted)
        total += len(wanted)
        lengths.append(len(said) - len(sentence.codes))
    losses, rights = zip(*pairs, strict=True)
    return {
        "test_loss": round(float(np.mean([loss.item() for loss in losses])), 3),
        "test_accuracy": round(float(np.mean(rights)), 3),
        "phone_errors": round(wrong / total, 3),
        "length_difference": float(np.median(lengths)),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini train-speaking`."""
    parser.add_argument("--work", type=Path, default=Path("out/mini"))
    parser.add_argument(
        "--checkpoint", type=Path, help="small checkpoint to start from when WORK has none, and to write"
    )
    parser.add_argument("--minutes", type=float, default=60, help="wall time of this run")
    parser.add_argument("--anneal", action="store_true", help="lower the learning rate to zero over this run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Trains for `--minutes`; log lines are JSON in WORK/speaking.jsonl."""
    use(args.device)
    torch.manual_seed(args.seed)
    draw, vocabulary = random.Random(args.seed), Vocabulary()
    pace = Pace.load(vocabulary.words)
    model, average = Speaking(vocabulary.rows), Speaking(vocabulary.rows)
    optimizer = Optimizers(model, LEARNING_RATE, MUON_RATE, WEIGHT_DECAY)
    path, step, warm = args.work / "speaking.pt", 0, 0
    if path.is_file():
        state = torch.load(path, weights_only=True, map_location=torch.get_default_device())
        rows_by_word(state["model"], state["words"], model, vocabulary, TABLES)
        rows_by_word(state["average"], state["words"], average, vocabulary, TABLES)
        step = state["step"]
        if state["words"] == vocabulary.words and optimizer.load_state_dict(state["optimizer"]):
            warm = WARM_UP
    else:
        if args.checkpoint is not None and args.checkpoint.is_file():
            state = load_small(args.checkpoint)
            rows_by_word(state["weights"], state["words"], model, vocabulary, TABLES)
            step = state["step"]
        average.load_state_dict(model.state_dict())

    def save() -> None:
        state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "words": vocabulary.words, "step": step}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        if args.checkpoint is not None:
            save_small(args.checkpoint, average, step, {"words": vocabulary.words})

    tests = corpus.load(args.work / "corpus", slice(0, 1))[:120]
    items: list[tuple] = []
    log = (args.work / "speaking.jsonl").open("a")
    mean: dict[str, float] = {}
    started = saved = judged = time.monotonic()
    loaded = -RELOAD_EVERY_S
    while (elapsed := time.monotonic() - started) < 60 * args.minutes:
        if elapsed - loaded >= RELOAD_EVERY_S:
            items = [
                sequence(*units_of(s, pace), vocabulary) for s in corpus.load(args.work / "corpus", slice(1, None))
            ]
            items.sort(key=lambda item: len(item[0]))
            loaded = elapsed
        at = draw.randrange(len(items))
        group = items[at : at + max(4, CODES_PER_BATCH // len(items[at][0]))]
        loss, accuracy = loss_of(model, group, REPLACED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        warm += 1
        optimizer.step(min(1, warm / WARM_UP) * (1 - elapsed / (60 * args.minutes) if args.anneal else 1.0))
        step += 1
        decay = min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        for name, value in (("loss", loss.item()), ("accuracy", accuracy)):
            mean[name] = 0.97 * mean.get(name, value) + 0.03 * value
        now = time.monotonic()
        if step % 50 == 0:
            line = {
                "step": step,
                "minutes": elapsed / 60,
                "cpu_min": time.process_time() / 60,
                "sentences": len(items),
                **mean,
            }
            print(json.dumps({k: round(v, 3) for k, v in line.items()}), file=log, flush=True)
        if now - judged > JUDGE_EVERY_S:
            print(json.dumps({"step": step, "judged": judge(average, tests, pace, vocabulary)}), file=log, flush=True)
            judged = time.monotonic()
        if now - saved > SAVE_EVERY_S:
            save()
            saved = now
    print(json.dumps({"step": step, "judged": judge(average, tests, pace, vocabulary)}), file=log, flush=True)
    save()
    return 0
