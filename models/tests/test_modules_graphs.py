"""The ONNX graphs of the torch modules, on the golden checkpoint.

- every graph equals its torch module on several lengths, empty caches and a second chunk (float32, and the CUDA
float16 form)
- int8 graphs stay above their threshold
- the graphs hold no shape arithmetic inside the Euler loop beyond what the loop needs
- hift carries its own operators as functions that any ONNX Runtime runs; its CUDA forms have none and are as exact
- every value that hift's pitch, source and ISTFT read or write is float32 in the float16 form, by inferred types
"""

import numpy as np
import onnx
import pytest

from duologue_export import kernels
from duologue_export.bundle import open_session
from duologue_export.modules import (
    apm,
    builder,
    cases,
    flow,
    flow_cfm,
    flow_encoder,
    flow_store,
    hift,
    tts_condition,
    vision,
)
from duologue_export.modules.parity import THRESHOLDS, Row
from duologue_export.verify import compare

BUILDERS = {
    "apm": apm.build,
    "vision": vision.build,
    "tts_condition": tts_condition.build,
    "flow_encoder": flow_encoder.build,
    "flow_cfm": flow_cfm.build,
    "flow_store": flow_store.build,
    "hift": hift.build,
}


def compared(checkpoint, name: str, model: onnx.ModelProto, precision: str) -> Row:
    row = Row(name, precision, THRESHOLDS[precision])
    compare(row, open_session(model.SerializeToString(), ["CPUExecutionProvider"]), getattr(cases, name)(checkpoint))
    return row


@pytest.mark.parametrize("name", BUILDERS)
def test_float32_graph_equals_the_torch_module(checkpoint, name):
    row = compared(checkpoint, name, BUILDERS[name](checkpoint).model(), "fp32")
    assert row.ok and row.relative < 1e-3, row


@pytest.mark.parametrize("name", BUILDERS)
def test_float16_graph_stays_close(checkpoint, name):
    row = compared(checkpoint, name, BUILDERS[name](checkpoint, half=True).model(), "fp16")
    assert row.ok, row


def test_speaker_graph(checkpoint):
    assert compared(checkpoint, "flow_speaker", flow.build_speaker(checkpoint).model(), "fp32").ok


def test_int8_apm_stays_close(checkpoint):
    row = compared(checkpoint, "apm", apm.build(checkpoint, bits=8).model(), "int8")
    assert row.ok and row.agreement < 1, row


def test_euler_loop_has_no_constants_and_no_shape_chains(checkpoint):
    model = flow_cfm.build(checkpoint).model()
    (scan,) = [node for node in model.graph.node if node.op_type == "Scan"]
    body = onnx.helper.get_node_attr_value(scan, "body")
    kinds = [node.op_type for node in body.node]
    assert not body.initializer, "weights belong to the outer graph"
    assert not {"Where", "Expand", "Range", "Constant", "Softplus"} & set(kinds)
    assert kinds.count("Shape") <= 1


def test_hift_keeps_pitch_source_and_istft_in_float32(checkpoint):
    graph = onnx.shape_inference.infer_shapes(hift.build(checkpoint, half=True).model(), strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    readers = {name: [node for node in graph.node if name in node.input] for name in kinds}

    def reached(nodes: list[onnx.NodeProto], following) -> list[onnx.NodeProto]:
        found: dict[str, onnx.NodeProto] = {}
        while nodes:
            node = nodes.pop()
            if node.output[0] not in found:
                found[node.output[0]] = node
                nodes += following(node)
        return list(found.values())

    def half_values(nodes: list[onnx.NodeProto]) -> list[str]:
        names = {name for node in nodes for name in (*node.input, *node.output) if name}
        return [name for name in names if kinds[name] == onnx.TensorProto.FLOAT16]

    source = reached([made_by["source"], made_by["f0"]], lambda n: [made_by[i] for i in n.input if i in made_by])
    assert {"Elu", "CumSum", "Sin", "Tanh"} <= {node.op_type for node in source}
    assert half_values(source) == []
    (magnitude,) = [node for node in graph.node if node.op_type == "Exp"]
    (both,) = [made_by[name] for name in magnitude.input]
    istft = reached([both], lambda n: [reader for output in n.output for reader in readers[output]])
    assert {"Exp", "Cos", "Sin", "ConvTranspose", "Clip"} <= {node.op_type for node in istft}
    assert half_values(istft) == []
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    decoder = [node for node in convolutions if kinds[node.output[0]] == onnx.TensorProto.FLOAT16]
    assert len(decoder) > len(convolutions) / 2, "the decoder itself is meant to be float16"


def test_hift_carries_its_operators_as_functions(checkpoint, monkeypatch):
    # The checkpoint is too small for it.
    monkeypatch.setattr(kernels, "_WORTH", 100)
    model = hift.build(checkpoint).model()
    used = {node.op_type for node in model.graph.node if node.domain == kernels.DOMAIN}
    assert used == {function.name for function in model.functions} == {"Snake", "Sine", "Convolve"}
    assert "Sin" not in {node.op_type for node in model.graph.node}
    row = compared(checkpoint, "hift", model, "fp32")
    assert row.ok and row.relative < 1e-3, row


def test_hift_for_cuda_has_standard_operators_only(checkpoint):
    for model in (hift.build(checkpoint, standard=True).model(), hift.build(checkpoint, half=True).model()):
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}
    row = compared(checkpoint, "hift", hift.build(checkpoint, standard=True).model(), "fp32")
    assert row.ok and row.relative < 1e-3, row


def test_outputs_carry_the_contract_names(checkpoint):
    names = {name: {v.name for v in build(checkpoint).model().graph.output} for name, build in BUILDERS.items()}
    assert names["apm"] == {"embeds", "new_key", "new_value"}
    assert names["hift"] == {"speech", "source", "f0"}
    layers = range(checkpoint.flow.dit_layers)
    assert names["flow_cfm"] == {"mel"} | {
        f"{part}.{layer}" for part in ("cnn_out", "new_key", "new_value") for layer in layers
    }


def test_external_data_is_written_anew(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "EXTERNAL_DATA_BYTES", 1000)
    path, data = tmp_path / "flow_speaker.onnx", tmp_path / "flow_speaker.onnx.data"
    flow.build_speaker(checkpoint).save(path)
    size = data.stat().st_size
    flow.build_speaker(checkpoint).save(path)
    assert data.stat().st_size == size, "an older data file was appended to"
    expected = {t.name: onnx.numpy_helper.to_array(t) for t in flow.build_speaker(checkpoint).model().graph.initializer}
    for tensor in onnx.load(path).graph.initializer:
        assert np.array_equal(onnx.numpy_helper.to_array(tensor), expected[tensor.name])
    monkeypatch.undo()
    flow.build_speaker(checkpoint).save(path)
    assert not data.exists(), "the graph fits into one file, the older data file would stay behind"
