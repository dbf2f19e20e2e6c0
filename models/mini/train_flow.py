"""Trains the flow: codes to mel. First the encoder (its mu already is the mel, by regression), then the estimator,
which adds the texture that regression smooths away.

Both run chunk after chunk with their caches, in the chunk sizes of the server's live mode, silence in front as at the
start of a turn. State lives in WORK/flow.pt, the small file for the repository at `--checkpoint`.
"""

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch

from duologue_export.dims import UNIT_CODES
from mini import corpus
from mini.corpus import FRAMES_PER_CODE, SILENT_CODE, Sentence, vocoder_mel
from mini.store import load_small, tensor, use
from mini.voice import FIRST_UNIT_CODES, FLOW, Encoder, Estimator, flow_weights

LEARNING_RATE, WARM_UP, CLIP = 1.5e-3, 100, 1.0
AVERAGE = 0.995
# Codes of the voice prompt (a call of its own), of silence in front of a turn, of the calls of its first unit and of
# the others (server/session/src/speech.rs: 12 codes start a reply, 15 follow, and the rest of the unit).
PROMPT, SILENCE, CHUNKS, FULL = 1, 3, (12, 15, FIRST_UNIT_CODES - 12 - 15), UNIT_CODES
CODES_PER_BATCH = 600
SAVE_EVERY_S, JUDGE_EVERY_S = 300, 600
# Part of a run that trains the encoder only.
ENCODER_PART = 0.6


