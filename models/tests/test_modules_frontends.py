"""Voice prompt front ends.

- the speech tokenizer gives the reference's codes and campplus its vector, on the golden log-mel and fbank
- a file that rounds 0.999 * tanh is patched so that its codes follow round(tanh + 1); one that already does is left
alone
- an unknown quantiser passes through with a warning
"""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from duologue_export.modules import frontends
from duologue_export.modules.golden import load


def session(model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def quantiser(nodes, constants) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    initializers = [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "quantiser", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shrinking() -> onnx.ModelProto:
    """tanh, * 0.999, round, + 1: the form of the published speech tokenizer."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Mul", ["t", "factor"], ["s"]),
        helper.make_node("Round", ["s"], ["r"]),
        helper.make_node("Add", ["r", "shift"], ["y"]),
    ]
    return quantiser(nodes, {"factor": 0.999, "shift": 1.0})


def test_golden_codes_and_speaker_vector(checkpoint, golden, tmp_path):
    frontends.export(checkpoint, tmp_path, "fp32", "cpu")
    data = load(golden / "modules", "frontend")
    tokenizer = session(str(tmp_path / "speech_tokenizer.onnx"))
    mel = data["s3_log_mel"][None]
    feeds = dict(zip([i.name for i in tokenizer.get_inputs()], (mel, np.array([mel.shape[2]], np.int32)), strict=True))
    assert np.array_equal(tokenizer.run(None, feeds)[0][0], data["prompt_speech_tokens"])
    campplus = session(str(tmp_path / "campplus.onnx"))
    feeds = {campplus.get_inputs()[0].name: data["kaldi_fbank_centered"][None]}
    assert np.allclose(campplus.run(None, feeds)[0][0], data["spk_emb"], atol=1e-5)


def test_shrinking_quantiser_is_patched_to_the_reference():
    model = shrinking()
    # tanh of these lies on both sides of one half, some of them between 0.5 and 0.5 / 0.999.
    x = np.arctanh(np.linspace(-0.5008, 0.5008, 4096, dtype=np.float32)).reshape(-1, 8)
    before = session(model).run(None, {"x": x})[0]
    assert frontends.patch_quantiser(model) == "patched"
    onnx.checker.check_model(model)
    after = session(model).run(None, {"x": x})[0]
    squashed = session(quantiser([helper.make_node("Tanh", ["x"], ["y"])], {})).run(None, {"x": x})[0]
    assert np.array_equal(after, np.round(squashed + np.float32(1)))
    assert not np.array_equal(before, after), "the test's values reach the difference"


def test_reference_form_is_left_alone(checkpoint):
    model = onnx.load(checkpoint.token2wav / frontends.TOKENIZER_FILE)
    before = model.SerializeToString()
    assert frontends.patch_quantiser(model) == "same"
    assert model.SerializeToString() == before


def test_unknown_quantiser_is_reported():
    assert frontends.patch_quantiser(quantiser([helper.make_node("Floor", ["x"], ["y"])], {})) == "unknown"
