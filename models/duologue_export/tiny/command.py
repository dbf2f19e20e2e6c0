"""The subcommand: arguments, order of writing, tiny_info.json."""

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

from duologue_export.errors import ExportError
from duologue_export.tiny import configuration, dims, frontends, llm_weights, speech_weights, vocabulary
from duologue_export.tiny.calibrate import fitted_lm_head, text_mask, with_fitted_head
from duologue_export.tiny.random_tensors import TensorSpec
from duologue_export.tiny.writer import DTYPES, write_checkpoint

# Heights of embeddings are rounded up to this when not given, as real vocabularies are.
ROW_MULTIPLE = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `duologue-export tiny`."""
    parser.add_argument("--seed", type=int, default=0, help="all weights follow from it (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder to create; must be absent or empty")
    parser.add_argument(
        "--dims", default="default", help=f"preset ({', '.join(dims.PRESETS)}) or a JSON file with overrides"
    )
    parser.add_argument("--layers", type=int, metavar="N", help="at most so many layers of each kind")
    parser.add_argument(
        "--device", default="cpu", help="where the weights are drawn: cpu or cuda, which is fast and draws others"
    )
    parser.add_argument("--shards", type=int, default=1, help="number of safetensors files (default 1: no index file)")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="bf16", help="stored type of model.safetensors (default bf16)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint; raises `ExportError` for a folder in use, impossible sizes or too many shards."""
    started = time.monotonic()
    sizes = dims.load(args.dims)
    if args.layers is not None:
        sizes = dims.check(dims.with_layers(sizes, args.layers))
    if not args.device.startswith(("cpu", "cuda")) or (args.device != "cpu" and not torch.cuda.is_available()):
        raise ExportError(f"--device {args.device}: this PyTorch has no such device; use cpu.")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ExportError(f"--out {args.out}: exists and is not empty. Name another folder or delete it first.")
    speech = args.out / "assets" / "token2wav"
    speech.mkdir(parents=True, exist_ok=True)
    words = vocabulary.write(args.out, sizes.merges)
    rows = _rows(sizes.llm.vocab, words.size, "llm.vocab")
    text_rows = _rows(sizes.tts.text_vocab, words.size, "tts.text_vocab")
    specs = llm_weights.all_specs(sizes, rows, text_rows, text_mask(words, rows), args.seed)
    if not 1 <= args.shards <= len(specs):
        raise ExportError(f"--shards {args.shards}: must lie in 1..{len(specs)} (the number of tensors).")
    if sizes.calibrate:
        head = fitted_lm_head(sizes, words, rows, text_rows, args.seed, DTYPES[args.dtype][1])
        specs[-1] = with_fitted_head(specs[-1], head)
    total = sum(math.prod(s.shape) for s in specs) * DTYPES[args.dtype][2]
    with tqdm(total=total, unit="B", unit_scale=True, desc="model.safetensors", disable=None) as bar:
        write_checkpoint(
            args.out, specs, lambda spec: spec.blocks(args.seed, args.device), args.dtype, args.shards, bar.update
        )
    _save_state(speech / "flow.pt", speech_weights.flow(sizes.flow), args.seed)
    _save_state(speech / "hift.pt", speech_weights.hift(sizes.hift), args.seed)
    (speech / "flow.yaml").write_text(speech_weights.flow_yaml(sizes.flow), encoding="utf-8")
    frontends.write_speech_tokenizer(speech / "speech_tokenizer_v2_25hz.onnx", sizes.frontend, args.seed)
    frontends.write_campplus(speech / "campplus.onnx", sizes.frontend, args.seed)
    torch_name = {"bf16": "bfloat16", "fp32": "float32"}[args.dtype]
    for name, value in (
        ("config.json", configuration.config(sizes, words, rows, text_rows, torch_name)),
        ("generation_config.json", configuration.generation(words)),
        ("preprocessor_config.json", configuration.preprocessor(sizes)),
        (
            "tiny_info.json",
            {
                "seed": args.seed,
                "dims": dataclasses.asdict(sizes),
                "shards": args.shards,
                "dtype": args.dtype,
                "drawn_on": args.device,
            },
        ),
    ):
        (args.out / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    bytes_on_disk = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(
        f"{args.out}: seed {args.seed}, vocabulary {words.size}, {bytes_on_disk / 1e6:.1f} MB, "
        f"{time.monotonic() - started:.1f} s"
    )
    return 0


def _rows(wanted: int, entries: int, name: str) -> int:
    if wanted == 0:
        return -(-entries // ROW_MULTIPLE) * ROW_MULTIPLE
    if wanted < entries:
        raise ExportError(
            f"dims: {name} is {wanted}, but the tokenizer has {entries} entries. "
            "Use 0 or a larger value, or fewer merges."
        )
    return wanted


def _save_state(path: Path, specs: list[TensorSpec], seed: int) -> None:
    # The reference keeps token2wav in float32 (token2wav.py:60-90), whatever the type of the language model.
    torch.save({spec.name: spec.tensor(seed) for spec in specs}, path)
