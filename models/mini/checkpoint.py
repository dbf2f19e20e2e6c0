"""Puts the trained parts together as a checkpoint folder in the release's layout, which `duologue-export` reads like
any other.

What is particular to this model: no vision; one voice, so the two networks that analyse a reference recording are
constants (every recording gives the code of silence and a zero speaker vector); the LLM's hidden state is left out of
the speech condition by a projection that is zero.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from duologue_export.tiny.speech_weights import flow_yaml
from duologue_export.tiny.vocabulary import ADDED, AUDIO_BOS_OFFSET, NOT_SPECIAL, SPLIT, TEXT_EOS_OFFSET
from mini.corpus import CODES, SILENT_CODE
from mini.hearing import MAX_POSITIONS, POOL, ROPE_THETA, Hearing
from mini.vocabulary import Vocabulary
from mini.voice import FIRST_UNIT_CODES, FLOW, SPEAKER, TTS_FFN, TTS_HEADS, TTS_HIDDEN, TTS_LAYERS, Speaking

_ONNX_OPSET, _ONNX_IR = 17, 8


def write(folder: Path, vocabulary: Vocabulary, hearing: Hearing, speaking: Speaking, flow: dict, hift: dict) -> None:
    """Writes the folder; `flow` and `hift` are the tensors of flow.pt and hift.pt."""
    speech = folder / "assets" / "token2wav"
    speech.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, vocabulary)
    dump(folder / "config.json", config(vocabulary, hearing))
    save_file(tensors(hearing, speaking), folder / "model.safetensors", {"format": "pt"})
    torch.save({name: value.detach().contiguous() for name, value in flow.items()}, speech / "flow.pt")
    torch.save({name: value.detach().contiguous() for name, value in hift.items()}, speech / "hift.pt")
    (speech / "flow.yaml").write_text(flow_settings(), encoding="utf-8")
    onnx.save(constant_tokenizer(), speech / "speech_tokenizer_v2_25hz.onnx")
    onnx.save(constant_speaker(), speech / "campplus.onnx")


def dump(path: Path, value: object) -> None:
    """Writes JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def tensors(hearing: Hearing, speaking: Speaking) -> dict[str, torch.Tensor]:
    """model.safetensors, in float32: apm, projector, llm, tts."""
    state = {name: value for name, value in hearing.state_dict().items() if not name.startswith("phones.")}
    renamed = {"emb_code.": "emb_code.0.", "head_code.": "head_code.0."}
    for name, value in speaking.state_dict().items():
        part = next((part for part in renamed if name.startswith(part)), None)
        state["tts." + (name if part is None else name.replace(part, renamed[part]))] = value
    llm_hidden = hearing.dims.llm_hidden
    for index, width in ((1, llm_hidden), (2, TTS_HIDDEN)):
        state[f"tts.projector_semantic.linear{index}.weight"] = torch.zeros(TTS_HIDDEN, width)
        state[f"tts.projector_semantic.linear{index}.bias"] = torch.zeros(TTS_HIDDEN)
    return {name: value.detach().contiguous() for name, value in state.items()}


def config(vocabulary: Vocabulary, hearing: Hearing) -> dict:
    """config.json."""
    d = hearing.dims
    return {
        "architectures": ["MiniCPMO"],
        "model_type": "minicpmo",
        "version": "4.5",
        "torch_dtype": "float32",
        "vocab_size": vocabulary.rows,
        "hidden_size": d.llm_hidden,
        "num_hidden_layers": d.llm_layers,
        "num_attention_heads": d.llm_heads,
        "num_key_value_heads": d.llm_kv_heads,
        "head_dim": d.head_dim,
        "intermediate_size": d.llm_ffn,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": ROPE_THETA,
        "max_position_embeddings": 8192,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "init_audio": True,
        "init_tts": True,
        "init_vision": False,
        "audio_chunk_length": 1.0,
        "audio_pool_step": POOL,
        "audio_config": {
            "model_type": "whisper",
            "d_model": d.apm_hidden,
            "encoder_layers": d.apm_layers,
            "encoder_attention_heads": d.apm_heads,
            "encoder_ffn_dim": 4 * d.apm_hidden,
            "num_mel_bins": 80,
            "max_source_positions": MAX_POSITIONS,
            "activation_function": "gelu",
        },
        "tts_config": {
            "model_type": "minicpmtts",
            "hidden_size": TTS_HIDDEN,
            "num_hidden_layers": TTS_LAYERS,
            "num_attention_heads": TTS_HEADS,
            "num_key_value_heads": TTS_HEADS,
            "intermediate_size": TTS_FFN,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "num_audio_tokens": CODES + 1,
            "num_text_tokens": vocabulary.rows,
            "num_vq": 1,
            "first_unit_codes": FIRST_UNIT_CODES,
            "llm_dim": d.llm_hidden,
            "audio_bos_token_id": vocabulary.first_added + AUDIO_BOS_OFFSET,
            "text_eos_token_id": vocabulary.first_added + TEXT_EOS_OFFSET,
            "backbone_model": "llama",
            "projector_type": "mlp",
            "normalize_projected_hidden": True,
        },
    }


