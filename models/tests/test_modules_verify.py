"""`verify`: passes on a fresh bundle, and names the sub-module that is wrong.

- all twelve rows are there and pass; the JSON says the same as the table
- a graph with one changed weight fails by name with exit code 1
- a folder without manifest, and a graph that is missing, are errors that say what to do
"""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from duologue_export.cli import main
from duologue_export.export import Options, export_bundle

NAMES = {
    "llm",
    "kv_compact",
    "apm",
    "vision",
    "tts_condition",
    "tts",
    "flow_speaker",
    "flow_encoder",
    "flow_cfm",
    "hift",
    "speech_tokenizer",
    "campplus",
}


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("verify") / "bundle"
    export_bundle(checkpoint, out, Options("fp32", "cpu", 256), "golden-tiny", [])
    return out


def run(golden, bundle, *more: str) -> int:
    return main(["verify", "--checkpoint", str(golden / "checkpoint"), "--bundle", str(bundle), *more])


def test_fresh_bundle_passes(golden, bundle, tmp_path):
    report = tmp_path / "report.json"
    assert run(golden, bundle, "--modules", str(golden / "modules"), "--json", str(report)) == 0
    data = json.loads(report.read_text())
    assert {row["name"] for row in data["graphs"]} == NAMES
    assert all(row["ok"] for row in data["graphs"] + data["golden"])


def test_changed_weight_fails_by_name(golden, bundle, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    model = onnx.load(broken / "hift.onnx")
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    onnx.save(model, broken / "hift.onnx")
    assert run(golden, broken) == 1
    assert "FAILED: hift" in capsys.readouterr().out.splitlines()[-1]


def test_missing_graph_and_missing_manifest_are_explained(golden, bundle, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "apm.onnx").unlink()
    assert run(golden, broken) == 1
    assert "apm.onnx: missing" in capsys.readouterr().err
    (broken / "manifest.json").unlink()
    assert run(golden, broken) == 1
    assert "manifest.json: missing" in capsys.readouterr().err
