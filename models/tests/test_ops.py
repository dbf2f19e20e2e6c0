"""The CUDA kernel check follows types through graphs and bodies, and names what is missing.

1. The step graphs in float16 pass; the same graph in float32 fails, naming GroupQueryAttention and the type.
2. An operator without kernel is named, also inside a Scan body.
3. Types follow Cast, Shape and ConstantOfShape.
4. A markdown row of every shape the list uses is parsed.
"""

import pytest
from onnx import TensorProto, helper

from duologue_export.decoders import export_llm
from duologue_export.errors import ExportError
from duologue_export.kernel_table import parse_markdown
from duologue_export.ops import missing_kernels, require_cuda_kernels


def _value(name, kind=TensorProto.FLOAT16):
    return helper.make_tensor_value_info(name, kind, ["n"])


def _model(nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_step_graph_in_float16_passes(checkpoint, tmp_path):
    export_llm(checkpoint, tmp_path, "int4", "cuda")
    assert require_cuda_kernels(tmp_path)["llm.onnx"] > 40


def test_step_graph_in_float32_fails_by_name(checkpoint, tmp_path):
    export_llm(checkpoint, tmp_path, "fp32", "cpu")
    with pytest.raises(
        ExportError, match=r"llm\.onnx: com\.microsoft\.GroupQueryAttention .*no kernel for tensor\(float\)"
    ):
        require_cuda_kernels(tmp_path)


def test_missing_operator_is_named_inside_a_body():
    body = helper.make_graph(
        [
            helper.make_node("STFT", ["state", "state"], ["next"], name="spectrum"),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [_value("state"), _value("x")],
        [_value("next"), _value("y")],
    )
    scan = helper.make_node("Scan", ["a", "b"], ["c", "d"], body=body, num_scan_inputs=1)
    misses = missing_kernels(_model([scan], [_value("a"), _value("b")], [_value("c"), _value("d")]))
    assert misses == ["STFT (opset 20), node 'spectrum': no kernel of this operator"]


def test_types_follow_casts_and_shapes():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Cast", ["zeros"], ["narrow"], to=TensorProto.BFLOAT16),
        helper.make_node("Softplus", ["narrow"], ["y"], name="soft"),
    ]
    misses = missing_kernels(_model(nodes, [_value("x")], [_value("y", TensorProto.BFLOAT16)]))
    assert misses == ["Softplus (opset 20), node 'soft': no kernel for tensor(bfloat16)"]


def test_markdown_rows():
    one, two = "*in* x:**T**<br> *in* min:**T**<br> *out* y:**T**", "*in* x:**T**<br> *out* y:**T**"
    rows = [
        "## Operators implemented by CUDAExecutionProvider",
        "| Op Name | Parameters | OpSet Version | Types Supported |",
        "|---------|------------|---------------|-----------------|",
        "|**Operator Domain:** *ai.onnx*||||",
        f"|Clip|{one}<br><br>or<br><br>{two}|13+|**T** = tensor(float)|",
        "|||12|**T** = tensor(double)|",
        "|||[6, 11]|**T** = tensor(double), tensor(float)|",
        "|**Operator Domain:** *com.microsoft*||||",
        "|Scale|*in* x:**T**<br> *in* n:**tensor(int64)**<br> *out* y:**U**|1+"
        "|**T** = tensor(float)<br/> **U** = tensor(float16)|",
        "## Operators implemented by DmlExecutionProvider",
    ]
    table = parse_markdown("\n".join(rows))
    clip = table[""]["Clip"]
    assert [(row["first"], row["last"]) for row in clip] == [(13, None), (12, 12), (6, 11)]
    assert clip[0]["inputs"] == ["T", "T"] and clip[2]["types"] == {"T": ["tensor(double)", "tensor(float)"]}
    scale = table["com.microsoft"]["Scale"][0]
    assert scale["inputs"] == ["T", "tensor(int64)"] and scale["outputs"] == ["U"]
    with pytest.raises(ExportError, match="no section"):
        parse_markdown("## Operators implemented by CPUExecutionProvider")
