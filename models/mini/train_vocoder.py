"""Trains the vocoder: mel to 24 kHz sound.

Losses: spectra at four resolutions, the mel, and the pitch that the predictor finds. The sound is made from the true
pitch, so that the rest does not learn around an untrained predictor; the last part of a run uses the predictor's. State
lives in WORK/hift.pt, the small file for the repository at `--checkpoint`.
"""

import argparse
import functools
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mini import corpus
from mini.corpus import HOP, N_FFT, Sentence, vocoder_mel
from mini.features import filter_bank
from mini.store import load_small, tensor, use
from mini.voice import Vocoder, hift_weights

LEARNING_RATE, WARM_UP, CLIP = 1.5e-3, 50, 5.0
AVERAGE = 0.995
SEGMENT_FRAMES, SEGMENTS = 30, 8
RESOLUTIONS = (256, 512, 1024, 2048)
MEL_WEIGHT, PITCH_WEIGHT_PER_HZ = 2.0, 0.01
SAVE_EVERY_S, JUDGE_EVERY_S = 300, 600
# From this part of a run on the predicted pitch is used.
TRUE_PITCH_PART = 0.8


@functools.cache
def _window(size: int) -> torch.Tensor:
    return torch.hann_window(size)


@functools.cache
def _filters() -> torch.Tensor:
    return tensor(filter_bank(corpus.RATE_HZ, N_FFT))


