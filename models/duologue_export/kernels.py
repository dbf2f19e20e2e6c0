"""Operators that the server has own CPU kernels for (server/model/src/operators.rs).

A graph that uses one carries it as a function of standard operators as well, so it runs in every ONNX Runtime: with a
kernel registered the node stays one call, else the function is put in its place when the graph is loaded. Float32 only,
and never for CUDA, where the standard operators are fast.
"""

import onnx
from onnx import helper

DOMAIN = "duologue"
VERSION = 1
# Newest standard operators that the bodies below are written in.
_OPSET = 20


def _function(name: str, inputs: list[str], nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function(DOMAIN, name, inputs, ["y"], nodes, [helper.make_opsetid("", _OPSET)])


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