def flow_settings() -> str:
    """flow.yaml with this model's sizes, code count and without guidance."""
    text = flow_yaml(_YamlDims())
    for old, new in (
        ("vocab_size: 6561", f"vocab_size: {CODES}"),
        ("inference_cfg_rate: 0.7", f"inference_cfg_rate: {FLOW.cfg_rate}"),
    ):
        assert text.count(old) == 1, f"flow.yaml no longer says {old!r}. This is a bug."
        text = text.replace(old, new)
    return text


class _YamlDims:
    """`FLOW` under the names that the random checkpoints' flow.yaml uses."""

    width, heads, ffn, blocks, up_blocks = FLOW.width, FLOW.heads, FLOW.linear_units, FLOW.blocks, FLOW.up_blocks
    dit_width, dit_heads, dit_head_dim, dit_depth = FLOW.dit_width, FLOW.dit_heads, FLOW.dit_head_dim, FLOW.dit_layers
    dit_mlp_ratio = FLOW.mlp_ratio


def write_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    """tokenizer.json and tokenizer_config.json: whole words first, bytes for everything else, Qwen2's way of
    splitting."""
    model = models.BPE(vocab=vocabulary.base, merges=[], ignore_merges=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    for token in ADDED:
        special = token not in NOT_SPECIAL
        entry = AddedToken(token, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([entry])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    added = {
        str(vocabulary.ids[token]): {"content": token, "special": token not in NOT_SPECIAL, "normalized": False}
        for token in ADDED
    }
    extra = [token for token in ADDED[ADDED.index("<image>") :] if not token.startswith("<|turn_")]
    dump(folder / "tokenizer_config.json", {
        **named,
        "added_tokens_decoder": added,
        "additional_special_tokens": extra,
        "bad_token_ids": [],
        "tokenizer_class": "MiniCPMOTokenizerFast",
    })  # fmt: skip


def constant_tokenizer() -> onnx.ModelProto:
    """A speech tokenizer that hears silence in everything: feats [1, 128, T] -> codes int32 [1, ceil(T / 4)].

    The code is spelled in eight ternary digits behind a tanh, as in the release's file
    (s3tokenizer/model_v2.py:97-112)."""
    powers = 3 ** np.arange(8)
    digits = SILENT_CODE // powers % 3
    constants = {
        # tanh of these is -1, 0 or 1 in float32.
        "row": ((digits - 1) * 20.0).astype(np.float32)[None],
        "three": np.array([3], np.int32),
        "four": np.array([4], np.int32),
        "eight": np.array([8], np.int64),
        "one": np.ones((), np.float32),
        "powers": powers.astype(np.float32),
        "last": np.array([1], np.int64),
        "first": np.array([0], np.int64),
    }
    steps = [
        ("Add", ["feats_length", "three"], "padded", {}),
        ("Div", ["padded", "four"], "quarter", {}),
        ("Cast", ["quarter"], "count", {"to": TensorProto.INT64}),
        ("Concat", ["count", "eight"], "shape", {"axis": 0}),
        ("Expand", ["row", "shape"], "rows", {}),
        ("Tanh", ["rows"], "squashed", {}),
        ("Add", ["squashed", "one"], "shifted", {}),
        ("Round", ["shifted"], "digits", {}),
        ("Mul", ["digits", "powers"], "scaled", {}),
        ("ReduceSum", ["scaled", "last"], "codes", {"keepdims": 0}),
        ("Unsqueeze", ["codes", "first"], "row_of_codes", {}),
        ("Cast", ["row_of_codes"], "indices", {"to": TensorProto.INT32}),
    ]
    nodes = [helper.make_node(op, inputs, [output], **attributes) for op, inputs, output, attributes in steps]
    inputs = [("feats", TensorProto.FLOAT, [1, 128, "T"]), ("feats_length", TensorProto.INT32, [1])]
    return _model("speech_tokenizer", nodes, constants, inputs, ("indices", TensorProto.INT32, [1, "L"]))


def constant_speaker() -> onnx.ModelProto:
    """A speaker network that knows one speaker: the zero vector."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "nothing"], ["output"]),
    ]
    constants = {"axis": np.array([1], np.int64), "nothing": np.zeros((1, SPEAKER), np.float32)}
    return _model(
        "campplus",
        nodes,
        constants,
        [("input", TensorProto.FLOAT, [1, "frames", 80])],
        ("output", TensorProto.FLOAT, [1, SPEAKER]),
    )


def _model(name: str, nodes: list, constants: dict, inputs: list[tuple], output: tuple) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    make = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, name, [make(*value) for value in inputs], [make(*output)], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _ONNX_OPSET)], ir_version=_ONNX_IR)
