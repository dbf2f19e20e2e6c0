"""manifest.json: model numbers, defaults of the reference, and a checksum for every file (BUNDLE.md)."""

import hashlib
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from tqdm import tqdm

from duologue_export import __version__
from duologue_export.checkpoint import Checkpoint
from duologue_export.modules.torch_flow_encoder import MAX_FRAMES
from duologue_export.tokens import token_section

FORMAT_VERSION = 3
_TYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}


def merge(target: dict, fragment: dict) -> None:
    """Adds a sub-module's fragment to the top level of the manifest; dictionaries are merged one level deep."""
    for key, value in fragment.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            target[key].update(value)
        else:
            target[key] = value


def base_manifest(checkpoint: Checkpoint, name: str, precision: str, target: str) -> dict:
    """Everything that does not depend on written files; sub-modules that are switched off are null."""
    return {
        "format": "duologue-bundle",
        "format_version": FORMAT_VERSION,
        "exporter_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "name": name,
        "weights": "random" if checkpoint.is_random else "trained",
        "precision": precision,
        "target": target,
        "io_dtype": "float16" if target == "cuda" else "float32",
        "kept_precision": {},
        "files": {},
        "graphs": {},
        "tokenizer": token_section(checkpoint),
        # Prompt of DuplexCapability.prepare (modeling_minicpmo_unified.py:658, 835, 3932).
        "prompt": {
            "prefix": "<|im_start|>system\n{system_prompt}\n<|audio_start|>",
            "suffix": "<|audio_end|><|im_end|>",
            "default_system_prompt": "Streaming Omni Conversation.",
            "previous_marker": "\n\nprevious: ",
            # The official duplex loop never reads text.
            "typed": None,
        },
        # Defaults of the duplex view (4071-4078, 4276-4294) and of streaming_generate (4958-4970, 5084).
        "duplex": {
            "sample_rate_hz": 16000,
            "chunk_ms": 1000,
            "first_chunk_ms": 1035,
            "cnn_redundancy_ms": 20,
            "max_new_speak_tokens": 20,
            "max_chars_per_unit": 28,
            "force_listen_count": 3,
        },
        "sampling": {
            "decode_mode": "sampling",
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
            "listen_prob_scale": 1.0,
            "listen_top_k": None,
            "repetition_penalty": 1.05,
            "repetition_window": 512,
            "length_penalty": 1.1,
        },
        "window": {
            "mode": "off",
            "basic_high_tokens": 4000,
            "basic_low_tokens": 3500,
            "context_previous_max_tokens": 500,
            "context_max_units": 24,
        },
        # Whisper feature extractor and the streaming processor around it (processing_minicpmo.py:567-930).
        "mel": {
            "n_fft": 400,
            "hop": 160,
            "n_mels": checkpoint.apm.mels if checkpoint.has_apm else 80,
            "f_max_hz": 8000,
            "short_buffer_samples": 80000,
            "floor_log10": -10.0,
            "dynamic_range": 8.0,
            "window_samples": 480000,
            "drop_samples": 160000,
        },
        "llm": None,
        "apm": None,
        "vision": None,
        "tts": None,
        "token2wav": _token2wav(checkpoint) if checkpoint.has_tts else None,
        "flow": None,
        "hift": None,
        "voice": _voice() if checkpoint.has_tts else None,
        "voices": [],
        "suggestions": [],
    }


def _token2wav(checkpoint: Checkpoint) -> dict:
    # modeling_minicpmo_unified.py:4410, 5481-5508 (buffer rules) and token2wav.py:95-206 (trimming of the caches).
    return {
        "token_rate_hz": 25,
        "sample_rate_hz": 24000,
        "silence_token": 4218,
        "silence_prefix": 3,
        "lookahead": checkpoint.flow.lookahead,
        "chunk_tokens": 25,
        "flush_tokens": 5,
        "trim_tail_frames": 100,
        "max_frames": MAX_FRAMES,
    }


def longest_voice_s(checkpoint: Checkpoint) -> float:
    """Seconds of the longest voice prompt: with one full chunk and the kept tail it fills the frames that the vocoder
    is built for. A model that only hears takes what one window of its audio encoder holds."""
    if not checkpoint.has_tts:
        return 30.0
    rules, up = _token2wav(checkpoint), checkpoint.flow.up
    taken = rules["trim_tail_frames"] + up * (rules["chunk_tokens"] + rules["lookahead"])
    return (rules["max_frames"] - taken) / (up * rules["token_rate_hz"])


def _voice() -> dict:
    # Voice prompt front ends (token2wav.py:100-158): 128-bin whisper mel for the speech tokenizer, 80-bin Kaldi fbank
    # for campplus, 24 kHz mel for the flow prompt.
    return {
        "s3_mels": 128,
        "fbank_mels": 80,
        "mel24": {"n_fft": 1920, "hop": 480, "n_mels": 80, "f_max_hz": 8000},
        "fixed": False,
    }


def describe_graph(model: onnx.ModelProto) -> dict:
    """Opset, inputs and outputs of a graph."""
    constants = {tensor.name for tensor in model.graph.initializer}

    def kinds(values) -> dict:
        return {v.name: _TYPES[v.type.tensor_type.elem_type] for v in values if v.name not in constants}

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": opset, "inputs": kinds(model.graph.input), "outputs": kinds(model.graph.output)}


def weight_precision(model: onnx.ModelProto) -> str | None:
    """What most weights of a graph are stored in: int8, int4, fp16 or fp32; None for a graph without weights."""
    bits = [helper.get_node_attr_value(node, "bits") for node in model.graph.node if node.op_type == "MatMulNBits"]
    if bits:
        return f"int{min(bits)}"
    counts = {"fp32": 0, "fp16": 0}
    for tensor in model.graph.initializer:
        name = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}.get(tensor.data_type)
        if name and len(tensor.dims) > 1:
            counts[name] += math.prod(tensor.dims)
    return max(counts, key=counts.get) if any(counts.values()) else None


def describe_files(bundle: Path, manifest: dict) -> None:
    """Fills `files`, `graphs` and `kept_precision` with everything below `bundle` except the manifest and hidden files.

    Graphs are read back from disk: the manifest says what was written, not what was meant.
    """
    paths = [path for path in sorted(bundle.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(bundle).parts)]
    for path in tqdm(paths, desc="checksums", unit="file", leave=False, disable=None):
        name = path.relative_to(bundle).as_posix()
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        if path.suffix != ".onnx":
            continue
        model = onnx.load(path, load_external_data=False)
        manifest["graphs"][name] = describe_graph(model)
        if (kept := weight_precision(model)) not in (None, manifest["precision"]):
            manifest["kept_precision"][name] = kept


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(bundle: Path, manifest: dict) -> None:
    """Writes manifest.json."""
    (bundle / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
