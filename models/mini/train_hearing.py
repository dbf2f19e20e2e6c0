"""Trains the audio encoder and the language model on sessions made on the fly.

First single questions only, until the encoder hears phones; then all kinds of sessions. The learning rate stays
constant and an average of the weights is kept beside them, so that a run can stop and go on at any time; `--anneal`
ends it. State lives in WORK/hearing.pt; `--checkpoint` names the small file for the repository, written at the end and
every half hour.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from mini import judge_hearing
from mini.batches import UNITS_PER_BATCH, BatchMaker
from mini.hearing import Hearing, HearingDims
from mini.muon import Optimizers
from mini.pace import Pace
from mini.store import load_small, rows_by_word, save_small, tensor, use
from mini.vocabulary import Vocabulary

LEARNING_RATE, MUON_RATE, WARM_UP, WEIGHT_DECAY, CLIP = 1.2e-3, 2.4e-3, 200, 0.02, 1.0
AVERAGE = 0.998
PHONE_WEIGHT = 0.7
# Steps with single questions only.
FIRST_STAGE = 900
SAVE_EVERY_S, SMALL_EVERY_S = 300, 1800


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini train-hearing`."""
    parser.add_argument("--work", type=Path, default=Path("out/mini"), help="state, logs (default out/mini)")
    parser.add_argument(
        "--checkpoint", type=Path, help="small checkpoint to start from when WORK has none, and to write"
    )
    parser.add_argument("--minutes", type=float, default=60, help="wall time of this run")
    parser.add_argument("--judge-every", type=float, default=15, help="minutes between evaluations (0: none)")
    parser.add_argument("--anneal", action="store_true", help="lower the learning rate to zero over this run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--makers", type=int, default=1, help="processes that make sessions")
    parser.add_argument("--units", type=int, default=UNITS_PER_BATCH, help="seconds of audio in a batch")
    parser.add_argument("--seed", type=int, default=0)


class Trainer:
    """Model, average, optimiser and counters of a run."""

    def __init__(self, work: Path, small: Path | None, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.path, self.small = work / "hearing.pt", small
        self.model = Hearing(HearingDims(vocab=vocabulary.rows))
        self.average = Hearing(self.model.dims)
        self.optimizer = Optimizers(self.model, LEARNING_RATE, MUON_RATE, WEIGHT_DECAY)
        self.step, self.audio_s, self.warm = 0, 0.0, 0
        if self.path.is_file():
            state = torch.load(self.path, weights_only=True, map_location=torch.get_default_device())
            rows_by_word(state["model"], state["words"], self.model, vocabulary)
            rows_by_word(state["average"], state["words"], self.average, vocabulary)
            if state["words"] == vocabulary.words and self.optimizer.load_state_dict(state["optimizer"]):
                self.warm = WARM_UP
            self.step, self.audio_s = state["step"], state["audio_s"]
        elif small is not None and small.is_file():
            state = load_small(small)
            rows_by_word(state["weights"], state["words"], self.model, vocabulary)
            self.step, self.audio_s = state["step"], state["audio_s"]
            self.average.load_state_dict(self.model.state_dict())
        else:
            self.average.load_state_dict(self.model.state_dict())

    def train(self, batch: dict, rate: float) -> dict[str, float]:
        """One step; returns what to log."""
        tensors = {name: tensor(value) for name, value in batch.items()}
        with torch.autocast(torch.get_default_device().type, torch.bfloat16):
            loss, phones, accuracy = self.model(tensors)
        total = loss if phones is None else loss + PHONE_WEIGHT * phones
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.warm += 1
        self.optimizer.step(rate * min(1, self.warm / WARM_UP))
        self.step += 1
        decay = min(AVERAGE, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        if "mel" in batch:
            self.audio_s += batch["mel"].shape[0] * (batch["mel"].shape[2] // 100)
        found = {"chat_loss" if phones is None else "loss": loss.item(), **accuracy}
        return found if phones is None else {**found, "phone_loss": phones.item()}

    def save(self) -> None:
        """Everything, to go on with."""
        state = {
            "words": self.vocabulary.words,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "audio_s": self.audio_s,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)

    def save_small(self) -> None:
        """The average in half precision, for the repository."""
        if self.small is not None:
            extra = {"words": self.vocabulary.words, "dims": self.model.dims.as_dict(), "audio_s": self.audio_s}
            save_small(self.small, self.average, self.step, extra)


def run(args: argparse.Namespace) -> int:
    """Trains for `--minutes`; log lines are JSON."""
    use(args.device)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary()
    pace = Pace.load(vocabulary.words)
    trainer = Trainer(args.work, args.checkpoint, vocabulary)
    maker = BatchMaker(vocabulary, pace, args.seed + trainer.step, args.makers, args.units)
    log = (args.work / "hearing.jsonl").open("a")
    mean: dict[str, float] = {}
    started = saved = small = judged = time.monotonic()
    while (elapsed := time.monotonic() - started) < 60 * args.minutes:
        if trainer.step >= FIRST_STAGE:
            maker.mix()
        found = trainer.train(maker.next(), 1 - elapsed / (60 * args.minutes) if args.anneal else 1.0)
        for name, value in found.items():
            mean[name] = 0.97 * mean.get(name, value) + 0.03 * value
        now = time.monotonic()
        if trainer.step % 50 == 0:
            line = {
                "step": trainer.step,
                "audio_h": trainer.audio_s / 3600,
                "cpu_min": time.process_time() / 60,
                "minutes": elapsed / 60,
            }
            print(json.dumps({k: round(v, 3) for k, v in (line | mean).items()}), file=log, flush=True)
        if now - saved > SAVE_EVERY_S:
            trainer.save()
            saved = now
        if now - small > SMALL_EVERY_S:
            trainer.save_small()
            small = now
        if args.judge_every and now - judged > 60 * args.judge_every:
            report = judge_hearing.judge(trainer.average, vocabulary, pace, judge_hearing.QUICK)
            print(json.dumps({"step": trainer.step, "judged": report}), file=log, flush=True)
            judged = time.monotonic()
    trainer.save()
    trainer.save_small()
    return 0
