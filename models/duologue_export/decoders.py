"""Sub-modules llm and tts: step graphs, embedding tables and the cache compaction graph."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import UNIT_CODES, DecoderDims
from duologue_export.errors import ExportError
from duologue_export.graph.decoder import DecoderSource, write_decoder
from duologue_export.graph.kv_compact import write_kv_compact
from duologue_export.graph.linear import ROWS_AT_ONCE, Numbers, narrowed
from duologue_export.modules.decoder import llm_source, tts_source
from duologue_export.tensors import TensorSource

LLM_CAPACITY = 8192
TTS_CAPACITY = 4096
# What int4 leaves at 8 bits. Measured on random weights (the worst case: nothing is redundant), correlation of the
# LLM's hidden states: all int4 0.979, attention and head at 8 bits 0.996. At full size these matrices are a quarter of
# the weights.
INT4_KEEPS = ("qkv_proj", "o_proj", "head")


def export_llm(checkpoint: Checkpoint, out: Path, precision: str, target: str, kv_capacity: int = LLM_CAPACITY) -> dict:
    """Writes llm.onnx, llm_embed.bin and kv_compact.onnx; returns the manifest fragment."""
    dims, source = checkpoint.llm, llm_source(checkpoint)
    kept = _write(out / "llm.onnx", dims, source, precision, target, kv_capacity)
    write_kv_compact(out / "kv_compact.onnx", dims, target)
    embed = _write_table(
        out / "llm_embed.bin", checkpoint.weights, "llm.model.embed_tokens.weight", (dims.vocab, dims.hidden), precision
    )
    return {"llm": {**_sizes(dims), "kv_capacity": kv_capacity, "embed_dtype": embed}, "kept_precision": kept}


def export_tts(checkpoint: Checkpoint, out: Path, precision: str, target: str) -> dict:
    """Writes tts.onnx and tts_embed.bin; returns the manifest fragment."""
    dims, source = checkpoint.tts, tts_source(checkpoint)
    capacity = min(TTS_CAPACITY, dims.max_positions)
    kept = _write(out / "tts.onnx", dims, source, precision, target, capacity)
    shape = (dims.vocab, dims.hidden)
    embed = _write_table(out / "tts_embed.bin", checkpoint.weights, "tts.emb_code.0.weight", shape, precision)
    fragment = {
        **_sizes(dims),
        "codes": dims.vocab,
        "eos": dims.eos,
        "kv_capacity": capacity,
        "embed_dtype": embed,
        # Sampling of generate_chunk (modeling_minicpmo_unified.py:6711).
        "temperature": 0.8,
        "repetition_penalty": 1.05,
        "repetition_window": 16,
        "codes_per_unit": UNIT_CODES,
        "first_unit_codes": dims.first_unit_codes,
    }
    return {"tts": fragment, "kept_precision": kept}


def _sizes(dims: DecoderDims) -> dict:
    values = asdict(dims)
    return {key: values[key] for key in ("hidden", "layers", "heads", "kv_heads", "head_dim", "rope_theta")}


def _write(path: Path, dims: DecoderDims, source: DecoderSource, precision: str, target: str, capacity: int) -> dict:
    kept = {name: Numbers.choose("int8", target) for name in INT4_KEEPS} if precision == "int4" else {}
    with tqdm(total=dims.layers + 1, desc=path.name, unit="layer", leave=False, disable=None) as bar:
        write_decoder(path, dims, source, Numbers.choose(precision, target), kept, capacity, bar.update)
    return {f"{path.name}/{name}": "int8" for name in kept}


def _write_table(path: Path, weights: TensorSource, name: str, shape: tuple[int, int], precision: str) -> str:
    # fp32 bundles keep the table exact; the others halve it: it is 1.2 GB in float16 at full size.
    dtype = np.float32 if precision == "fp32" else np.float16
    weights.require(name, shape)
    with path.open("wb") as file:
        for start in tqdm(range(0, shape[0], ROWS_AT_ONCE), desc=path.name, unit="block", leave=False, disable=None):
            piece = weights.rows(name, start, min(shape[0], start + ROWS_AT_ONCE)).numpy()
            piece = narrowed(piece, dtype)
            if not np.isfinite(piece).all():
                raise ExportError(
                    f"{weights.label}: '{name}' holds values that {np.dtype(dtype)} cannot hold; use --precision fp32."
                )
            file.write(piece.data)
    return np.dtype(dtype).name
