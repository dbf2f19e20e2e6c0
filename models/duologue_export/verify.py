"""`verify`: is every graph of a bundle the same function as its torch module?

One row per sub-module: the worst Pearson correlation, the largest absolute error and the largest relative error over
seeded inputs of several lengths, empty caches and a second chunk included. Below the threshold of its precision a row
fails by name and the exit code is 1. With the golden modules at hand the torch side itself is checked first, because
agreeing with a wrong reference is no proof.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import DecoderDims
from duologue_export.errors import ExportError
from duologue_export.modules import cases, golden
from duologue_export.modules.cases import Case
from duologue_export.modules.decoder import TorchDecoder, llm_source, tts_source
from duologue_export.modules.frontends import SPEAKER_FILE, TOKENIZER_FILE
from duologue_export.modules.parity import THRESHOLDS, Row

# Four bits in every layer of a 768-wide model cost this much on the logits; what counts is the sampled speech.
TTS_INT4_LOGITS = 0.90
_KV_CAPACITY = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `duologue-export verify`."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint that the bundle was made from")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--modules", type=Path, metavar="DIR", help="golden module_*.npz of this checkpoint: checks PyTorch first"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the rows as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 when a row fails."""
    checkpoint, bundle = Checkpoint(args.checkpoint), Bundle(args.bundle)
    torch.set_num_threads(1)
    reference = golden.check(checkpoint, args.modules) if args.modules else []
    if reference:
        print("PyTorch modules against the golden data")
        _print_table(reference)
    rows = verify(checkpoint, bundle)
    manifest = bundle.manifest
    print(f"{bundle.folder}: {manifest['precision']} for {manifest['target']}, against the PyTorch modules")
    _print_table(rows)
    if args.json:
        report = {"bundle": bundle.manifest["name"], "golden": _as_json(reference), "graphs": _as_json(rows)}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    failed = [f"{row.name} (PCC {row.pcc}, needs {row.threshold})" for row in reference + rows if not row.ok]
    if failed:
        print("FAILED: " + ", ".join(failed))
    return 1 if failed else 0


