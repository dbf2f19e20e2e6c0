"""The ONNX graphs of the torch modules, on the golden checkpoint.

- every graph equals its torch module on several lengths, empty caches and a second chunk (float32, and the CUDA
float16 form)
- int8 graphs stay above their threshold
- the graphs hold no shape arithmetic inside the Euler loop beyond what the loop needs
- hift computes pitch, phase and ISTFT in float32 in the float16 form
"""

import numpy as np
import onnx
import onnxruntime
import pytest

from duologue_export.modules import apm, cases, flow, flow_cfm, flow_encoder, hift, tts_condition, vision
from duologue_export.modules.parity import THRESHOLDS, Row

BUILDERS = {
    "apm": apm.build,
    "vision": vision.build,
    "tts_condition": tts_condition.build,
    "flow_encoder": flow_encoder.build,
    "flow_cfm": flow_cfm.build,
    "hift": hift.build,
}


def compare(checkpoint, name: str, model: onnx.ModelProto, precision: str) -> Row:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {value.name: value.type for value in session.get_inputs()}
    row = Row(name, precision, THRESHOLDS[precision])
    for case in getattr(cases, name)(checkpoint):
        feeds = {n: v.astype(np.float16) if "float16" in kinds[n] else v for n, v in case.feeds.items()}
        for output, value in zip(case.expected, session.run(list(case.expected), feeds), strict=True):
            row.add(output, case.expected[output], value)
    return row


@pytest.mark.parametrize("name", BUILDERS)
def test_float32_graph_equals_the_torch_module(checkpoint, name):
    row = compare(checkpoint, name, BUILDERS[name](checkpoint).model(), "fp32")
    assert row.ok and row.relative < 1e-3, row


@pytest.mark.parametrize("name", BUILDERS)
def test_float16_graph_stays_close(checkpoint, name):
    row = compare(checkpoint, name, BUILDERS[name](checkpoint, half=True).model(), "fp16")
    assert row.ok, row


def test_speaker_graph(checkpoint):
    assert compare(checkpoint, "flow_speaker", flow.build_speaker(checkpoint).model(), "fp32").ok


def test_int8_apm_stays_close(checkpoint):
    row = compare(checkpoint, "apm", apm.build(checkpoint, bits=8).model(), "int8")
    assert row.ok and row.pcc < 1, row


def test_euler_loop_has_no_constants_and_no_shape_chains(checkpoint):
    model = flow_cfm.build(checkpoint).model()
    (scan,) = [node for node in model.graph.node if node.op_type == "Scan"]
    body = onnx.helper.get_node_attr_value(scan, "body")
    kinds = [node.op_type for node in body.node]
    assert not body.initializer, "weights belong to the outer graph"
    assert not {"Where", "Expand", "Range", "Constant", "Softplus"} & set(kinds)
    assert kinds.count("Shape") <= 1


def test_hift_keeps_pitch_and_phase_in_float32(checkpoint):
    graph = hift.build(checkpoint, half=True).model().graph
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    sensitive = [n for n in graph.node if n.op_type in ("Elu", "CumSum", "Tanh", "Exp", "Cos", "Clip")]
    assert len(sensitive) >= 9
    made_by = {output: node for node in graph.node for output in node.output}
    for node in sensitive:
        parent = made_by[node.input[0]]
        assert not halves & set(parent.input), f"{node.op_type} reads a float16 result"


def test_outputs_carry_the_contract_names(checkpoint):
    names = {name: {v.name for v in build(checkpoint).model().graph.output} for name, build in BUILDERS.items()}
    assert names["apm"] == {"embeds", "new_key", "new_value"}
    assert names["hift"] == {"speech", "source", "f0"}
    layers = range(checkpoint.flow.dit_layers)
    assert names["flow_cfm"] == {"mel"} | {
        f"{part}.{layer}" for part in ("cnn_out", "new_key", "new_value") for layer in layers
    }