def chunks_of(codes: int) -> list[int]:
    """How the server's live mode cuts voice prompt and codes of a turn into calls (look-ahead apart)."""
    out: list[int] = []
    for size in [PROMPT, *CHUNKS, *[FULL] * (codes // FULL + 1)]:
        out.append(min(size, codes - sum(out)))
        if sum(out) == codes:
            return out
    raise AssertionError("the chunks do not cover the codes. This is a bug.")


def prepared(sentence: Sentence) -> tuple[np.ndarray, np.ndarray]:
    """(codes behind the voice prompt and the silence of a turn's start [T], mel [80, 2 T]) of a sentence."""
    mel, count = vocoder_mel(sentence.wave()), PROMPT + SILENCE
    silence = np.full((mel.shape[0], count * FRAMES_PER_CODE), mel.min(), np.float32)
    return np.pad(sentence.codes, (count, 0), constant_values=SILENT_CODE), np.concatenate([silence, mel], 1)


def batch(items: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(codes [B, T], mel [B, 80, 2 T], weight [B, 1, 2 T]); padded with silence that does not count."""
    length = max(len(codes) for codes, _ in items)
    codes = torch.full((len(items), length), SILENT_CODE)
    mel = torch.zeros(len(items), items[0][1].shape[0], FRAMES_PER_CODE * length)
    weight = torch.zeros(len(items), 1, FRAMES_PER_CODE * length)
    for row, (a, b) in enumerate(items):
        codes[row, : len(a)] = tensor(a)
        mel[row, :, : b.shape[1]] = tensor(b)
        weight[row, :, : b.shape[1]] = 1
    return codes, mel, weight


def encoder_loss(mu, mel, weight) -> tuple[torch.Tensor, float]:
    """(L1 + MSE/2 + L1 of differences in time, plain L1)."""
    count = weight.sum() * mel.shape[1]
    plain = ((mu - mel).abs() * weight).sum() / count
    square = ((mu - mel) ** 2 * weight).sum() / count
    change = (((mu - mel).diff(dim=2)).abs() * weight[..., 1:]).sum() / count
    return plain + 0.5 * square + 0.5 * change, plain.item()


def flow_loss(estimator: Estimator, mu, mel, weight, chunks: list[int], step: int) -> torch.Tensor:
    """Squared error of the velocity from noise to mel at one of the graph's steps (optimal transport path)."""
    noise = torch.randn_like(mel)
    t = estimator.starts[step]
    v = estimator.velocities(step, (1 - t) * noise + t * mel, mu, chunks)
    return (((v - (mel - noise)) ** 2) * weight).sum() / (weight.sum() * mel.shape[1])


class Trainer:
    """Weights, their average, the optimiser."""

    def __init__(self, path: Path, small: Path | None):
        self.path, self.small, self.step, self.estimator_step = path, small, 0, 0
        self.weights = flow_weights()
        saved = None
        if path.is_file():
            saved = torch.load(path, weights_only=True, map_location=torch.get_default_device())
        elif small is not None and small.is_file():
            saved = load_small(small)
            saved["model"] = saved["weights"]
        if saved is not None:
            with torch.no_grad():
                for name, value in self.weights.items():
                    value.copy_(saved["model"][name])
            self.step, self.estimator_step = saved["step"], saved["estimator_step"]
        self.average = {name: value.detach().clone() for name, value in self.weights.items()}
        if saved is not None and "average" in saved:
            self.average = saved["average"]
        self.encoder, self.estimator = Encoder(self.weights), Estimator(self.weights)
        in_estimator = [value for name, value in self.weights.items() if name.startswith("decoder.")]
        in_encoder = [value for name, value in self.weights.items() if not name.startswith("decoder.")]
        self.optimizers = [
            torch.optim.AdamW(p, LEARNING_RATE, (0.9, 0.98), weight_decay=0.01) for p in (in_encoder, in_estimator)
        ]
        self.warm = [0, 0]

    def update(self, part: int, loss: torch.Tensor, rate: float) -> None:
        """One optimiser step on part 0 (encoder) or 1 (estimator)."""
        optimizer = self.optimizers[part]
        optimizer.zero_grad()
        loss.backward()
        parameters = optimizer.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        self.warm[part] += 1
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate * min(1, self.warm[part] / WARM_UP)
        optimizer.step()
        own = {id(p) for p in parameters}
        with torch.no_grad():
            for name, value in self.weights.items():
                if id(value) in own:
                    self.average[name].lerp_(value, 1 - min(AVERAGE, self.warm[part] / (self.warm[part] + 10)))

    def save(self) -> None:
        """State and small checkpoint."""
        state = {"step": self.step, "estimator_step": self.estimator_step}
        model = {name: value.detach() for name, value in self.weights.items()}
        torch.save({**state, "model": model, "average": self.average}, self.path.with_suffix(".part"))
        self.path.with_suffix(".part").replace(self.path)
        if self.small is not None:
            self.small.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                {**state, "weights": {n: v.to("cpu", torch.bfloat16) for n, v in self.average.items()}}, self.small
            )


@torch.inference_mode()
def judge(weights: dict, tests: list[tuple]) -> dict:
    """Mean |ln mel| error of mu and of the estimator's samples on test sentences."""
    encoder, estimator = Encoder(weights), Estimator(weights)
    estimator.refresh()
    errors, sampled, count = 0.0, 0.0, 0
    for codes, mel in tests:
        chunks = chunks_of(len(codes))
        mu = encoder.speak(tensor(codes)[None], chunks)
        noise = torch.randn(mu.shape, generator=torch.Generator(torch.get_default_device()).manual_seed(0))
        sample = estimator.sample(noise, mu, [FRAMES_PER_CODE * c for c in chunks])
        errors += (mu[0] - tensor(mel)).abs().sum().item()
        sampled += (sample[0] - tensor(mel)).abs().sum().item()
        count += mel.size
    return {"mu_error": round(errors / count, 4), "sample_error": round(sampled / count, 4)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini train-flow`."""
    parser.add_argument("--work", type=Path, default=Path("out/mini"))
    parser.add_argument(
        "--checkpoint", type=Path, help="small checkpoint to start from when WORK has none, and to write"
    )
    parser.add_argument("--minutes", type=float, default=60, help="wall time of this run")
    parser.add_argument("--shards", type=int, default=12, help="shards of the corpus that are used")
    parser.add_argument(
        "--encoder-part", type=float, default=ENCODER_PART, help="part of the run for the encoder alone"
    )
    parser.add_argument("--anneal", action="store_true", help="lower the learning rate to zero over this run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Trains for `--minutes`; log lines are JSON in WORK/flow.jsonl."""
    use(args.device)
    torch.manual_seed(args.seed)
    draw = random.Random(args.seed)
    trainer = Trainer(args.work / "flow.pt", args.checkpoint)
    sentences = corpus.load(args.work / "corpus", slice(0, args.shards))
    tests = [prepared(s) for s in sentences[:24]]
    sentences = sorted(sentences[corpus.SENTENCES_PER_SHARD :], key=lambda s: len(s.codes))
    log = (args.work / "flow.jsonl").open("a")
    mean: dict[str, float] = {}
    started = saved = judged = time.monotonic()
    while (elapsed := time.monotonic() - started) < 60 * args.minutes:
        at = draw.randrange(len(sentences))
        group = sentences[at : at + max(4, CODES_PER_BATCH // len(sentences[at].codes))]
        codes, mel, weight = batch([prepared(s) for s in group])
        chunks = chunks_of(codes.shape[1])
        part = elapsed / (60 * args.minutes)
        rate = 1 - part if args.anneal else 1.0
        if part < args.encoder_part:
            loss, found = encoder_loss(trainer.encoder.speak(codes, chunks), mel, weight)
            trainer.update(0, loss, rate)
            trainer.step += 1
            value = {"mu_error": found}
        else:
            with torch.no_grad():
                mu = trainer.encoder.speak(codes, chunks)
            trainer.estimator.refresh()
            loss = flow_loss(
                trainer.estimator, mu, mel, weight, [FRAMES_PER_CODE * c for c in chunks], draw.randrange(FLOW.steps)
            )
            trainer.update(1, loss, rate)
            trainer.estimator_step += 1
            value = {"flow_loss": loss.item()}
        for name, number in value.items():
            mean[name] = 0.97 * mean.get(name, number) + 0.03 * number
        now = time.monotonic()
        if (trainer.step + trainer.estimator_step) % 20 == 0:
            line = {
                "step": trainer.step,
                "estimator_step": trainer.estimator_step,
                "minutes": elapsed / 60,
                "cpu_min": time.process_time() / 60,
            }
            print(json.dumps({k: round(v, 4) for k, v in (line | mean).items()}), file=log, flush=True)
        if now - judged > JUDGE_EVERY_S:
            print(json.dumps({"step": trainer.step, "judged": judge(trainer.average, tests)}), file=log, flush=True)
            judged = time.monotonic()
        if now - saved > SAVE_EVERY_S:
            trainer.save()
            saved = now
    print(json.dumps({"step": trainer.step, "judged": judge(trainer.average, tests)}), file=log, flush=True)
    trainer.save()
    return 0
