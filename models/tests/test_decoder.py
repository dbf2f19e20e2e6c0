"""llm.onnx, tts.onnx and kv_compact.onnx against the golden arrays and the plain torch decoder.

1. fp32: prefill, single steps and a block with a filled cache equal the golden hidden states, logits and caches
(1e-4), while
   past and present share memory.
2. The plain torch decoder passes the same golden arrays, so that `verify` may compare with it.
3. A ragged batch of single steps equals single sequences: rows do not see each other.
4. int8 and int4 keep the required correlation; fp16 for CUDA has float16 caches and float32 logits.
5. kv_compact equals the golden re-alignment, and angle 0 copies bits.
"""

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import pcc

from duologue_export.bundle import StepGraph, open_session
from duologue_export.decoders import export_llm, export_tts
from duologue_export.graph.kv_compact import write_kv_compact
from duologue_export.modules.decoder import TorchDecoder, llm_source, tts_source

STEPS = ("prefill", "step1", "step2", "step3")


def stepper(path, dims, slots: int = 1) -> StepGraph:
    return StepGraph(open_session(str(path), ["CPUExecutionProvider"]), dims, 64, slots)


@pytest.fixture(scope="module")
def fp32(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp32")
    export_llm(checkpoint, folder, "fp32", "cpu")
    export_tts(checkpoint, folder, "fp32", "cpu")
    return folder


@pytest.fixture(scope="module")
def llm_golden(golden):
    return np.load(golden / "modules/module_llm.npz")


@pytest.fixture(scope="module")
def tts_golden(golden):
    return np.load(golden / "modules/module_tts.npz")


def test_llm_equals_golden(fp32, checkpoint, llm_golden):
    graph = stepper(fp32 / "llm.onnx", checkpoint.llm)
    for name in STEPS:
        out = graph.step(llm_golden[f"{name}_in"][None])
        np.testing.assert_allclose(out["hidden"][0], llm_golden[f"{name}_hidden"], atol=1e-4)
        np.testing.assert_allclose(out["logits"][0], llm_golden[f"{name}_logits_last"], atol=1e-4)
    for layer in range(checkpoint.llm.layers):
        np.testing.assert_allclose(graph.cache("key", layer), llm_golden["kv_key"][layer], atol=1e-4)
        np.testing.assert_allclose(graph.cache("value", layer), llm_golden["kv_value"][layer], atol=1e-4)


def test_tts_equals_golden(fp32, checkpoint, tts_golden):
    graph = stepper(fp32 / "tts.onnx", checkpoint.tts)
    table = np.fromfile(fp32 / "tts_embed.bin", np.float32).reshape(checkpoint.tts.vocab, checkpoint.tts.hidden)
    np.testing.assert_array_equal(table[1234], tts_golden["emb_code_1234"])
    prefill = graph.step(tts_golden["condition"][None])
    np.testing.assert_allclose(prefill["logits"][0], tts_golden["prefill_logits_last"], atol=1e-4)
    step = graph.step(table[1234][None, None])
    np.testing.assert_allclose(step["logits"][0], tts_golden["step_logits"], atol=1e-4)
    for layer in range(checkpoint.tts.layers):
        np.testing.assert_allclose(graph.cache("key", layer), tts_golden["kv_key"][layer], atol=1e-4)


def test_torch_decoder_equals_golden(checkpoint, llm_golden, tts_golden):
    llm = TorchDecoder(checkpoint.llm, llm_source(checkpoint))
    for name in STEPS:
        logits, hidden = llm.step(torch.from_numpy(llm_golden[f"{name}_in"]))
        np.testing.assert_allclose(hidden, llm_golden[f"{name}_hidden"], atol=1e-4)
        np.testing.assert_allclose(logits, llm_golden[f"{name}_logits_last"], atol=1e-4)
    np.testing.assert_allclose(torch.stack(llm.keys), llm_golden["kv_key"], atol=1e-4)
    tts = TorchDecoder(checkpoint.tts, tts_source(checkpoint))
    logits, hidden = tts.step(torch.from_numpy(tts_golden["condition"]))
    np.testing.assert_allclose(hidden, tts_golden["prefill_hidden"], atol=1e-4)
    np.testing.assert_allclose(logits, tts_golden["prefill_logits_last"], atol=1e-4)


def test_ragged_batch_equals_single_sequences(fp32, checkpoint, llm_golden):
    rows = llm_golden["prefill_in"]
    singles = []
    batch = stepper(fp32 / "llm.onnx", checkpoint.llm, slots=3)
    for slot, length in enumerate((3, 11, 7)):
        single = stepper(fp32 / "llm.onnx", checkpoint.llm)
        single.step(rows[None, :length])
        for name, value in batch.caches.items():
            merged = value.numpy().copy()
            merged[slot] = single.caches[name].numpy()[0]
            value.update_inplace(merged)
        batch.lengths[slot] = length
        singles.append(single.step(rows[None, 15:16]))
    together = batch.step(np.repeat(rows[None, 15:16], 3, axis=0))
    for slot, single in enumerate(singles):
        np.testing.assert_allclose(together["logits"][slot], single["logits"][0], atol=2e-5)
        np.testing.assert_allclose(together["hidden"][slot], single["hidden"][0], atol=2e-5)


@pytest.mark.parametrize(
    ("precision", "target", "hidden_floor", "tts_floor"),
    [
        ("int8", "cpu", 0.99, 0.99),
        ("int4", "cpu", 0.99, 0.90),
        ("fp16", "cuda", 0.999, 0.999),
        ("int4", "cuda", 0.99, 0.90),
    ],
)
def test_precisions(checkpoint, tmp_path, llm_golden, tts_golden, precision, target, hidden_floor, tts_floor):
    fragment = export_llm(checkpoint, tmp_path, precision, target)
    export_tts(checkpoint, tmp_path, precision, target)
    graph = stepper(tmp_path / "llm.onnx", checkpoint.llm)
    assert graph.io == (np.float16 if target == "cuda" else np.float32)
    for name in STEPS:
        out = graph.step(llm_golden[f"{name}_in"][None])
        assert out["logits"].dtype == out["hidden"].dtype == np.float32
        assert pcc(out["hidden"], llm_golden[f"{name}_hidden"]) > hidden_floor
    tts = stepper(tmp_path / "tts.onnx", checkpoint.tts).step(tts_golden["condition"][None])
    assert pcc(tts["logits"], tts_golden["prefill_logits_last"]) > tts_floor
    assert fragment["llm"]["embed_dtype"] == "float16"
    table = np.fromfile(tmp_path / "llm_embed.bin", np.float16)
    assert table.size == checkpoint.llm.vocab * checkpoint.llm.hidden
    # What stays above int4 is told by name.
    assert ("llm.onnx/head" in fragment["kept_precision"]) == (precision == "int4")


def _compact(path, key, value, index, angles):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {"key": key, "value": value, "index": index, "cos": np.cos(angles), "sin": np.sin(angles)}
    return session.run(["key_out", "value_out"], feed)


def test_kv_compact_equals_golden_realignment(checkpoint, tmp_path, llm_golden):
    dims = checkpoint.llm
    write_kv_compact(tmp_path / "kv_compact.onnx", dims, "cpu")
    keys = llm_golden["realign_in"][None]
    shift = llm_golden["realign_new_pos"] - llm_golden["realign_old_pos"]
    frequencies = dims.rope_theta ** -(np.arange(dims.head_dim // 2) * 2 / dims.head_dim)
    for distance in np.unique(shift):
        index = np.flatnonzero(shift == distance)
        angles = (distance * frequencies).astype(np.float32)
        turned, moved = _compact(tmp_path / "kv_compact.onnx", keys, keys, index, angles)
        np.testing.assert_allclose(turned[0], llm_golden["realign_out"][:, index], atol=1e-4)
        np.testing.assert_array_equal(moved[0], llm_golden["realign_in"][:, index])


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_kv_compact_without_angle_copies_bits(checkpoint, tmp_path, target):
    dims = checkpoint.llm
    write_kv_compact(tmp_path / "kv_compact.onnx", dims, target)
    random = np.random.default_rng(0).standard_normal((1, dims.kv_heads, 9, dims.head_dim))
    cache = random.astype(np.float16 if target == "cuda" else np.float32)
    index = np.array([0, 1, 5, 6, 8])
    still = np.zeros(dims.head_dim // 2, np.float32)
    key, value = _compact(tmp_path / "kv_compact.onnx", cache, cache, index, still)
    np.testing.assert_array_equal(key, cache[:, :, index])
    np.testing.assert_array_equal(value, cache[:, :, index])
