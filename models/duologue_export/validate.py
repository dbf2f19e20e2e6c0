"""`validate`: is a checkpoint (or its bundle) able to see, hear, think and speak?

A picture, two seconds of sound and a voice prompt, all synthetic, go through every sub-module in the order of the
duplex loop, each fed with what the previous ones returned:

    picture -> vision -+                    +-> tts_condition -> tts -> flow -> hift -> 24 kHz
    sound   -> apm ----+-> llm -> text -----+
    voice   -> speech_tokenizer, campplus -> flow

Checked are shapes, finite and varying values, and ranges of tokens; not quality (a random checkpoint passes), nor
equality with the reference (`verify` does that). One line per sub-module; after the first failure the rest cannot run
and says so."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from duologue_export import synthetic
from duologue_export.backends import BundleBackend, TorchBackend
from duologue_export.checkpoint import Checkpoint
from duologue_export.errors import ExportError
from duologue_export.modules.torch_flow_encoder import CONV1_LEN, CONV2_LEN
from duologue_export.modules.torch_hift import SAMPLES_PER_FRAME
from duologue_export.modules.vision import bucket_table
from duologue_export.tokens import token_section

SEED = 20450512
# A picture of 12 x 9 patches; two chunks of the duplex loop (102 and 104 mel frames, 50 kept after the convolutions).
PATCH_ROWS, PATCH_COLUMNS = 12, 9
CHUNKS = ((102, 0), (104, 1))
KEPT = 50
PROMPT = "<|im_start|>system\nStreaming Omni Conversation.\n<|audio_start|>"
TEXT_TOKENS = 8
# One unit of speech is 25 codes; 28 codes make one vocoder call; the voice prompt is 2.4 s long.
CODES = 28
SILENCE, SILENCE_COUNT = 4218, 3
VOICE_FRAMES = 240


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `duologue-export validate`."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint folder")
    parser.add_argument(
        "--bundle", type=Path, help="run this bundle's graphs instead of the checkpoint's weights in PyTorch"
    )


def run(args: argparse.Namespace) -> int:
    """Prints one line per sub-module; 1 when one fails."""
    checkpoint = Checkpoint(args.checkpoint)
    backend = BundleBackend(args.bundle) if args.bundle else TorchBackend(checkpoint)
    torch.set_num_threads(1)
    print(f"{args.bundle or args.checkpoint}: {backend.label}")
    return 0 if Validation(checkpoint, backend).report(print) else 1


class Validation:
    """One pass through all sub-modules; every stage leaves in `self` what later ones need."""

    def __init__(self, checkpoint: Checkpoint, backend: TorchBackend | BundleBackend):
        self._checkpoint, self._backend = checkpoint, backend
        self._random = torch.Generator().manual_seed(SEED)
        self._images: list[np.ndarray] = []
        self._sounds: list[np.ndarray] = []

    def report(self, say: Callable[[str], object]) -> bool:
        """Runs all stages, says one line each; True when none failed."""
        has = self._checkpoint
        stages: list[tuple[str, bool, Callable[[], str]]] = [
            ("tokenizer", True, self._tokenizer),
            ("vision", has.has_vision, self._vision),
            ("apm", has.has_apm, self._apm),
            ("llm", True, self._llm),
            *(
                (name, has.has_tts, stage)
                for name, stage in (
                    ("tts_condition", self._tts_condition),
                    ("tts", self._tts),
                    ("speech_tokenizer", self._speech_tokenizer),
                    ("campplus", self._campplus),
                    ("flow_speaker", self._flow_speaker),
                    ("flow_encoder", self._flow_encoder),
                    ("flow_cfm", self._flow_cfm),
                    ("hift", self._hift),
                )
            ),
        ]
        failed = False
        for name, present, stage in stages:
            if not present:
                say(f"{name:17} absent   switched off in config.json")
            elif failed:
                say(f"{name:17} not run  needs the stages above")
            else:
                try:
                    say(f"{name:17} ok       {stage()}")
                except Exception as error:
                    # Whatever a broken weight makes a library raise is this stage's result.
                    failed = True
                    say(f"{name:17} FAILED   {type(error).__name__}: {error}".splitlines()[0])
        return not failed

    def _tokenizer(self) -> str:
        folder = self._checkpoint.folder
        self._text = Tokenizer.from_file(str(self._checkpoint.file("tokenizer.json")))
        section = token_section(self._checkpoint)
        self._tokens, self._forbidden = section["tokens"], section["forbidden_ids"]
        self._prompt = self._text.encode(PROMPT, add_special_tokens=False).ids
        back = self._text.decode(self._prompt, skip_special_tokens=False)
        if back != PROMPT:
            raise ExportError(f"{folder / 'tokenizer.json'}: {PROMPT!r} comes back as {back!r}.")
        if len(set(self._tokens.values())) != len(self._tokens):
            raise ExportError(f"{folder / 'tokenizer.json'}: two special tokens share one id.")
        return f"{self._text.get_vocab_size()} entries, {section['vocab']} rows, prompt of {len(self._prompt)} tokens"

    def _vision(self) -> str:
        d = self._checkpoint.vision
        image = synthetic.picture(PATCH_ROWS * d.patch, PATCH_COLUMNS * d.patch, self._random)
        patches = (
            image.unfold(1, d.patch, d.patch)
            .unfold(2, d.patch, d.patch)
            .permute(1, 2, 0, 3, 4)
            .reshape(1, -1, 3 * d.patch**2)
        )
        buckets = np.array(bucket_table(d.grid))
        places = buckets[PATCH_ROWS - 1, :PATCH_ROWS, None] * d.grid + buckets[PATCH_COLUMNS - 1, :PATCH_COLUMNS]
        cells = np.arange(PATCH_ROWS)[:, None] * d.grid + np.arange(PATCH_COLUMNS)
        feeds = {
            "patches": patches.contiguous().numpy(),
            "pos_ids": places.reshape(1, -1),
            "grid_ids": cells.reshape(1, -1),
        }
        feeds["mask"] = np.ones(feeds["pos_ids"].shape, np.float32)
        embeds = self._backend.run("vision", feeds)["embeds"]
        summary = _checked("embeds", embeds, (1, d.queries, d.llm_hidden))
        self._images = [self._row("image"), embeds[0], self._row("image_end")]
        return summary

    def _apm(self) -> str:
        d = self._checkpoint.apm
        key = value = np.zeros((0, d.layers, d.heads, d.head_dim), np.float32)
        for frames, first in CHUNKS:
            feeds = {
                "mel": synthetic.speech_mel(frames, self._random, d.mels)[None].numpy(),
                "frame_idx": np.arange(first, first + KEPT),
                "pos_ids": np.arange(len(key), len(key) + KEPT),
                "past_key": key,
                "past_value": value,
            }
            outputs = self._backend.run("apm", feeds)
            summary = _checked("embeds", outputs["embeds"], (KEPT // d.pool, d.llm_hidden))
            for name in ("new_key", "new_value"):
                _checked(name, outputs[name], (KEPT, *key.shape[1:]))
            key, value = np.concatenate([key, outputs["new_key"]]), np.concatenate([value, outputs["new_value"]])
            self._sounds.append(outputs["embeds"])
        return summary

    def _llm(self) -> str:
        d = self._checkpoint.llm
        rows = [np.concatenate([self._backend.embed("llm", token) for token in self._prompt])]
        rows += [self._row("unit"), *self._images, *self._sounds]
        steps = self._backend.decoder("llm", d, sum(map(len, rows)) + TEXT_TOKENS + 1)
        for block in rows:
            logits, hidden = steps.step(block)
            _checked("logits", logits, (d.vocab,))
            summary = _checked("hidden", hidden, (len(block), d.hidden))
        self._words, states, token = [], [], self._tokens["speak"]
        for _ in range(TEXT_TOKENS):
            logits, hidden = steps.step(self._backend.embed("llm", token))
            # The condition pairs a token with the state that feeding it gives, so the state of the new token comes a
            # step later.
            states.append(hidden)
            logits[self._forbidden] = -np.inf
            token = _in_range("token", int(logits.argmax()), d.vocab)
            self._words.append(token)
        self._states = np.concatenate([*states[1:], steps.step(self._backend.embed("llm", token))[1]])
        return f"{summary}; says {self._text.decode(self._words)!r}"

    def _tts_condition(self) -> str:
        feeds = {"ids": np.array(self._words), "hidden": self._states}
        self._condition = self._backend.run("tts_condition", feeds)["condition"]
        return _checked("condition", self._condition, (TEXT_TOKENS + 1, self._checkpoint.tts.hidden))

    def _tts(self) -> str:
        d = self._checkpoint.tts
        steps = self._backend.decoder("tts", d, TEXT_TOKENS + 1 + CODES)
        rows, self._codes = self._condition, []
        for _ in range(CODES):
            logits, _ = steps.step(rows)
            _checked("logits", logits, (d.vocab,))
            logits[d.eos] = -np.inf
            self._codes.append(_in_range("code", int(logits.argmax()), d.eos))
            rows = self._backend.embed("tts", self._codes[-1])
        return f"{CODES} codes, {len(set(self._codes))} different, {min(self._codes)}..{max(self._codes)}"

    def _speech_tokenizer(self) -> str:
        mel = synthetic.speech_mel(VOICE_FRAMES, self._random, 128)[None].numpy()
        codes = self._backend.frontend("speech_tokenizer", [mel, np.array([VOICE_FRAMES], np.int32)]).ravel()
        if len(codes) != VOICE_FRAMES // 4:
            raise ExportError(f"{VOICE_FRAMES} frames gave {len(codes)} codes, expected {VOICE_FRAMES // 4}.")
        self._voice = [_in_range("code", int(code), self._checkpoint.flow.vocab) for code in codes]
        return f"{len(codes)} codes, {len(set(self._voice))} different, {min(self._voice)}..{max(self._voice)}"

    def _campplus(self) -> str:
        fbank = 3 * synthetic.speech_mel(VOICE_FRAMES, self._random)
        features = (fbank - fbank.mean(1, keepdim=True)).T[None].contiguous().numpy()
        self._speaker = self._backend.frontend("campplus", [features])
        return _checked("embedding", self._speaker, (1, self._checkpoint.flow.spk))

    def _flow_speaker(self) -> str:
        self._spk = self._backend.run("flow_speaker", {"embedding": self._speaker})["spk"]
        return _checked("spk", self._spk, (1, self._checkpoint.flow.mel))

    def _flow_encoder(self) -> str:
        """The voice prompt, then the codes of the unit, as two chunks of one stream."""
        d = self._checkpoint.flow
        state = {
            "conv1": np.zeros((1, d.width, CONV1_LEN), np.float32),
            "conv2": np.zeros((1, d.width, CONV2_LEN), np.float32),
            "kv1": np.zeros((0, d.blocks, 1, d.heads, 2 * d.head_dim), np.float32),
            "kv2": np.zeros((0, d.up_blocks, 1, d.heads, 2 * d.head_dim), np.float32),
        }
        self._mu = []
        for codes in ([*self._voice, *[SILENCE] * SILENCE_COUNT], self._codes):
            feeds = {"token": np.array([codes]), "valid": np.ones((1, len(codes), 1), np.float32)}
            outputs = self._backend.run("flow_encoder", feeds | state)
            summary = _checked("mu", outputs["mu"], (1, d.mel, d.up * (len(codes) - d.lookahead)))
            self._mu.append(outputs["mu"])
            state = {"conv1": outputs["conv1_out"], "conv2": outputs["conv2_out"]} | {
                name: np.concatenate([state[name], outputs[f"new_{name}"]]) for name in ("kv1", "kv2")
            }
        return summary

    def _flow_cfm(self) -> str:
        """The prompt with its own mel as condition, then the chunk over the prompt's frames as cache."""
        d = self._checkpoint.flow
        layers = range(d.dit_layers)
        lists = {f"cnn.{i}": np.zeros((d.steps, 2, 2 * d.dit_width, 2), np.float32) for i in layers}
        for name in ("att_key", "att_value"):
            lists |= {f"{name}.{i}": np.zeros((d.steps, 2, d.dit_heads, 0, d.dit_head_dim), np.float32) for i in layers}
        voice = 2 * synthetic.speech_mel(self._mu[0].shape[2], self._random, d.mel)[None].numpy() - 5
        for mu, cond in zip(self._mu, (voice, np.zeros_like(self._mu[1])), strict=True):
            cached = lists["att_key.0"].shape[3]
            feeds = {
                "z": torch.randn(mu.shape, generator=self._random).numpy(),
                "mu": mu,
                "spk": self._spk,
                "cond": cond,
            }
            feeds["mask"] = np.zeros((1, cached + mu.shape[2]), np.float32)
            outputs = self._backend.run("flow_cfm", feeds | lists)
            summary = _checked("mel", outputs["mel"], mu.shape)
            lists = {f"cnn.{i}": outputs[f"cnn_out.{i}"] for i in layers} | {
                f"att_{name}.{i}": outputs[f"new_{name}.{i}"] for name in ("key", "value") for i in layers
            }
        self._mel = outputs["mel"]
        return summary

    def _hift(self) -> str:
        frames = self._mel.shape[2]
        samples = frames * SAMPLES_PER_FRAME
        noise = torch.randn(1, samples, self._checkpoint.hift.harmonics + 1, generator=self._random).numpy()
        outputs = self._backend.run(
            "hift", {"mel": self._mel, "cache_source": np.zeros((1, 1, 0), np.float32), "noise": noise}
        )
        summary = _checked("speech", outputs["speech"], (1, samples))
        _checked("source", outputs["source"], (1, 1, samples))
        f0 = outputs["f0"]
        _checked("f0", f0, (1, frames))
        if np.abs(outputs["speech"]).max() > 1 or f0.min() < 0:
            raise ExportError("speech leaves -1..1 or a pitch is negative.")
        return f"{summary}, rms {np.sqrt(np.mean(outputs['speech'] ** 2)):.3f}, {np.mean(f0 > 10):.0%} voiced"

    def _row(self, token: str) -> np.ndarray:
        return self._backend.embed("llm", self._tokens[token])


def _checked(name: str, value: np.ndarray, shape: tuple[int, ...]) -> str:
    """A summary of `value`, or `ExportError` for another shape, a value that is not finite, or a constant."""
    if value.shape != shape:
        raise ExportError(f"{name} has shape {list(value.shape)}, expected {list(shape)}.")
    if not np.isfinite(value).all():
        raise ExportError(
            f"{name} holds {np.count_nonzero(~np.isfinite(value))} NaN or infinite values of {value.size}."
        )
    if np.ptp(value) == 0:
        raise ExportError(f"{name} is constant ({value.flat[0]}): the weights are blank.")
    return f"{name} {list(shape)}, {value.min():.3g}..{value.max():.3g}"


def _in_range(name: str, value: int, limit: int) -> int:
    if not 0 <= value < limit:
        raise ExportError(f"{name} {value} lies outside 0..{limit - 1}.")
    return value
