"""The whole export of the golden checkpoint.

1. The manifest lists every file with its size and checksum, every graph with its inputs and outputs, and null for what
is off. 2. Token ids equal those of the golden sessions.
3. An interrupted run goes on where it stopped; a run with other options or changed sources does not reuse anything.
4. A full disk, a foreign output folder, impossible combinations and unusable voices give one clear line.
5. `init_vision`, `init_audio` and `init_tts` leave their graphs out.
6. A finished export replaces an older bundle and leaves nothing else behind; a crash at any point loses no bundle, and
folders of others are refused.
"""

import argparse
import errno
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duologue_export import cli, export, publish
from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import TtsDims
from duologue_export.errors import ExportError
from duologue_export.manifest import sha256

CPU = export.Options("fp32", "cpu", 8192)
SPEECH = {"tts.onnx", "tts_condition.onnx", "hift.onnx"} | {
    f"flow_{part}.onnx" for part in ("encoder", "cfm", "store", "speaker")
}


def manifest_of(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_text())


@pytest.fixture(scope="module")
def bundle(checkpoint, golden, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "golden"
    voice = sorted((golden / "inputs").glob("ref_*.wav"))[0]
    export.export_bundle(checkpoint, out, CPU, "golden", [("default", voice)])
    return out


def test_every_file_is_listed_with_its_checksum(bundle):
    files = manifest_of(bundle)["files"]
    present = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(files) == present
    for name, entry in files.items():
        data = (bundle / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_manifest_sections(bundle, checkpoint):
    manifest = manifest_of(bundle)
    assert (manifest["format"], manifest["format_version"]) == ("duologue-bundle", 3)
    assert manifest["io_dtype"] == "float32" and manifest["kept_precision"] == {}
    for section in ("llm", "apm", "vision", "tts", "token2wav", "flow", "hift"):
        assert manifest[section], section
    assert manifest["llm"]["head_dim"] == 48 and manifest["llm"]["kv_capacity"] == 8192
    assert (manifest["tts"]["codes_per_unit"], manifest["tts"]["first_unit_codes"]) == (25, 25)
    assert manifest["flow"]["noise_frames"] == 1000
    noise = np.fromfile(bundle / "cfm_noise.bin", np.float32)
    assert noise.size == 80 * 1000 and abs(noise.std() - 1) < 0.01
    assert manifest["voices"] == [{"name": "default", "file": "voices/default.wav"}]
    graph = manifest["graphs"]["llm.onnx"]
    assert graph["inputs"]["seqlens_k"] == "int32" and graph["outputs"]["hidden"] == "float32"
    assert f"past_value.{checkpoint.llm.layers - 1}" in graph["inputs"]
    assert set(manifest["graphs"]) == {name for name in manifest["files"] if name.endswith(".onnx")}


def test_a_checkpoint_says_how_far_its_replies_begin_ahead():
    assert TtsDims.read({"tts_config": {"first_unit_codes": 35}}).first_unit_codes == 35
    assert TtsDims.read({"tts_config": {}}).first_unit_codes == 25


def test_token_ids_equal_the_golden_sessions(bundle, golden):
    tokenizer = manifest_of(bundle)["tokenizer"]
    session = json.loads((golden / "session_A/session.json").read_text())
    prefix, suffix = session["prompt"]["prefix_ids"], session["prompt"]["suffix_ids"]
    assert prefix[-1] == tokenizer["tokens"]["audio_start"]
    assert suffix == [tokenizer["tokens"]["audio_end"], tokenizer["tokens"]["eos"]]
    forced = session["units"][0]
    assert forced["ended_by"] == "forced_listen" and forced["terminator"] == tokenizer["tokens"]["listen"]
    assert tokenizer["forbidden_ids"][0] == tokenizer["tokens"]["tts_pad"]
    assert tokenizer["forbidden_ids"][-1] == tokenizer["tokens"]["chunk_eos"]
    assert set(tokenizer["tokens"].values()) <= set(tokenizer["special_ids"])


def _fail_in(monkeypatch, name: str, error: Exception) -> None:
    steps = export._steps

    def failing(checkpoint, options):
        def fail(folder):
            raise error

        return [export.Step(step.name, fail) if step.name == name else step for step in steps(checkpoint, options)]

    monkeypatch.setattr(export, "_steps", failing)


def _count_runs(monkeypatch) -> list[str]:
    ran, steps = [], export._steps

    def counting(checkpoint, options):
        def counted(step):
            return export.Step(step.name, lambda folder: ran.append(step.name) or step.run(folder))

        return [counted(step) for step in steps(checkpoint, options)]

    monkeypatch.setattr(export, "_steps", counting)
    return ran


def test_full_disk_is_told_and_the_next_run_goes_on(checkpoint, tmp_path, bundle, monkeypatch):
    out = tmp_path / "bundle"
    with monkeypatch.context() as patch:
        _fail_in(patch, "hift", OSError(errno.ENOSPC, "No space left on device", "hift.onnx"))
        with pytest.raises(
            ExportError, match=r"no space left on the device while writing hift\.onnx.*run the same command"
        ):
            export.export_bundle(checkpoint, out, CPU, "golden", [])
    assert not out.exists()
    ran = _count_runs(monkeypatch)
    export.export_bundle(checkpoint, out, CPU, "golden", [])
    assert ran == ["hift", "frontends"]
    assert {name: entry["sha256"] for name, entry in manifest_of(out)["files"].items() if "voices" not in name} == {
        name: entry["sha256"] for name, entry in manifest_of(bundle)["files"].items() if "voices" not in name
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_stamps_of_other_options_or_sources_are_not_reused(copy, tmp_path, monkeypatch):
    out = tmp_path / "bundle"
    with monkeypatch.context() as patch:
        _fail_in(patch, "frontends", RuntimeError("stopped"))
        with pytest.raises(RuntimeError, match="stopped"):
            export.export_bundle(copy.open(), out, CPU, "golden", [])
    copy.edit_config(init_vision=False)
    ran = _count_runs(monkeypatch)
    export.export_bundle(copy.open(), out, export.Options("int8", "cpu", 8192), "golden", [])
    assert "llm" in ran and "hift" in ran
    # The file of the first run that this bundle does not have is gone.
    assert not (out / "vision.onnx").exists() and manifest_of(out)["vision"] is None
    assert manifest_of(out)["kept_precision"]["hift.onnx"] == "fp32"


def test_switched_off_modules(copy, tmp_path):
    copy.edit_config(init_vision=False, init_audio=False, init_tts=False)
    out = tmp_path / "text"
    export.export_bundle(copy.open(), out, CPU, "text", [])
    manifest = manifest_of(out)
    assert set(manifest["graphs"]) == {"llm.onnx", "kv_compact.onnx"}
    sections = ("apm", "vision", "tts", "token2wav", "flow", "hift", "voice")
    assert [manifest[name] for name in sections] == [None] * len(sections)
    with pytest.raises(ExportError, match="--voice: this checkpoint neither hears nor speaks"):
        export.export_bundle(copy.open(), out, CPU, "text", [("default", tmp_path / "voice.wav")])


def test_float16_bundle_for_cuda(checkpoint, tmp_path):
    # The export itself refuses a graph with an operator that has no CUDA kernel for its type.
    out = tmp_path / "cuda"
    export.export_bundle(checkpoint, out, export.Options("fp16", "cuda", 8192), "golden", [])
    manifest = manifest_of(out)
    assert manifest["io_dtype"] == "float16" and manifest["graphs"]["llm.onnx"]["inputs"]["past_key.0"] == "float16"
    assert manifest["graphs"]["llm.onnx"]["outputs"]["logits"] == "float32"
    assert "llm.onnx" not in manifest["kept_precision"] and manifest["kept_precision"]["campplus.onnx"] == "fp32"


def test_step_without_cuda_kernels_leaves_no_stamp(copy, tmp_path, monkeypatch):
    copy.edit_config(init_vision=False, init_audio=False, init_tts=False)
    out, options = tmp_path / "cuda", export.Options("fp16", "cuda", 8192)
    with monkeypatch.context() as patch:
        patch.setattr(export.ops, "find_kernel", lambda domain, op, opset: None)
        with pytest.raises(ExportError, match="operators without a CUDA kernel"):
            export.export_bundle(copy.open(), out, options, "golden", [])
    assert [path.name for path in (tmp_path / "cuda.partial/.stamps").iterdir()] == ["tokenizer.json"]
    assert not (tmp_path / "cuda.partial/manifest.json").exists()


def test_older_bundle_is_replaced(copy, tmp_path):
    copy.edit_config(init_vision=False, init_audio=False)
    out = tmp_path / "bundle"
    export.export_bundle(copy.open(), out, CPU, "first", [])
    assert set(manifest_of(out)["graphs"]) > SPEECH
    copy.edit_config(init_tts=False)
    export.export_bundle(copy.open(), out, CPU, "second", [])
    assert manifest_of(out)["name"] == "second" and not (out / "tts.onnx").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint"]


def test_folder_with_a_foreign_manifest_is_not_touched(checkpoint, tmp_path):
    out = tmp_path / "extension"
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "a browser extension", "manifest_version": 3}')
    with pytest.raises(ExportError, match="extension: exists and is not a bundle"):
        export.export_bundle(checkpoint, out, CPU, "golden", [])
    (out / "manifest.json").write_text('{"format": "duologue-bundle", "files": {}}')
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"extension: exists and holds notes\.txt, which is not part of the bundle"):
        export.export_bundle(checkpoint, out, CPU, "golden", [])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["extension", "manifest.json", "notes.txt"]


def test_folder_that_another_program_left_under_the_working_name(checkpoint, tmp_path):
    (tmp_path / "bundle.partial").mkdir()
    (tmp_path / "bundle.partial/download").write_text("half")
    with pytest.raises(ExportError, match=r"bundle\.partial: exists and was not left by an export"):
        export.export_bundle(checkpoint, tmp_path / "bundle", CPU, "golden", [])


def test_out_may_not_be_the_current_folder_or_the_checkpoint(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="this is the current folder"):
        export.export_bundle(copy.open(), Path("."), CPU, "golden", [])
    with pytest.raises(ExportError, match="lies inside the checkpoint"):
        export.export_bundle(copy.open(), copy.folder / "bundle", CPU, "golden", [])


@pytest.mark.parametrize("crash_in", ["rename", "rmtree"])
def test_crash_while_replacing_loses_no_bundle(copy, tmp_path, monkeypatch, crash_in):
    copy.edit_config(init_vision=False, init_audio=False, init_tts=False)
    out = tmp_path / "bundle"
    export.export_bundle(copy.open(), out, CPU, "first", [])
    rename = Path.rename

    def stop_at_partial(self, target):
        if self.name == "bundle.partial":
            raise KeyboardInterrupt
        return rename(self, target)

    def stop(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if crash_in == "rename":
            patch.setattr(Path, "rename", stop_at_partial)
        else:
            patch.setattr(publish.shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            export.export_bundle(copy.open(), out, CPU, "second", [])
    survivor = tmp_path / "bundle.replaced" if crash_in == "rename" else out
    assert manifest_of(survivor)["name"] == ("first" if crash_in == "rename" else "second")
    assert publish.prepare(out, copy.folder) == out and out.is_dir()
    ran = _count_runs(monkeypatch)
    export.export_bundle(copy.open(), out, CPU, "third", [])
    assert manifest_of(out)["name"] == "third" and ran == ([] if crash_in == "rename" else ["tokenizer", "llm"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint"]


def test_damaged_file_of_an_interrupted_run_is_written_again(copy, tmp_path, monkeypatch):
    copy.edit_config(init_vision=False, init_audio=False, init_tts=False)
    out = tmp_path / "bundle"
    with monkeypatch.context() as patch:
        patch.setattr(export, "describe_files", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.export_bundle(copy.open(), out, CPU, "golden", [])
    damaged = tmp_path / "bundle.partial/llm_embed.bin"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    ran = _count_runs(monkeypatch)
    export.export_bundle(copy.open(), out, CPU, "golden", [])
    assert ran == ["llm"]


def test_foreign_folder_is_not_touched(checkpoint, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="exists and is not a bundle"):
        export.export_bundle(checkpoint, tmp_path, CPU, "golden", [])
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (export.Options("fp32", "cuda", 8192), "no float32 CUDA kernel of GroupQueryAttention"),
        (export.Options("fp16", "cpu", 8192), "fp16 is for --target cuda"),
        (export.Options("fp32", "cpu", 100_000), "exceeds the model's 40960 positions"),
        (export.Options("fp32", "cpu", 63), "--kv-capacity 63 is too small; 64 is the least"),
    ],
)
def test_impossible_options(checkpoint, tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export.export_bundle(checkpoint, tmp_path / "bundle", options, "golden", [])


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(32000), 24000, r"24000 Hz and 1 channels; convert it"),
        (np.zeros((32000, 2)), 16000, r"16000 Hz and 2 channels; convert it"),
        (np.zeros(1600), 16000, r"is 0\.1 s long"),
        # (1000 frames - 100 of the tail - 2 * (25 + 3)) / 2 / 25: what the server accepts.
        (np.zeros(17 * 16000), 16000, r"is 17\.0 s long; this model takes 1\.0 to 16\.9 s"),
        (np.full(32000, np.nan), 16000, "holds NaN"),
    ],
)
def test_unusable_voice(checkpoint, tmp_path, samples, rate, message):
    path = tmp_path / "voice.wav"
    soundfile.write(path, samples.astype(np.float32), rate, subtype="FLOAT")
    with pytest.raises(ExportError, match=message):
        export.export_bundle(checkpoint, tmp_path / "bundle", CPU, "golden", [("default", path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["voice.wav"]


def test_voice_that_is_text(checkpoint, tmp_path):
    path = tmp_path / "voice.wav"
    path.write_text("hello")
    with pytest.raises(ExportError, match="cannot be read as audio"):
        export.export_bundle(checkpoint, tmp_path / "bundle", CPU, "golden", [("default", path)])
    with pytest.raises(ExportError, match="expected NAME=WAV"):
        export._parse_voice("voice.wav")


def test_command_line_reports_one_line(tmp_path, capsys):
    code = cli.main(["export", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "out")])
    assert code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "config.json: missing" in error and error.count("\n") == 1


def test_command_line_names_the_file_of_a_system_error(copy, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr(publish, "prepare", full)
    code = cli.main(["export", "--checkpoint", str(copy.folder), "--out", str(tmp_path / "out")])
    assert code == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'out'}: Permission denied.\n"


def test_random_weights_are_said(golden, tmp_path, copy):
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    copy.edit_config(init_vision=False, init_audio=False, init_tts=False)
    args = parser.parse_args(["--checkpoint", str(copy.folder), "--out", str(tmp_path / "out"), "--random-weights"])
    assert export.run(args) == 0
    assert manifest_of(tmp_path / "out")["weights"] == "random"
    (copy.folder / "tiny_info.json").write_text("{}")
    assert Checkpoint(copy.folder).is_random and not Checkpoint(golden / "checkpoint").is_random
    assert sha256(tmp_path / "out/tokenizer.json") == sha256(golden / "checkpoint/tokenizer.json")
