"""`verify`: passes on a fresh bundle, and names what is wrong.

- fresh bundles of every CPU precision pass; all rows are there; the JSON says where the graphs ran and what
  was compared
- one changed weight, a wrong table, a scaled output and a copy that is not exact fail by name, each by its own limit
- a changed, missing or foreign file fails in the row of the files
- a graph that does not load, is missing, or gives another shape or NaN fails its row; all other rows and the JSON come
- a bundle for CUDA that runs on the CPU says so; a CUDA provider that does not start is an error
- without golden modules the report says that PyTorch was not checked
- a folder without manifest is an error that says what to do
"""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from duologue_export.bundle import Bundle, open_session
from duologue_export.cli import main
from duologue_export.errors import ExportError
from duologue_export.export import Options, export_bundle
from duologue_export.manifest import sha256
from duologue_export.modules.parity import Row, relative_limit

NAMES = [
    *("files", "llm", "llm_embed", "kv_compact", "apm", "vision", "tts_condition", "tts", "tts_embed"),
    *("flow_speaker", "flow_encoder", "flow_cfm", "flow_store", "hift", "cfm_noise", "speech_tokenizer", "campplus"),
]


def run(golden, bundle, *more: str) -> int:
    return main(["verify", "--checkpoint", str(golden / "checkpoint"), "--bundle", str(bundle), *more])


def report_of(golden, bundle, tmp_path, code: int) -> dict[str, dict]:
    """Rows by name after a run with this exit code."""
    path = tmp_path / "report.json"
    assert run(golden, bundle, "--json", str(path)) == code
    rows = json.loads(path.read_text())["graphs"]
    assert [row["name"] for row in rows] == NAMES, "the report is complete whatever fails"
    return {row["name"]: row for row in rows}


@pytest.fixture
def broken(bundle_of, tmp_path) -> Path:
    """A copy of the fp32 bundle that a test may break."""
    return Path(shutil.copytree(bundle_of("fp32"), tmp_path / "broken"))


