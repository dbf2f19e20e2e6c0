"""kv_compact.onnx: rows of one layer's cache, keys turned by one constant angle (utils.py:985-1130 does the same in
two turns).

key --Gather(index)-- Cast f32 -- Split halves -- (k1 cos - k2 sin, k2 cos + k1 sin) -- Concat -- Cast -> key_out
value --Gather(index) -> value_out
"""

from pathlib import Path

from duologue_export.dims import DecoderDims
from duologue_export.graph.writer import FLOAT, FLOAT16, INT64, GraphWriter


def write_kv_compact(path: Path, dims: DecoderDims, target: str) -> None:
    """Contract in BUNDLE.md: key, value io [1, heads, capacity, head_dim], index i64 [n], cos, sin f32 [head_dim / 2].

    The number of heads stays free: the host gathers all of them at once and writes them back one by one.
    """
    io = FLOAT16 if target == "cuda" else FLOAT
    with GraphWriter(path, "kv_compact") as graph:
        cache = [1, "kv_heads", "capacity", dims.head_dim]
        graph.input("key", io, cache)
        graph.input("value", io, cache)
        graph.input("index", INT64, ["rows"])
        graph.input("cos", FLOAT, [dims.head_dim // 2])
        graph.input("sin", FLOAT, [dims.head_dim // 2])
        moved = [1, "kv_heads", "rows", dims.head_dim]
        graph.output("key_out", io, moved)
        graph.output("value_out", io, moved)
        graph.node("Gather", ["value", "index"], "value_out", axis=2)
        rows = graph.node("Gather", ["key", "index"], "key_rows", axis=2)
        if io == FLOAT16:
            rows = graph.node("Cast", [rows], "key_float", to=FLOAT)
        graph.node("Split", [rows], ["first", "second"], axis=-1, num_outputs=2)
        for half, product in (("first", "cos"), ("second", "sin"), ("second", "cos"), ("first", "sin")):
            graph.node("Mul", [half, product], f"{half}_{product}")
        graph.node("Sub", ["first_cos", "second_sin"], "turned_first")
        graph.node("Add", ["second_cos", "first_sin"], "turned_second")
        turned = "key_turned" if io == FLOAT16 else "key_out"
        graph.node("Concat", ["turned_first", "turned_second"], turned, axis=-1)
        if io == FLOAT16:
            graph.node("Cast", [turned], "key_out", to=FLOAT16)
        graph.save()
