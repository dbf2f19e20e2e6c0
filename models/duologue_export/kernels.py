"""Operators that the server has own CPU kernels for (server/model/src/operators.rs).

A graph that uses one carries it as a function of standard operators as well, so it runs in every ONNX Runtime: with a
kernel registered the node stays one call, else the function is put in its place when the graph is loaded. Float32 only,
and never for CUDA, where the standard operators are fast.
"""

from collections.abc import Sequence

import onnx
from onnx import helper

DOMAIN = "duologue"
VERSION = 1
# Newest standard operators that the bodies below are written in.
_OPSET = 20


def _function(
    name: str, inputs: list[str], nodes: list[onnx.NodeProto], attributes: Sequence[str] = ()
) -> onnx.FunctionProto:
    return helper.make_function(DOMAIN, name, inputs, ["y"], nodes, [helper.make_opsetid("", _OPSET)], attributes)


def _lists(*names: str) -> list[onnx.AttributeProto]:
    """Attributes that hand on the function's own ones, lists of integers."""
    return [onnx.AttributeProto(name=name, ref_attr_name=name, type=onnx.AttributeProto.INTS) for name in names]


# u + sin(u)^2 with u = alpha x: x [B, C, 1, T], alpha [C, 1, 1] or [1].
SNAKE = _function(
    "Snake",
    ["x", "alpha"],
    [
        helper.make_node("Mul", ["x", "alpha"], ["u"]),
        helper.make_node("Sin", ["u"], ["sine"]),
        helper.make_node("Mul", ["sine", "sine"], ["square"]),
        helper.make_node("Add", ["u", "square"], ["y"]),
    ],
)

# sin(x), any shape.
SINE = _function("Sine", ["x"], [helper.make_node("Sin", ["x"], ["y"])])

# Conv of x [B, C, 1, T] with constants w [O, C, 1, taps] and b [O], taps odd, whose pads [0, p, 0, p] keep the length.
CONVOLVE = _function(
    "Convolve", ["x", "w", "b"], [helper.make_node("Conv", ["x", "w", "b"], ["y"])], ["dilations", "pads"]
)
CONVOLVE.node[0].attribute.extend(_lists("dilations", "pads"))

# Below this product of channels and taps the kernel of Convolve gains nothing over ONNX Runtime's convolution, which
# it can join with the addition behind it. Measured on one core of a Zen 4 with 512-bit vectors, 8 to 256 channels.
_WORTH = 384


def worth_convolving(channels: int, taps: int) -> bool:
    """Whether a convolution gains by being a `CONVOLVE`."""
    return channels * taps >= _WORTH