def torch_mel(wave: torch.Tensor) -> torch.Tensor:
    """`corpus.vocoder_mel` of waves [B, T] in torch."""
    padded = F.pad(wave[:, None], ((N_FFT - HOP) // 2,) * 2, mode="reflect")[:, 0]
    spectrum = torch.stft(padded, N_FFT, HOP, window=_window(N_FFT), center=False, return_complex=True)
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    return torch.log((magnitude.transpose(1, 2) @ _filters()).clamp(min=1e-5)).transpose(1, 2)


def spectral_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean over resolutions of half the spectral convergence plus the L1 of log magnitudes; waves [B, T]."""
    total = torch.zeros(())
    for size in RESOLUTIONS:
        a, b = (torch.stft(x, size, size // 4, window=_window(size), return_complex=True) for x in (made, wanted))
        a, b = (torch.sqrt(x.real**2 + x.imag**2 + 1e-8) for x in (a, b))
        total = total + 0.5 * (a - b).norm() / b.norm() + F.l1_loss(a.log(), b.log())
    return total / len(RESOLUTIONS)


class Segments:
    """Random pieces of sentences."""

    def __init__(self, sentences: list[Sentence], draw: random.Random):
        self._sentences = [s for s in sentences if len(s.pitch) > SEGMENT_FRAMES + 2]
        self._draw = draw

    def next(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(wave [B, 480 F], mel [B, 80, F], pitch [B, F])."""
        waves, mels, pitches = [], [], []
        for sentence in self._draw.sample(self._sentences, SEGMENTS):
            wave = sentence.wave()
            # Room for the mel's windows at both ends, so that a segment's mel is that of the whole sentence.
            first = self._draw.randrange(len(sentence.pitch) - SEGMENT_FRAMES)
            low, high = max(0, first - 2), min(len(sentence.pitch), first + SEGMENT_FRAMES + 2)
            mel = vocoder_mel(wave[low * HOP : high * HOP])[:, first - low : first - low + SEGMENT_FRAMES]
            waves.append(wave[first * HOP : (first + SEGMENT_FRAMES) * HOP])
            mels.append(mel)
            pitches.append(sentence.pitch[first : first + SEGMENT_FRAMES])
        return tuple(tensor(np.stack(x)) for x in (waves, mels, pitches))


@torch.inference_mode()
def judge(weights: dict, tests: list[Sentence]) -> dict:
    """Mean |ln mel| error of copy synthesis and error of the pitch in Hz, on whole test sentences."""
    vocoder, mel_error, pitch_error = Vocoder(weights), [], []
    for sentence in tests:
        mel = tensor(vocoder_mel(sentence.wave()))[None]
        pitch = vocoder.f0(mel)
        made = vocoder.from_pitch(mel, pitch)
        mel_error.append((torch_mel(made) - mel).abs().mean().item())
        voiced = tensor(sentence.pitch) > 0
        pitch_error.append((pitch[0] - tensor(sentence.pitch)).abs()[voiced].mean().item())
    return {"mel_error": round(float(np.mean(mel_error)), 4), "pitch_error_hz": round(float(np.mean(pitch_error)), 2)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini train-vocoder`."""
    parser.add_argument("--work", type=Path, default=Path("out/mini"))
    parser.add_argument(
        "--checkpoint", type=Path, help="small checkpoint to start from when WORK has none, and to write"
    )
    parser.add_argument("--minutes", type=float, default=60, help="wall time of this run")
    parser.add_argument("--shards", type=int, default=8, help="shards of the corpus that are used")
    parser.add_argument("--anneal", action="store_true", help="lower the learning rate to zero over this run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Trains for `--minutes`; log lines are JSON in WORK/vocoder.jsonl."""
    use(args.device)
    torch.manual_seed(args.seed)
    sentences = corpus.load(args.work / "corpus", slice(0, args.shards))
    tests = sentences[:10]
    segments = Segments(sentences[corpus.SENTENCES_PER_SHARD :], random.Random(args.seed))
    weights, path, step = hift_weights(), args.work / "hift.pt", 0
    saved_state = None
    if path.is_file():
        saved_state = torch.load(path, weights_only=True, map_location=torch.get_default_device())
    elif args.checkpoint is not None and args.checkpoint.is_file():
        saved_state = load_small(args.checkpoint)
        saved_state["model"] = saved_state["weights"]
    if saved_state is not None:
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(saved_state["model"][name])
        step = saved_state["step"]
    average = {name: value.detach().clone() for name, value in weights.items()}
    if saved_state is not None and "average" in saved_state:
        average = saved_state["average"]
    vocoder = Vocoder(weights)
    optimizer = torch.optim.AdamW(list(weights.values()), LEARNING_RATE, (0.8, 0.95))

    def save() -> None:
        model = {name: value.detach() for name, value in weights.items()}
        torch.save({"step": step, "model": model, "average": average}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        if args.checkpoint is not None:
            args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                {"step": step, "weights": {n: v.to("cpu", torch.bfloat16) for n, v in average.items()}}, args.checkpoint
            )

    log = (args.work / "vocoder.jsonl").open("a")
    mean: dict[str, float] = {}
    started = saved = judged = time.monotonic()
    warm = 0
    while (elapsed := time.monotonic() - started) < 60 * args.minutes:
        part = elapsed / (60 * args.minutes)
        wave, mel, pitch = segments.next()
        found = vocoder.f0(mel)
        used = pitch if part < TRUE_PITCH_PART else found.detach()
        made = vocoder.from_pitch(mel, used)
        parts = {
            "spectra": spectral_loss(made, wave),
            "mel": F.l1_loss(torch_mel(made), torch_mel(wave)),
            "pitch_hz": F.l1_loss(found, pitch),
        }
        loss = parts["spectra"] + MEL_WEIGHT * parts["mel"] + PITCH_WEIGHT_PER_HZ * parts["pitch_hz"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), CLIP)
        warm, step = warm + 1, step + 1
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, warm / WARM_UP) * (1 - part if args.anneal else 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, value in weights.items():
                average[name].lerp_(value, 1 - min(AVERAGE, step / (step + 10)))
        for name, value in parts.items():
            mean[name] = 0.97 * mean.get(name, value.item()) + 0.03 * value.item()
        now = time.monotonic()
        if step % 20 == 0:
            line = {"step": step, "minutes": elapsed / 60, "cpu_min": time.process_time() / 60, **mean}
            print(json.dumps({k: round(v, 4) for k, v in line.items()}), file=log, flush=True)
        if now - judged > JUDGE_EVERY_S:
            print(json.dumps({"step": step, "judged": judge(average, tests)}), file=log, flush=True)
            judged = time.monotonic()
        if now - saved > SAVE_EVERY_S:
            save()
            saved = now
    print(json.dumps({"step": step, "judged": judge(average, tests)}), file=log, flush=True)
    save()
    return 0
