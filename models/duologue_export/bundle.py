"""Reading a written bundle: its manifest, its graphs as ONNX Runtime sessions, its tables, its checksums."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from tqdm import tqdm

from duologue_export.dims import DecoderDims
from duologue_export.errors import ExportError
from duologue_export.modules.parity import THRESHOLDS

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_REQUIRED = ("name", "precision", "target", "io_dtype", "kept_precision", "files", "llm")
_TYPES = ("float32", "float16")
_BLOCK_BYTES = 1 << 22


class Bundle:
    """A bundle folder. Raises `ExportError` when it has no usable manifest.

    A bundle for CUDA runs on the CPU where this ONNX Runtime has no CUDA provider; `notice` says so.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "manifest.json"
        if not path.is_file():
            raise ExportError(f"{path}: missing. --bundle must name a folder written by `duologue-export export`.")
        try:
            self.manifest = json.loads(path.read_text(encoding="utf-8"))
            missing = [key for key in _REQUIRED if key not in self.manifest]
        except (ValueError, TypeError) as error:
            raise ExportError(f"{path}: not valid JSON ({error}). Export the bundle again.") from error
        if missing:
            raise ExportError(f"{path}: has no {', '.join(missing)}. Export the bundle again.")
        unknown = {self.manifest["precision"], *self.manifest["kept_precision"].values()} - set(THRESHOLDS)
        if unknown or self.manifest["io_dtype"] not in _TYPES:
            raise ExportError(
                f"{path}: precision {sorted(unknown) or self.manifest['precision']} or io_dtype "
                f"{self.manifest['io_dtype']!r} is unknown to this version; known are {list(THRESHOLDS)} and {_TYPES}."
            )
        self.providers, self.notice = [_CPU], ""
        if self.manifest["target"] == "cuda":
            if _CUDA in onnxruntime.get_available_providers():
                self.providers = [_CUDA, _CPU]
            else:
                self.notice = f"made for cuda, but run on {_CPU}: this onnxruntime has no {_CUDA}"

    @property
    def label(self) -> str:
        """What it is and where its graphs run."""
        made = f"bundle, {self.manifest['precision']} for {self.manifest['target']}"
        return f"{made}, {self.notice or f'run on {self.providers[0]}'}"

    def precision(self, graph: str) -> str:
        """What the graph was written in (kept_precision, else the bundle's)."""
        return self.manifest["kept_precision"].get(graph, self.manifest["precision"])

    def session(self, graph: str) -> onnxruntime.InferenceSession:
        """Loads `graph`. Raises `ExportError` when the file is missing."""
        path = self.folder / graph
        if not path.is_file():
            raise ExportError(f"{path}: missing although the checkpoint has this sub-module. Export the bundle again.")
        return open_session(str(path), self.providers)

    def table_type(self, name: str) -> np.dtype:
        """Element type of `<name>_embed.bin`."""
        kind = (self.manifest[name] or {}).get("embed_dtype")
        if kind not in _TYPES:
            raise ExportError(f"{self.folder / 'manifest.json'}: {name}.embed_dtype is {kind!r}, not {_TYPES}.")
        return np.dtype(kind)

    def table_rows(self, name: str, width: int, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of `<name>_embed.bin` as stored, [stop - start, width]."""
        path, dtype = self.folder / f"{name}_embed.bin", self.table_type(name)
        values = np.fromfile(path, dtype, (stop - start) * width, offset=start * width * dtype.itemsize)
        if len(values) != (stop - start) * width:
            raise ExportError(f"{path}: ends before row {stop}; the file is truncated. Export the bundle again.")
        return values.reshape(-1, width)

    def faults(self) -> dict[str, str]:
        """file -> what is wrong with it: missing, another size or sha256 than in the manifest, or not listed there."""
        listed = self.manifest["files"]
        total = sum(entry["bytes"] for entry in listed.values())
        found = {}
        with tqdm(total=total, desc="checksums", unit="B", unit_scale=True, leave=False, disable=None) as bar:
            for name, entry in listed.items():
                if fault := _fault(self.folder / name, entry, bar.update):
                    found[name] = fault
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            hidden = any(part.startswith(".") for part in name.parts)
            if path.is_file() and not hidden and name.as_posix() not in {*listed, "manifest.json"}:
                found[name.as_posix()] = "is not listed in the manifest"
        return found


def _fault(path: Path, entry: dict, progress: Callable[[int], object]) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"has {size} bytes, the manifest says {entry['bytes']}"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            progress(len(block))
    return None if digest.hexdigest() == entry["sha256"] else "has another sha256 than the manifest says"


def open_session(model: str | bytes, providers: list[str]) -> onnxruntime.InferenceSession:
    """A quiet session on one thread. Raises `ExportError` when ONNX Runtime gives another provider than the first:
    it would otherwise go to the CPU without a word."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=providers)
    if session.get_providers()[0] != providers[0]:
        raise ExportError(
            f"ONNX Runtime did not start {providers[0]} but {', '.join(session.get_providers())}. "
            "Its CUDA libraries do not load on this machine; install the ones that fit, or use the CPU build."
        )
    return session


class StepGraph:
    """Runs llm.onnx or tts.onnx as the server does: past and present of a layer are the same memory.

    `slots` sequences in caches [slots, kv_heads, capacity, head_dim]; `lengths` holds what each cache contains.
    """

    def __init__(self, session: onnxruntime.InferenceSession, dims: DecoderDims, capacity: int, slots: int = 1):
        self.session = session
        kinds = {value.name: value.type for value in session.get_inputs()}
        self.io = np.float16 if "float16" in kinds["inputs_embeds"] else np.float32
        shape = (slots, dims.kv_heads, capacity, dims.head_dim)
        device = "cuda" if _CUDA in session.get_providers() else "cpu"
        self.caches = {
            f"{side}.{layer}": onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, self.io), device)
            for layer in range(dims.layers)
            for side in ("key", "value")
        }
        self.lengths = np.zeros(slots, np.int32)

    def step(self, embeds: np.ndarray) -> dict[str, np.ndarray]:
        """embeds [slots, S, hidden] -> logits [slots, vocab] and, where the graph has it, hidden [slots, S, hidden].
        S > 1 needs one slot."""
        binding = self.session.io_binding()
        self.lengths += np.int32(embeds.shape[1])
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(embeds.astype(self.io)))
        binding.bind_cpu_input("seqlens_k", self.lengths - np.int32(1))
        binding.bind_cpu_input("total_sequence_length", np.array(self.lengths.max(), np.int32))
        for name, value in self.caches.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        wanted = [v.name for v in self.session.get_outputs() if not v.name.startswith("present_")]
        for name in wanted:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        return dict(zip(wanted, binding.copy_outputs_to_cpu()[-len(wanted) :], strict=True))

    def cache(self, side: str, layer: int, slot: int = 0) -> np.ndarray:
        """[kv_heads, length, head_dim] of one layer."""
        return self.caches[f"{side}.{layer}"].numpy()[slot, :, : self.lengths[slot]]
