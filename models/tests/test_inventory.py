"""The lists of tensors against the checkpoint.

1. The golden checkpoint holds exactly what the lists name (nothing missing, nothing unread); generated ones: test_tiny.
2. A missing, reshaped or additional tensor of every module is refused by name before a file is written.
3. Unknown tensors that change nothing are a warning, known unused ones are not.
4. Settings that mean another network are refused by name.
5. NaN, and weights that float16 cannot hold, are refused by name.
"""

import re

import pytest
import torch

from duologue_export import dims, export, inventory
from duologue_export.errors import ExportError
from duologue_export.modules import hift, vision

CPU = export.Options("fp32", "cpu", 8192)
# One tensor of each module: (file, name); hift.pt stores convolutions with weight normalisation.
TENSORS = {
    "llm": ("model", "llm.model.layers.1.self_attn.k_norm.weight"),
    "llm head": ("model", "llm.lm_head.weight"),
    "apm": ("model", "apm.layers.2.fc1.weight"),
    "projector": ("model", "audio_projection_layer.linear2.bias"),
    "vision": ("model", "vpm.encoder.layers.2.mlp.fc2.weight"),
    "resampler": ("model", "resampler.attn.in_proj_bias"),
    "tts": ("model", "tts.model.layers.0.mlp.up_proj.weight"),
    "tts condition": ("model", "tts.projector_semantic.linear1.weight"),
    "tts text": ("model", "tts.emb_text.weight"),
    "flow speaker": ("flow", "spk_embed_affine_layer.weight"),
    "flow encoder": ("flow", "encoder.up_encoders.1.self_attn.pos_bias_u"),
    "flow cfm": ("flow", "decoder.estimator.blocks.2.adaLN_modulation.1.weight"),
    "hift": ("hift", "resblocks.8.convs1.2.bias"),
    "hift gain": ("hift", "ups.1.parametrizations.weight.original0"),
    "hift alpha": ("hift", "source_resblocks.0.activations2.1.alpha"),
}


def edit(copy, file: str, change) -> None:
    if file == "model":
        copy.edit_weights(change)
        return
    path = copy.folder / f"assets/token2wav/{file}.pt"
    state = torch.load(path)
    change(state)
    torch.save(state, path)


