"""`verify`: is a bundle complete, and is every graph of it the same function as its torch module?

First every file is compared with the size and the sha256 in the manifest. Then one row per sub-module: the worst
Pearson correlation, the largest absolute error and the largest relative error over seeded inputs of several lengths,
empty caches and a second chunk included. Embedding tables are compared with the checkpoint value by value. A row
beyond a limit of its precision fails by name, the others still run, and the exit code is 1.

With the golden modules at hand the torch side itself is checked first, because agreeing with a wrong reference is no
proof; without them the report says that this was not done.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from duologue_export.bundle import Bundle, StepGraph, open_session
from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import DecoderDims
from duologue_export.errors import ExportError
from duologue_export.modules import cases, golden
from duologue_export.modules.cases import Case
from duologue_export.modules.decoder import TorchDecoder, llm_source, tts_source
from duologue_export.modules.frontends import SPEAKER_FILE, TOKENIZER_FILE
from duologue_export.modules.parity import THRESHOLDS, Row, print_table

# Four bits (attention and head keep eight) of a model as narrow as the tts cost more on the logits than on wide ones.
TTS_INT4_LOGITS = 0.90
TABLES = {"llm": "llm.model.embed_tokens.weight", "tts": "tts.emb_code.0.weight"}
NOT_CHECKED = "not checked against golden modules"
_KV_CAPACITY = 128
_TABLE_BLOCK = 4096
# 80000 values of a standard normal have a mean within 0.004 and a deviation within 0.003 of it; this is ten times that.
_NOISE_TOLERANCE = 0.04


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `duologue-export verify`."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint that the bundle was made from")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--modules", type=Path, metavar="DIR", help="golden module_*.npz of this checkpoint: checks PyTorch first"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the rows as JSON")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    parser.add_argument(
        "--torch-device", default="cpu", help="where PyTorch runs llm and tts: cpu, or cuda for large checkpoints"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the tables; 1 when a row fails."""
    checkpoint, bundle = Checkpoint(args.checkpoint), Bundle(args.bundle)
    torch.set_num_threads(args.threads)
    if args.torch_device != "cpu" and not torch.cuda.is_available():
        raise ExportError(f"--torch-device {args.torch_device}: this PyTorch has no such device; use cpu.")
    # Ten bits of mantissa would be the coarsest step of the comparison.
    torch.backends.cuda.matmul.allow_tf32 = False
    reference = golden.check(checkpoint, args.modules) if args.modules else []
    if reference:
        print(f"PyTorch side: checked against golden modules in {args.modules}")
        print_table(reference)
    else:
        print(f"PyTorch side: {NOT_CHECKED}")
    rows = verify(checkpoint, bundle, args.torch_device)
    print(f"{bundle.folder}: {bundle.label}; against {checkpoint.folder} and its PyTorch modules")
    print_table(rows)
    failed = [row for row in reference + rows if not row.ok]
    if args.json:
        report = {
            "bundle": bundle.manifest["name"],
            "precision": bundle.manifest["precision"],
            "target": bundle.manifest["target"],
            "providers": bundle.providers,
            "notice": bundle.notice,
            "pytorch_side": "checked against golden modules" if reference else NOT_CHECKED,
            "golden": [row.as_json() for row in reference],
            "graphs": [row.as_json() for row in rows],
            "ok": not failed,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if failed:
        print("FAILED: " + ", ".join(f"{row.name} ({'; '.join(row.failures)})" for row in failed))
    return 1 if failed else 0


def verify(checkpoint: Checkpoint, bundle: Bundle, torch_device: str = "cpu") -> list[Row]:
    """The row of the files, then one row per sub-module that the checkpoint has."""
    io = {"float32": "fp32", "float16": "fp16"}[bundle.manifest["io_dtype"]]

    def graph(make: Callable[[Checkpoint], Iterable[Case]], precision: str | None = None) -> Row:
        name = make.__name__
        precision = precision or bundle.precision(f"{name}.onnx")
        row = Row(name, precision, THRESHOLDS[precision])

        def check(row: Row) -> None:
            session = bundle.session(f"{name}.onnx")
            row.ran_on = session.get_providers()
            compare(row, session, make(checkpoint))

        return row.run(check)

    def exact(name: str, precision: str, measure: str, check: Callable[[Checkpoint, Bundle, Row], None]) -> Row:
        return Row(name, precision, 1.0, measure).run(lambda row: check(checkpoint, bundle, row))

    rows = [
        exact("files", "-", "sha256", _files),
        _decoder(checkpoint, bundle, "llm", torch_device),
        exact("llm_embed", "-", "equal values", lambda *args: _table("llm", checkpoint.llm, *args)),
        # Moves a cache and has no weights: its precision is that of the cache.
        graph(cases.kv_compact, io),
    ]
    if checkpoint.has_apm:
        rows.append(graph(cases.apm))
    if checkpoint.has_vision:
        rows.append(graph(cases.vision))
    if checkpoint.has_tts:
        rows += [
            graph(cases.tts_condition),
            _decoder(checkpoint, bundle, "tts", torch_device),
            exact("tts_embed", "-", "equal values", lambda *args: _table("tts", checkpoint.tts, *args)),
            *(graph(make) for make in (cases.flow_speaker, cases.flow_encoder, cases.flow_cfm)),
            # Moves caches and has no weights, as kv_compact.
            graph(cases.flow_store, io),
            graph(cases.hift),
            exact("cfm_noise", "fp32", "size", _noise),
            exact("speech_tokenizer", "fp32", "equal codes", _speech_tokenizer),
            exact("campplus", "-", "equal bytes", _campplus),
        ]
    return rows


def compare(row: Row, session: onnxruntime.InferenceSession, made: Iterable[Case]) -> None:
    """Runs the cases through a graph and takes every expected output into `row`."""
    kinds = {value.name: value.type for value in session.get_inputs()}
    for case in made:
        feeds = {n: v.astype(np.float16) if "float16" in kinds[n] else v for n, v in case.feeds.items()}
        for output, value in zip(case.expected, session.run(list(case.expected), feeds), strict=True):
            row.add(output, case.expected[output], value)
            if output in case.exact:
                row.require_equal(output, case.expected[output].astype(value.dtype), value)


def _files(_: Checkpoint, bundle: Bundle, row: Row) -> None:
    faults = bundle.faults()
    row.agreement = 1 - len(faults) / max(1, len(faults), len(bundle.manifest["files"]))
    row.note = f"{len(bundle.manifest['files'])} files, sizes and checksums of the manifest"
    if faults:
        raise ExportError("; ".join(f"{bundle.folder / name} {fault}" for name, fault in faults.items()))


def _decoder(checkpoint: Checkpoint, bundle: Bundle, name: str, torch_device: str) -> Row:
    """A prompt, two single tokens and a chunk, through one cache that past and present share."""
    precision = bundle.precision(f"{name}.onnx")
    row, judged = Row(name, precision, THRESHOLDS[precision]), {"hidden", "logits"}
    if precision == "int4" and name == "tts":
        row.threshold, row.note = TTS_INT4_LOGITS, "wider limits: four bits in a narrow model"
    if precision == "int4" and name == "llm":
        judged, row.note = {"hidden"}, "hidden states only: text and speech follow from them; logits are not judged"

    def check(row: Row) -> None:
        dims = checkpoint.llm if name == "llm" else checkpoint.tts
        torch_side = TorchDecoder(
            dims, llm_source(checkpoint) if name == "llm" else tts_source(checkpoint), torch_device
        )
        session = bundle.session(f"{name}.onnx")
        row.ran_on = session.get_providers()
        generator, graph = cases.generator(), StepGraph(session, dims, _KV_CAPACITY)
        for count in (17, 1, 1, 12):
            tokens = torch.randint(0, dims.vocab, (count,), generator=generator).tolist()
            embeds = torch.cat([checkpoint.weights.rows(TABLES[name], token, token + 1) for token in tokens])
            logits, hidden = torch_side.step(embeds)
            actual = graph.step(embeds.numpy()[None])
            for output, expected in (("logits", logits), ("hidden", hidden)):
                if output in actual and output in judged:
                    row.add(output, expected.numpy(), actual[output][0])

    return row.run(check)


def _table(name: str, dims: DecoderDims, checkpoint: Checkpoint, bundle: Bundle, row: Row) -> None:
    """Every value of an embedding table against the checkpoint's, rounded to the type of the table."""
    path, dtype = bundle.folder / f"{name}_embed.bin", bundle.table_type(name)
    row.precision = {"float32": "fp32", "float16": "fp16"}[dtype.name]
    wanted = dims.vocab * dims.hidden * dtype.itemsize
    if path.stat().st_size != wanted:
        raise ExportError(f"{path}: has {path.stat().st_size} bytes, the checkpoint's table needs {wanted}.")
    for start in range(0, dims.vocab, _TABLE_BLOCK):
        stop = min(dims.vocab, start + _TABLE_BLOCK)
        expected = checkpoint.weights.rows(TABLES[name], start, stop).numpy()
        actual = bundle.table_rows(name, dims.hidden, start, stop)
        row.add_equal("rows", expected.astype(dtype), actual)
        row.add_error(expected, actual.astype(np.float32))
    row.note = f"{dims.vocab} rows, the checkpoint's values" + (
        " rounded to float16" if row.precision == "fp16" else ""
    )


def _noise(checkpoint: Checkpoint, bundle: Bundle, row: Row) -> None:
    """The start noise: size of the manifest, and values that are normally distributed."""
    path, section = bundle.folder / "cfm_noise.bin", bundle.manifest["flow"]
    shape = (checkpoint.flow.mel, section["noise_frames"])
    noise = np.fromfile(path, np.float32)
    row.note = "size, mean and deviation; the values are the exporter's own, no reference has them"
    if path.stat().st_size != 4 * shape[0] * shape[1]:
        raise ExportError(f"{path}: has {path.stat().st_size} bytes, {shape} float32 values need {4 * np.prod(shape)}.")
    mean, deviation = float(noise.mean()), float(noise.std())
    if not (abs(mean) <= _NOISE_TOLERANCE and abs(deviation - 1) <= _NOISE_TOLERANCE):
        raise ExportError(f"{path}: mean {mean:.3g} and deviation {deviation:.3g} instead of 0 and 1.")
    row.agreement = 1.0


def _speech_tokenizer(checkpoint: Checkpoint, bundle: Bundle, row: Row) -> None:
    """Codes against the reference's rule, round(tanh + 1) in base 3, on the tanh values of the checkpoint's own
    graph."""
    row.note = "the checkpoint's graph with the reference's rounding"
    source = onnx.load(checkpoint.token2wav / TOKENIZER_FILE)
    squashed = next((n.output[0] for n in reversed(source.graph.node) if n.op_type == "Tanh"), None)
    if squashed is None:
        raise ExportError(f"{checkpoint.token2wav / TOKENIZER_FILE}: no Tanh; this is not the speech tokenizer v2.")
    source.graph.output.append(helper.make_tensor_value_info(squashed, TensorProto.FLOAT, None))
    original = open_session(source.SerializeToString(), ["CPUExecutionProvider"])
    graph = bundle.session("speech_tokenizer.onnx")
    row.ran_on = graph.get_providers()
    names = [value.name for value in graph.get_inputs()]
    generator = cases.generator()
    for frames in (64, 151):
        mel = torch.rand(1, 128, frames, generator=generator).numpy() * 2 - 1
        feeds = dict(zip(names, (mel, np.array([frames], np.int32)), strict=True))
        values = original.run([squashed], feeds)[0].reshape(-1, 8)
        codes = (np.round(values + np.float32(1)).astype(np.int64) * 3 ** np.arange(8)).sum(1)
        row.add_equal("codes", codes, graph.run(None, feeds)[0].ravel())


def _campplus(checkpoint: Checkpoint, bundle: Bundle, row: Row) -> None:
    """The file is copied: nothing to compare with PyTorch, only that the copy is the checkpoint's file."""
    row.note = "copied file: sha256 of the bundle's and of the checkpoint's, not run"
    paths = (checkpoint.token2wav / SPEAKER_FILE, bundle.folder / "campplus.onnx")
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    row.agreement = float(digests[0] == digests[1])
