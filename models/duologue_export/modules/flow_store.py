"""The ONNX graph that puts the frames of a chunk into the slots of the estimator's caches, for all layers at once.

    att_key.l --ScatterND(places of slot, new_key.l)--> att_key_out.l       values alike

ONNX Runtime's ScatterND writes in place when a cache and its output are the same memory, and copies the cache first
when they are not. The server makes use of both: the frames of a running turn move nothing else, and a turn's first
chunk goes on from the voice's caches into those of the stream.
"""

import numpy as np

from duologue_export.checkpoint import Checkpoint
from duologue_export.modules.builder import GraphBuilder

# Conditional and unconditional row of one session.
_ROWS = 2


def build(checkpoint: Checkpoint, half: bool = False) -> GraphBuilder:
    """The graph; with `half` the caches are float16."""
    d = checkpoint.flow
    g = GraphBuilder("flow_store", half)
    cache_type = "float16" if half else "float32"
    slot = g.input("slot", "int64", ["T"])
    lanes = [d.steps, _ROWS, d.dit_heads]
    parts = [(part, layer) for layer in range(d.dit_layers) for part in ("key", "value")]
    caches = [g.input(f"att_{part}.{layer}", cache_type, [*lanes, "slots", d.dit_head_dim]) for part, layer in parts]
    fresh = [g.input(f"new_{part}.{layer}", cache_type, [*lanes, "T", d.dit_head_dim]) for part, layer in parts]
    places = _places(g, slot, lanes)
    for (part, layer), cache, new in zip(parts, caches, fresh, strict=True):
        stored = g.node("ScatterND", [cache, places, new])
        g.output(stored, f"att_{part}_out.{layer}", cache_type, [*lanes, "slots", d.dit_head_dim])
    return g


def _places(g: GraphBuilder, slot: str, lanes: list[int]) -> str:
    """slot [T] -> [N, 2, heads, T, 4]: step, row, head and slot of each new vector."""
    lane = np.stack(np.indices(lanes), -1)[..., None, :].astype(np.int64)
    frames = g.size(slot, 0)
    lane = g.node("Expand", [g.const(lane, "lanes"), g.concat([g.ints(*lanes), frames, g.ints(len(lanes))], axis=0)])
    shape = g.concat([g.ints(*lanes), frames, g.ints(1)], axis=0)
    slot = g.node("Expand", [g.node("Unsqueeze", [slot, g.ints(1)]), shape])
    return g.concat([lane, slot], axis=-1)
