"""Weight-only quantisation: the layout is the one ONNX Runtime reads.

1. MatMulNBits with our blocks equals the product with the dequantised weight, for widths that are no multiple of the
block. 2. Zeros stay exact.
"""

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import pcc

from duologue_export.graph.linear import Numbers, linear, linear_rows
from duologue_export.graph.writer import FLOAT, GraphWriter
from duologue_export.quantize import quantize_blocks


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("columns", [64, 48, 100])
def test_linear_layout(tmp_path, bits, columns):
    torch.manual_seed(columns)
    weight = torch.randn(37, columns)
    numbers = Numbers(np.float32, bits, "cpu")
    with GraphWriter(tmp_path / "linear.onnx", "linear") as graph:
        x = graph.input("x", FLOAT, ["rows", columns])
        graph.output("whole", FLOAT, ["rows", 37])
        graph.output("pieces", FLOAT, ["rows", 37])
        linear(graph, numbers, "whole", x, weight)
        linear_rows(graph, numbers, "pieces", x, (37, columns), lambda a, b: weight[a:b])
        graph.save()
    x = np.random.default_rng(0).standard_normal((5, columns)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "linear.onnx"), providers=["CPUExecutionProvider"])
    whole, pieces = session.run(None, {"x": x})
    np.testing.assert_array_equal(whole, pieces)
    assert pcc(whole, x @ weight.T.numpy()) > (0.9995 if bits == 8 else 0.99)


def test_zero_weights_stay_zero():
    weight = torch.randn(4, 64)
    weight[:, ::3] = 0.0
    for bits in (4, 8):
        blocks = quantize_blocks(weight, bits)
        zeros = blocks.zero_points if bits == 8 else np.stack([blocks.zero_points & 15, blocks.zero_points >> 4], -1)
        values = (
            blocks.packed if bits == 8 else np.stack([blocks.packed & 15, blocks.packed >> 4], -1).reshape(4, 2, 32)
        )
        restored = (values - zeros.reshape(4, 2)[..., None].astype(np.float32)) * blocks.scales[..., None]
        assert (restored.reshape(4, 64)[:, ::3] == 0).all()