def seal(bundle: Path) -> None:
    """Writes sizes and checksums anew, so that only the numbers can tell."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        file = bundle / name
        manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    path.write_text(json.dumps(manifest))


def edit(bundle: Path, graph: str, change) -> None:
    model = onnx.load(bundle / graph)
    change(model.graph)
    onnx.save(model, bundle / graph)
    seal(bundle)


def replace_output(graph: onnx.GraphProto, name: str, operator: str, *constants: np.ndarray) -> None:
    """Puts one more node before an output."""
    maker = next(node for node in graph.node if name in node.output)
    maker.output[list(maker.output).index(name)] = f"{name}.before"
    for node in graph.node:
        for place, value in enumerate(node.input):
            if value == name:
                node.input[place] = f"{name}.before"
    for number, constant in enumerate(constants):
        graph.initializer.append(numpy_helper.from_array(constant, f"{name}.constant{number}"))
    inputs = [f"{name}.before", *(f"{name}.constant{number}" for number in range(len(constants)))]
    graph.node.append(onnx.helper.make_node(operator, inputs, [name]))


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_fresh_bundle_passes(golden, bundle_of, tmp_path, precision):
    rows = report_of(golden, bundle_of(precision), tmp_path, 0)
    assert all(row["ok"] for row in rows.values())
    assert all(rows[name]["ran_on"] == ["CPUExecutionProvider"] for name in ("llm", "hift", "speech_tokenizer"))
    assert rows["kv_compact"]["threshold"] == 0.9999, "the cache is float32 in every CPU bundle"
    assert rows["llm"]["outputs"] == (["hidden"] if precision == "int4" else ["logits", "hidden"])


def test_golden_modules_are_checked_or_said_not_to_be(golden, bundle_of, tmp_path, capsys):
    path = tmp_path / "report.json"
    assert run(golden, bundle_of("fp32"), "--modules", str(golden / "modules"), "--json", str(path)) == 0
    data = json.loads(path.read_text())
    assert data["golden"] and all(row["ok"] for row in data["golden"])
    assert data["pytorch_side"] == "checked against golden modules"
    capsys.readouterr()
    assert run(golden, bundle_of("fp32"), "--json", str(path)) == 0
    assert "PyTorch side: not checked against golden modules" in capsys.readouterr().out
    assert json.loads(path.read_text())["pytorch_side"] == "not checked against golden modules"
    assert run(golden, bundle_of("fp32"), "--modules", str(tmp_path / "none")) == 1
    assert "is no folder" in capsys.readouterr().err


def test_changed_graphs_fail_by_name_each_by_its_own_limit(golden, broken, tmp_path, capsys):
    def negate(graph):
        tensor = next(t for t in graph.initializer if len(t.dims) == 4)
        tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor).astype(np.float32), tensor.name))

    edit(broken, "hift.onnx", negate)
    edit(broken, "flow_speaker.onnx", lambda graph: replace_output(graph, "spk", "Mul", np.float32(1.1)))
    edit(broken, "kv_compact.onnx", lambda graph: replace_output(graph, "value_out", "Mul", np.float32(1.000001)))
    rows = report_of(golden, broken, tmp_path, 1)
    assert [name for name, row in rows.items() if not row["ok"]] == ["kv_compact", "flow_speaker", "hift"]
    assert "must be an exact copy" in rows["kv_compact"]["error"]
    assert rows["flow_speaker"]["agreement"] > 0.9999, "correlation does not see a scale"
    (failure,) = rows["flow_speaker"]["failures"]
    assert failure.startswith("relative error 0.1, at most")
    assert rows["hift"]["failures"][0].startswith("PCC")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED: kv_compact (") and ", flow_speaker (" in last and ", hift (" in last


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_one_wrong_table_row_is_found(golden, bundle_of, tmp_path, precision):
    bundle = Path(shutil.copytree(bundle_of(precision), tmp_path / "bundle"))
    kind = json.loads((bundle / "manifest.json").read_text())["tts"]["embed_dtype"]
    table = np.fromfile(bundle / "tts_embed.bin", kind)
    table[-1] = np.nextafter(table[-1], np.array(9, kind))
    table.tofile(bundle / "tts_embed.bin")
    (bundle / "llm_embed.bin").write_bytes((bundle / "llm_embed.bin").read_bytes()[:-4])
    np.zeros(80 * 1000, np.float32).tofile(bundle / "cfm_noise.bin")
    seal(bundle)
    rows = report_of(golden, bundle, tmp_path, 1)
    assert rows["files"]["ok"]
    assert rows["tts_embed"]["agreement"] < 1 and not rows["tts_embed"]["ok"]
    assert "the checkpoint's table needs" in rows["llm_embed"]["error"]
    assert "deviation 0 instead" in rows["cfm_noise"]["error"]


def test_files_are_compared_with_the_manifest(golden, broken, tmp_path, capsys):
    with (broken / "tokenizer.json").open("r+b") as file:
        file.seek(100)
        file.write(b"#")
    (broken / "cfm_noise.bin").write_bytes(b"1234")
    (broken / "campplus.onnx").write_bytes(b"other")
    (broken / "vision.onnx").unlink()
    (broken / "notes.txt").write_text("mine")
    rows = report_of(golden, broken, tmp_path, 1)
    failed = [name for name, row in rows.items() if not row["ok"]]
    assert failed == ["files", "vision", "cfm_noise", "campplus"]
    for text in (
        "tokenizer.json has another sha256",
        "cfm_noise.bin has 4 bytes",
        "vision.onnx is missing",
        "notes.txt is not listed",
    ):
        assert text in rows["files"]["error"]
    assert "vision.onnx: missing" in rows["vision"]["error"]
    assert "FAILED: files" in capsys.readouterr().out.splitlines()[-1]


def test_broken_graphs_do_not_hide_the_others(golden, broken, tmp_path, capsys):
    (broken / "apm.onnx").write_bytes(b"this is no graph")
    edit(broken, "flow_speaker.onnx", lambda graph: replace_output(graph, "spk", "Mul", np.float32(np.nan)))
    edit(broken, "tts_condition.onnx", lambda g: replace_output(g, "condition", "Unsqueeze", np.array([0])))
    rows = report_of(golden, broken, tmp_path, 1)
    failed = {name: row["error"] for name, row in rows.items() if not row["ok"]}
    assert list(failed) == ["apm", "tts_condition", "flow_speaker"]
    assert failed["apm"] and "NaN" in failed["flow_speaker"]
    table = capsys.readouterr().out
    assert all(f"    {name}: " in table for name in failed)


def test_cuda_bundle_on_the_cpu_is_said_to_have_run_there(golden, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    export_bundle(checkpoint, tmp_path / "cuda", Options("fp16", "cuda", 256), "golden-tiny", [])
    rows = report_of(golden, tmp_path / "cuda", tmp_path, 0)
    data = json.loads((tmp_path / "report.json").read_text())
    assert "made for cuda, but run on CPUExecutionProvider" in data["notice"]
    assert data["notice"] in capsys.readouterr().out
    assert {tuple(row["ran_on"]) for row in rows.values()} == {(), ("CPUExecutionProvider",)}
    assert rows["kv_compact"]["precision"] == "fp16" and rows["kv_compact"]["threshold"] == 0.999


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_an_error(bundle_of, monkeypatch):
    bundle = Bundle(bundle_of("fp32"))
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(ExportError, match="did not start CUDAExecutionProvider"):
        open_session(str(bundle.folder / "flow_speaker.onnx"), ["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_folder_without_a_usable_manifest_is_explained(golden, broken, capsys):
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps(manifest | {"kept_precision": {"apm.onnx": "int2"}}))
    assert run(golden, broken) == 1
    assert "precision ['int2']" in capsys.readouterr().err
    (broken / "manifest.json").write_text("{}")
    assert run(golden, broken) == 1
    assert "manifest.json: has no name, precision" in capsys.readouterr().err
    (broken / "manifest.json").unlink()
    assert run(golden, broken) == 1
    assert "manifest.json: missing" in capsys.readouterr().err


def test_a_row_needs_both_limits():
    random = np.random.default_rng(0).standard_normal(1000)
    row = Row("x", "fp32", 0.9999)
    assert row.failures == ["nothing was compared"]
    row.add("out", random, random + 1)
    assert row.agreement > 0.9999 and row.failures[0].startswith("relative error")
    row = Row("x", "int8", 0.99)
    row.add("out", random, random + 0.05 * np.random.default_rng(1).standard_normal(1000))
    assert row.ok and row.relative < relative_limit(0.99)
    row.add("next", random, random[::-1])
    assert [failure.split()[0] for failure in row.failures] == ["PCC", "relative"]
