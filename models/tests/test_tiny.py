"""Random checkpoints and `validate`.

Properties: the presets have the key names, ranks and file names of the golden checkpoint, and the sizes that were
asked for; the same seed gives the same bytes and another seed other ones; sharding changes no tensor; the tokenizer
gives every text back and knows every special token of the golden one; bad sizes, folders and shard counts are refused
with the rule they break; a fresh checkpoint passes validation in PyTorch, and a broken one fails at the sub-module
that is broken; a sharded one of odd sizes goes through export and verify."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer

from duologue_export import inventory
from duologue_export.checkpoint import Checkpoint
from duologue_export.cli import main
from duologue_export.tiny import calibrate, dims

# The calibration is what takes time; structure does not depend on it.
FAST = {"calibrate": False}


def make(folder: Path, preset: str = "default", seed: int = 3, shards: int = 1, **sizes) -> Path:
    """A checkpoint at folder / checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "dims.json"
    spec.write_text(json.dumps({"preset": preset, **FAST, **sizes}))
    out = folder / "checkpoint"
    arguments = ["tiny", "--out", str(out), "--dims", str(spec), "--seed", str(seed), "--shards", str(shards)]
    assert main(arguments) == 0
    return out


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of the safetensors files."""
    found = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.fixture(scope="module")
def default(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("odd"), "odd", shards=3)


def test_default_has_the_structure_of_the_golden_checkpoint(default, golden):
    expected, actual = tensors(golden / "checkpoint"), tensors(default)
    # Nothing reads this table, and the golden checkpoint does without it; the official one has it.
    unread = {"tts.model.embed_tokens.weight"}
    assert set(actual) - unread == set(expected) - unread
    for name, value in expected.items():
        tables = ("embed_tokens", "lm_head", "emb_text")
        if not any(table in name for table in tables):
            assert actual[name].shape == value.shape, name
        assert actual[name].dtype == value.dtype
    for file in ("flow.pt", "hift.pt"):
        old, new = (torch.load(p / "assets/token2wav" / file) for p in (golden / "checkpoint", default))
        assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in old.items()}


def test_the_exporter_finds_every_tensor_and_no_other(default, odd, capsys):
    for folder in (default, odd):
        inventory.require_complete(Checkpoint(folder))
    assert capsys.readouterr().err == ""


def test_default_has_the_files_and_settings_of_the_golden_checkpoint(default, golden):
    def files(folder: Path) -> set[str]:
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}

    assert files(default) == files(golden / "checkpoint") | {"tiny_info.json"}
    for name in ("config.json", "preprocessor_config.json", "generation_config.json"):
        old, new = (json.loads((p / name).read_text()) for p in (golden / "checkpoint", default))
        assert set(new) == set(old), name
    old, new = (json.loads((p / "config.json").read_text()) for p in (golden / "checkpoint", default))
    assert set(new["tts_config"]) == set(old["tts_config"])


def test_odd_has_the_sizes_asked_for(odd):
    checkpoint, wanted = Checkpoint(odd), dims.PRESETS["odd"]
    assert (checkpoint.llm.layers, checkpoint.llm.heads, checkpoint.llm.kv_heads) == (4, 6, 3)
    assert checkpoint.llm.rope_theta == wanted.llm.rope_theta
    assert (checkpoint.apm.hidden, checkpoint.apm.layers) == (wanted.apm.hidden, wanted.apm.layers)
    assert (checkpoint.vision.layers, checkpoint.vision.queries) == (wanted.vision.layers, wanted.vision.queries)
    assert (checkpoint.tts.hidden, checkpoint.tts.layers) == (wanted.tts.hidden, wanted.tts.layers)
    assert (checkpoint.flow.dit_width, checkpoint.flow.dit_heads, checkpoint.flow.dit_head_dim) == (80, 3, 32)
    assert checkpoint.hift.base_channels == wanted.hift.base
    head = checkpoint.tensor("llm.lm_head.weight")
    assert head.shape == (checkpoint.llm.vocab, wanted.llm.hidden)


def test_release_has_the_layers_of_the_release_and_fewer_can_be_asked_for(tmp_path):
    release = dims.PRESETS["release"]
    assert (release.llm.layers, release.apm.layers, release.vision.layers, release.tts.layers) == (36, 24, 26, 20)
    assert (release.flow.blocks, release.flow.up_blocks, release.flow.dit_depth) == (6, 4, 16)
    assert dims.with_layers(release, 36) == release, "no kind gets more layers than it has"
    spec = tmp_path / "dims.json"
    spec.write_text(json.dumps({"preset": "odd", **FAST}))
    out = tmp_path / "few"
    assert main(["tiny", "--out", str(out), "--dims", str(spec), "--layers", "1"]) == 0
    few = Checkpoint(out)
    assert (few.llm.layers, few.apm.layers, few.vision.layers, few.tts.layers) == (1, 1, 1, 1)
    assert few.llm.hidden == dims.PRESETS["odd"].llm.hidden


def test_sharding_changes_no_tensor(odd, tmp_path):
    one = tensors(make(tmp_path, "odd"))
    many = tensors(odd)
    assert set(one) == set(many)
    assert all(torch.equal(one[name], many[name]) for name in one)
    index = json.loads((odd / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(many)
    assert set(index["weight_map"].values()) == {p.name for p in odd.glob("*.safetensors")}
    with safe_open(odd / "model-00001-of-00003.safetensors", "pt") as shard:
        assert 0 < len(shard.keys()) < len(many)


def test_seed_decides_every_byte(default, tmp_path):
    again, other = make(tmp_path / "a"), make(tmp_path / "b", seed=4)
    for file in ("model.safetensors", "assets/token2wav/campplus.onnx", "tokenizer.json", "config.json"):
        assert (again / file).read_bytes() == (default / file).read_bytes(), file
    first, second = tensors(default), tensors(other)
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_calibration_is_deterministic_and_touches_lm_head_only(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "ROUNDS", 2)
    monkeypatch.setattr(calibrate, "SESSIONS_PER_ROUND", 1)
    small = {"llm": {"hidden": 128, "layers": 1}, "merges": 100}
    plain = tensors(make(tmp_path / "plain", **small))
    fitted = [tensors(make(tmp_path / str(i), calibrate=True, **small)) for i in range(2)]
    assert all(torch.equal(fitted[0][name], fitted[1][name]) for name in plain)
    changed = [name for name in plain if not torch.equal(plain[name], fitted[0][name])]
    assert changed == ["llm.lm_head.weight"]


def test_tokenizer_gives_texts_back(default):
    tokenizer = Tokenizer.from_file(str(default / "tokenizer.json"))
    for text in (
        "Hello, how are you? It's 3 o'clock.\n\n  ok",
        "你好、谢谢。",
        "émigré 🎧 \t x",
        "<|im_start|>system\nA b<unit>",
    ):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert len(tokenizer.encode("你好").ids) == 2
    assert len(tokenizer.encode(" weather").ids) == 1


def test_tokenizer_files_agree_and_know_every_special_token(default, golden):
    tokenizer = Tokenizer.from_file(str(default / "tokenizer.json"))
    added, old = (json.loads((p / "added_tokens.json").read_text()) for p in (default, golden / "checkpoint"))
    assert set(added) == set(old)
    shift = added["<|endoftext|>"] - old["<|endoftext|>"]
    assert all(added[token] == old[token] + shift == tokenizer.token_to_id(token) for token in added)
    vocab = json.loads((default / "vocab.json").read_text())
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert tokenizer.get_vocab() == vocab | added
    settings = json.loads((default / "tokenizer_config.json").read_text())
    assert set(settings["additional_special_tokens"]) == set(
        json.loads((golden / "checkpoint" / "tokenizer_config.json").read_text())["additional_special_tokens"]
    )
    assert all(0 <= i < len(vocab) for i in settings["bad_token_ids"])
    config = json.loads((default / "config.json").read_text())
    assert config["vocab_size"] >= len(vocab) + len(added)


def test_speech_tokenizer_keeps_the_names_that_the_reference_reads(odd):
    session = onnxruntime.InferenceSession(str(odd / "assets/token2wav/speech_tokenizer_v2_25hz.onnx"))
    assert [value.name for value in session.get_inputs()] == ["feats", "feats_length"]
    feats = torch.rand(1, 128, 401).numpy()
    codes = session.run(None, {"feats": feats, "feats_length": torch.tensor([401], dtype=torch.int32).numpy()})[0]
    assert codes.shape == (1, 101)
    assert codes.min() >= 0 and codes.max() < 6561


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"llm": {"hidden": 200}}, "llm.hidden must be a multiple of 128"),
        ({"llm": {"heads": 7}}, "llm.heads must be a multiple of llm.kv_heads"),
        ({"tts": {"heads": 3}}, "tts.hidden / tts.heads"),
        ({"apm": {"layers": 0}}, "every size must be positive"),
        ({"llm": {"width": 3}}, "'width' is unknown"),
        ({"merges": "many"}, "expected int"),
        ({"llm": {"vocab": 300}}, "but the tokenizer has"),
    ],
)
def test_bad_sizes_are_refused(tmp_path, capsys, sizes, message):
    spec = tmp_path / "dims.json"
    spec.write_text(json.dumps(FAST | sizes))
    assert main(["tiny", "--out", str(tmp_path / "out"), "--dims", str(spec)]) == 1
    assert message in capsys.readouterr().err


def test_bad_arguments_are_refused(default, tmp_path, capsys):
    assert main(["tiny", "--out", str(default)]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "a"), "--dims", "huge"]) == 1
    assert "neither a preset" in capsys.readouterr().err
    spec = tmp_path / "dims.json"
    spec.write_text(json.dumps(FAST))
    assert main(["tiny", "--out", str(tmp_path / "b"), "--dims", str(spec), "--shards", "1000"]) == 1
    assert "--shards 1000" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["default", "odd"])
def test_fresh_checkpoint_is_valid(preset, request, capsys):
    assert main(["validate", "--checkpoint", str(request.getfixturevalue(preset))]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 12
    assert all(line.split()[1] == "ok" for line in lines)


def test_fresh_sharded_checkpoint_gives_a_bundle_that_verifies(odd, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    export = ["export", "--checkpoint", str(odd), "--out", str(bundle), "--kv-capacity", "256"]
    assert main([*export, "--precision", "fp32", "--target", "cpu"]) == 0
    assert json.loads((bundle / "manifest.json").read_text())["weights"] == "random"
    assert main(["verify", "--checkpoint", str(odd), "--bundle", str(bundle)]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_broken_weights_fail_by_name(copy, capsys):
    def spoil(values: dict[str, torch.Tensor]) -> None:
        values["apm.layers.1.fc1.weight"][0, 0] = float("nan")

    copy.edit_weights(spoil)
    assert main(["validate", "--checkpoint", str(copy.folder)]) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "ok" in lines["vision"]
    assert "FAILED" in lines["apm"] and "NaN" in lines["apm"]
    assert "not run" in lines["hift"]


def test_absent_sub_modules_are_named(copy, capsys):
    copy.edit_config(init_vision=False, init_tts=False)
    assert main(["validate", "--checkpoint", str(copy.folder)]) == 0
    out = capsys.readouterr().out
    assert "vision            absent" in out and "hift              absent" in out


def test_blank_weights_fail(tmp_path, capsys):
    folder = make(tmp_path)
    path = folder / "assets/token2wav/flow.pt"
    state = torch.load(path)
    state["encoder_proj.weight"].zero_()
    state["encoder_proj.bias"].zero_()
    torch.save(state, path)
    assert main(["validate", "--checkpoint", str(folder)]) == 1
    assert "the weights are blank" in capsys.readouterr().out