def refused(copy, tmp_path, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export.export_bundle(copy.open(), tmp_path / "bundle", CPU, "golden", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"], "files were written before the refusal"


def test_golden_checkpoint_is_complete(checkpoint, capsys):
    inventory.require_complete(checkpoint)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", TENSORS)
def test_missing_tensor(copy, tmp_path, module):
    file, name = TENSORS[module]
    edit(copy, file, lambda tensors: tensors.pop(name))
    refused(copy, tmp_path, rf"{file}\.(pt|safetensors): tensor '{re.escape(name)}' is missing")


@pytest.mark.parametrize("module", TENSORS)
def test_wrong_shape(copy, tmp_path, module):
    file, name = TENSORS[module]

    def widen(tensors):
        tensors[name] = torch.cat([tensors[name], tensors[name]])

    edit(copy, file, widen)
    refused(copy, tmp_path, rf"{file}\.(pt|safetensors): tensor '{re.escape(name)}' has shape \[\d+.*\], expected \[")


@pytest.mark.parametrize(
    ("file", "name", "like"),
    [
        ("model", "llm.model.layers.3.mlp.up_proj.weight", "llm.model.layers.2.mlp.up_proj.weight"),
        ("model", "llm.model.layers.0.self_attn.q_proj.bias", "llm.model.norm.weight"),
        ("model", "apm.layers.3.fc1.bias", "apm.layers.2.fc1.bias"),
        ("model", "vpm.encoder.layers.4.mlp.fc1.bias", "vpm.encoder.layers.2.mlp.fc1.bias"),
        ("model", "tts.emb_code.1.weight", "tts.emb_code.0.weight"),
        ("flow", "encoder.encoders.2.norm_ff.bias", "encoder.encoders.1.norm_ff.bias"),
        ("hift", "resblocks.9.activations1.0.alpha", "resblocks.8.activations1.0.alpha"),
    ],
)
def test_tensor_without_a_place_in_the_configuration(copy, tmp_path, file, name, like):
    edit(copy, file, lambda tensors: tensors.update({name: tensors[like].clone()}))
    refused(copy, tmp_path, rf"tensor '{re.escape(name)}' belongs to the network but the configuration has no place")


def test_unused_tensors(copy, capsys):
    def add(tensors):
        row = tensors["llm.model.norm.weight"].clone()
        tensors["tts.model.embed_tokens.weight"] = row.clone()
        tensors["vpm.encoder.layers.3.mlp.fc1.bias"] = row.clone()
        tensors["apm.embed_positions.position_ids"] = row.clone()
        tensors["optimizer.step"] = row.clone()

    copy.edit_weights(add)
    inventory.require_complete(copy.open())
    assert capsys.readouterr().err == ""
    copy.edit_weights(lambda tensors: tensors.update({"apm.probe": torch.zeros(3)}))
    inventory.require_complete(copy.open())
    assert re.match(r"warning: .*model\.safetensors: not used: apm\.probe\n$", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (None, "attention_bias", True, "config.json: attention_bias is True, supported is False"),
        (None, "use_sliding_window", True, "use_sliding_window is True"),
        (None, "hidden_act", "gelu", "hidden_act is 'gelu', supported is 'silu'"),
        (None, "num_key_value_heads", 3, "num_attention_heads over num_key_value_heads: 8 is not divisible by 3"),
        ("tts_config", "num_key_value_heads", 3, "tts_config: num_attention_heads over .*: 4 is not divisible by 3"),
        ("audio_config", "activation_function", "relu", "audio_config: activation_function is 'relu'"),
        ("vision_config", "hidden_act", "gelu", "vision_config: hidden_act is 'gelu'"),
    ],
)
def test_settings_of_another_network(copy, tmp_path, section, key, value, message):
    changes = {key: value} if section is None else {section: {**copy.open().config[section], key: value}}
    copy.edit_config(**changes)
    refused(copy, tmp_path, message)


def test_estimator_channels(copy, tmp_path):
    path = copy.folder / "assets/token2wav/flow.yaml"
    path.write_text(path.read_text().replace("in_channels: 320", "in_channels: 240"))
    refused(copy, tmp_path, r"in_channels is 240, expected 4 x output_size = 320")


def test_missing_front_end(copy, tmp_path):
    (copy.folder / "assets/token2wav/campplus.onnx").unlink()
    refused(copy, tmp_path, r"campplus\.onnx: missing")


def test_audio_block_follows_the_configuration(copy):
    copy.edit_config(audio_chunk_length=0.5)
    assert dims.ApmDims.read(copy.open().config).mask_frames == 25


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}'])
def test_malformed_index(copy, text):
    copy.shard()
    (copy.folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ExportError, match=r"index\.json: no list of tensors and shards"):
        copy.open().weights.names()


@pytest.mark.parametrize(
    ("name", "value", "precision", "target"),
    [
        ("llm.model.layers.1.mlp.down_proj.weight", float("nan"), "fp32", "cpu"),
        ("llm.lm_head.weight", 1e6, "fp16", "cuda"),
        ("llm.model.layers.2.self_attn.q_norm.weight", 1e6, "int8", "cuda"),
    ],
)
def test_weights_that_the_type_cannot_hold(copy, tmp_path, name, value, precision, target):
    copy.edit_config(init_vision=False, init_audio=False, init_tts=False)

    def spoil(tensors):
        tensors[name] = tensors[name].float()
        tensors[name].view(-1)[5] = value

    copy.edit_weights(spoil)
    part = "head" if "head" in name else name.split(".")[-2]
    with pytest.raises(
        ExportError, match=rf"llm\.onnx: '[\w.]*{part}[\w.]*' holds values that are not finite as float"
    ):
        export.export_bundle(copy.open(), tmp_path / "bundle", export.Options(precision, target, 64), "golden", [])


def test_float16_overflow_of_a_module_names_the_tensor(copy):
    def spoil(tensors):
        tensors["vpm.encoder.layers.1.mlp.fc2.bias"][3] = 1e6

    copy.edit_weights(spoil)
    with pytest.raises(ExportError, match=r"vision\.onnx: 'vpm\.encoder\.layers\.1\.mlp\.fc2\.b'"):
        vision.build(copy.open(), half=True)
    edit(copy, "hift", lambda state: state["resblocks.4.convs2.1.bias"].fill_(1e6))
    with pytest.raises(ExportError, match=r"hift\.onnx: 'resblocks\.4\.convs2\.1' .* float16"):
        hift.build(copy.open(), half=True)
    hift.build(copy.open())