class Bundle:
    """A written bundle: its manifest and its graphs as ONNX Runtime sessions."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "manifest.json"
        if not path.is_file():
            raise ExportError(f"{path}: missing. --bundle must name a folder written by `duologue-export export`.")
        self.manifest = json.loads(path.read_text())
        on_gpu = self.manifest["target"] == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        self.providers = ["CUDAExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]

    def precision(self, graph: str) -> str:
        """What the graph was written in (kept_precision, else the bundle's)."""
        return self.manifest["kept_precision"].get(graph, self.manifest["precision"])

    def session(self, graph: str) -> onnxruntime.InferenceSession:
        """Loads `graph`. Raises `ExportError` when the file is missing."""
        path = self.folder / graph
        if not path.is_file():
            raise ExportError(f"{path}: missing although the checkpoint has this sub-module. Export the bundle again.")
        return open_session(str(path), self.providers)


def open_session(model: str | bytes, providers: list[str]) -> onnxruntime.InferenceSession:
    """A quiet session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=providers)


def verify(checkpoint: Checkpoint, bundle: Bundle) -> list[Row]:
    """One row per sub-module that the checkpoint has."""
    rows = [_decoder_row(checkpoint, bundle, "llm", checkpoint.llm), _row(checkpoint, bundle, cases.kv_compact)]
    if checkpoint.has_apm:
        rows.append(_row(checkpoint, bundle, cases.apm))
    if checkpoint.has_vision:
        rows.append(_row(checkpoint, bundle, cases.vision))
    if checkpoint.has_tts:
        rows += [_row(checkpoint, bundle, cases.tts_condition), _decoder_row(checkpoint, bundle, "tts", checkpoint.tts)]
        token2wav = (cases.flow_speaker, cases.flow_encoder, cases.flow_cfm, cases.hift)
        rows += [_row(checkpoint, bundle, make) for make in token2wav]
        rows += [_speech_tokenizer_row(checkpoint, bundle), _campplus_row(checkpoint, bundle)]
    return rows


def _row(checkpoint: Checkpoint, bundle: Bundle, make: Callable[[Checkpoint], Iterator[Case]]) -> Row:
    name = make.__name__
    row = _new_row(bundle, name, f"{name}.onnx")
    session = bundle.session(f"{name}.onnx")
    kinds = {value.name: value.type for value in session.get_inputs()}
    for case in make(checkpoint):
        feeds = {n: v.astype(np.float16) if "float16" in kinds[n] else v for n, v in case.feeds.items()}
        actual = session.run(list(case.expected), feeds)
        for (output, expected), value in zip(case.expected.items(), actual, strict=True):
            row.add(output, expected, value)
    return row


def _new_row(bundle: Bundle, name: str, graph: str) -> Row:
    precision = bundle.precision(graph)
    return Row(name, precision, THRESHOLDS[precision])


def _decoder_row(checkpoint: Checkpoint, bundle: Bundle, name: str, dims: DecoderDims) -> Row:
    """A prompt, two single tokens and a chunk, through one cache that past and present share."""
    row = _new_row(bundle, name, f"{name}.onnx")
    if name == "tts" and row.precision == "int4":
        row.threshold = TTS_INT4_LOGITS
    # In four bits the LLM is judged by its hidden states: they carry both the text and the speech condition.
    judged = {"hidden"} if name == "llm" and row.precision == "int4" else {"hidden", "logits"}
    torch_side = TorchDecoder(dims, llm_source(checkpoint) if name == "llm" else tts_source(checkpoint))
    table = "llm.model.embed_tokens.weight" if name == "llm" else "tts.emb_code.0.weight"
    generator, graph = cases.generator(), StepGraph(bundle.session(f"{name}.onnx"), dims)
    for count in (17, 1, 1, 12):
        tokens = torch.randint(0, dims.vocab, (count,), generator=generator)
        embeds = torch.cat([checkpoint.weights.rows(table, token, token + 1) for token in tokens.tolist()])
        logits, hidden = torch_side.step(embeds)
        actual = graph.step(embeds.numpy())
        for output, expected in (("logits", logits), ("hidden", hidden)):
            if output in actual and output in judged:
                row.add(output, expected.numpy(), actual[output][0])
    return row


class StepGraph:
    """Runs llm.onnx or tts.onnx for one session as the server does: past and present of a layer are the same memory."""

    def __init__(self, session: onnxruntime.InferenceSession, dims: DecoderDims, capacity: int = _KV_CAPACITY):
        self.session = session
        kinds = {value.name: value.type for value in session.get_inputs()}
        self.io = np.float16 if "float16" in kinds["inputs_embeds"] else np.float32
        shape = (1, dims.kv_heads, capacity, dims.head_dim)
        device = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
        self.caches = {
            f"{side}.{layer}": onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, self.io), device)
            for layer in range(dims.layers)
            for side in ("key", "value")
        }
        self.length = 0

    def step(self, embeds: np.ndarray) -> dict[str, np.ndarray]:
        """embeds [S, hidden] -> logits [1, vocab] and, where the graph has it, hidden [1, S, hidden]."""
        binding = self.session.io_binding()
        self.length += len(embeds)
        binding.bind_cpu_input("inputs_embeds", embeds[None].astype(self.io))
        binding.bind_cpu_input("seqlens_k", np.array([self.length - 1], np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array(self.length, np.int32))
        for name, value in self.caches.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        wanted = [v.name for v in self.session.get_outputs() if not v.name.startswith("present_")]
        for name in wanted:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        return dict(zip(wanted, binding.copy_outputs_to_cpu()[-len(wanted) :], strict=True))


def _speech_tokenizer_row(checkpoint: Checkpoint, bundle: Bundle) -> Row:
    """Codes against the reference's rule, round(tanh + 1) in base 3, on the tanh values of the checkpoint's own
    graph. The figure is the share of equal codes."""
    row = Row("speech_tokenizer", "fp32", 1.0, note="share of equal codes")
    source = onnx.load(checkpoint.token2wav / TOKENIZER_FILE)
    squashed = next((n.output[0] for n in reversed(source.graph.node) if n.op_type == "Tanh"), None)
    if squashed is None:
        raise ExportError(f"{checkpoint.token2wav / TOKENIZER_FILE}: no Tanh; this is not the speech tokenizer v2.")
    source.graph.output.append(helper.make_tensor_value_info(squashed, TensorProto.FLOAT, None))
    original = open_session(source.SerializeToString(), ["CPUExecutionProvider"])
    graph = bundle.session("speech_tokenizer.onnx")
    names = [value.name for value in graph.get_inputs()]
    generator = cases.generator()
    for frames in (64, 151):
        mel = torch.rand(1, 128, frames, generator=generator).numpy() * 2 - 1
        feeds = dict(zip(names, (mel, np.array([frames], np.int32)), strict=True))
        values = original.run([squashed], feeds)[0].reshape(-1, 8)
        codes = (np.round(values + np.float32(1)).astype(np.int64) * 3 ** np.arange(8)).sum(1)
        actual = graph.run(None, feeds)[0].ravel()
        row.pcc = min(1.0 if row.pcc is None else row.pcc, float((codes == actual).mean()))
    return row


def _campplus_row(checkpoint: Checkpoint, bundle: Bundle) -> Row:
    row = Row("campplus", "fp32", THRESHOLDS["fp32"])
    original = open_session(str(checkpoint.token2wav / SPEAKER_FILE), ["CPUExecutionProvider"])
    graph = bundle.session("campplus.onnx")
    generator = cases.generator()
    for frames in (98, 310):
        feeds = {graph.get_inputs()[0].name: torch.randn(1, frames, 80, generator=generator).numpy()}
        row.add("embedding", original.run(None, feeds)[0], graph.run(None, feeds)[0])
    return row


def _print_table(rows: list[Row]) -> None:
    print(f"{'sub-module':18} {'precision':9} {'PCC':>10} {'max abs':>10} {'relative':>10} {'needs':>8}  result")
    for row in rows:
        pcc = "-" if row.pcc is None else f"{row.pcc:.7f}"
        result = "ok" if row.ok else "FAILED"
        note = f" ({row.note})" if row.note else ""
        print(
            f"{row.name:18} {row.precision:9} {pcc:>10} {row.max_abs:>10.2e} {row.relative:>10.2e} {row.threshold:>8}"
            f"  {result}{note}"
        )


def _as_json(rows: list[Row]) -> list[dict]:
    return [asdict(row) | {"ok": row.ok} for row in rows]
