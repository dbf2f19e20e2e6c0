"""Bad checkpoints are refused with a message that names the culprit; sharded and single files read the same.

1. A missing tensor, a wrong shape, a truncated shard, a missing shard and a foreign config.json are named.
2. The causal vocoder of minicpmo-utils 1.0.7 is refused by name.
3. Sharded weights give the same tensors, also read by rows.
4. All three spellings of weight normalisation fold to the same weight, and hift keys lose their `generator.` prefix.
5. flow.yaml is read without running its `!new:` tags, and another class is refused.
"""

import pytest
import torch

from duologue_export.errors import ExportError
from duologue_export.tensors import TensorSource, TorchSource


def test_missing_tensor_is_named(copy):
    copy.edit_weights(lambda tensors: tensors.pop("llm.model.norm.weight"))
    with pytest.raises(ExportError, match=r"tensor 'llm\.model\.norm\.weight' is missing"):
        copy.open().tensor("llm.model.norm.weight")


def test_wrong_shape_names_both_shapes(checkpoint):
    with pytest.raises(ExportError, match=r"'llm\.model\.norm\.weight' has shape \[256\], expected \[4096\]"):
        checkpoint.tensor("llm.model.norm.weight", (4096,))


def test_truncated_weights(copy):
    path = copy.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ExportError, match=r"model\.safetensors: truncated, tensor"):
        copy.open().weights.names()


def test_missing_shard(copy):
    copy.shard()
    (copy.folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ExportError, match=r"model-00002-of-00003\.safetensors: shard is missing"):
        copy.open().weights.names()


def test_foreign_model(copy):
    copy.edit_config(model_type="llava")
    with pytest.raises(ExportError, match="model_type is 'llava'"):
        copy.open()


def test_no_checkpoint(tmp_path):
    from duologue_export.checkpoint import Checkpoint

    with pytest.raises(ExportError, match=r"config\.json: missing"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("marker", ["config.yaml", "hift_original.pt"])
def test_newer_vocoder_is_refused_by_name(copy, marker):
    (copy.folder / "assets/token2wav" / marker).touch()
    with pytest.raises(ExportError, match=r"causal HiFT vocoder of minicpmo-utils 1\.0\.7"):
        copy.open()
    copy.edit_config(init_tts=False)
    copy.open()


def test_causal_weights_without_the_marker_are_refused(copy):
    path = copy.folder / "assets/token2wav/hift.pt"
    state = torch.load(path)
    state["conv_pre.parametrizations.weight.original1"] = torch.zeros(64, 80, 5)
    torch.save(state, path)
    with pytest.raises(ExportError, match="conv_pre has kernel 5"):
        _ = copy.open().hift


def test_sharded_equals_single(copy, checkpoint):
    copy.shard()
    sharded = copy.open()
    assert sharded.weights.names() == checkpoint.weights.names()
    for name in checkpoint.weights.names():
        assert torch.equal(sharded.tensor(name), checkpoint.tensor(name)), name
    rows = sharded.weights.rows("llm.lm_head.weight", 100, 107)
    assert torch.equal(rows, checkpoint.tensor("llm.lm_head.weight")[100:107])


class _Memory(TensorSource):
    label = "memory"

    def __init__(self, tensors):
        self._tensors = tensors
        self._shapes = {name: tuple(t.shape) for name, t in tensors.items()}

    def _read(self, name):
        return self._tensors[name]


def test_weight_norm_spellings_agree():
    torch.manual_seed(0)
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 6, 3))
    new = {f"c.{name}": value for name, value in module.state_dict().items()}
    old = {
        "c.weight_g": new["c.parametrizations.weight.original0"],
        "c.weight_v": new["c.parametrizations.weight.original1"],
    }
    plain = {"c.weight": module.weight.detach()}
    for tensors in (new, old, plain):
        assert torch.allclose(_Memory(tensors).weight("c", (6, 4, 3)), module.weight, atol=1e-7)


def test_generator_prefix_is_stripped(copy, checkpoint):
    path = copy.folder / "assets/token2wav/hift.pt"
    torch.save({f"generator.{name}": value for name, value in torch.load(path).items()}, path)
    assert copy.open().hift_weights.names() == checkpoint.hift_weights.names()
    assert copy.open().hift == checkpoint.hift


def test_unreadable_pickle(tmp_path):
    (tmp_path / "hift.pt").write_text("not a pickle")
    with pytest.raises(ExportError, match=r"hift\.pt: cannot be read as a torch state dict"):
        TorchSource(tmp_path / "hift.pt")


def test_flow_yaml_is_data_only(copy):
    path = copy.folder / "assets/token2wav/flow.yaml"
    assert copy.open().flow.dit_layers == 3
    path.write_text(path.read_text().replace("decoder_dit.DiT", "decoder_unet.UNet"))
    with pytest.raises(ExportError, match=r"decoder_unet\.UNet' where DiT is supported"):
        _ = copy.open().flow
    path.write_text("flow: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ExportError, match="not a flow configuration"):
        _ = copy.open().flow


def test_dims_of_the_golden_checkpoint(checkpoint):
    llm = checkpoint.llm
    # The head size is not hidden / heads here: it must come from the configuration.
    assert (llm.hidden, llm.heads, llm.kv_heads, llm.head_dim) == (256, 8, 2, 48)
    assert checkpoint.tts.rope_theta == 10000.0 and checkpoint.tts.eos == 6561
    assert checkpoint.vision.layers == 3 and checkpoint.vision.grid == 70
    assert checkpoint.flow.steps == 5 and checkpoint.hift.harmonics == 8
