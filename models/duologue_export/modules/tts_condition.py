"""tts_condition: text ids and LLM hidden states -> condition rows of the speech token model
(modeling_minicpmo_unified.py:5411-5446). The last row is always audio_bos, so no text at all gives that row alone."""

from pathlib import Path

import torch
import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.modules.builder import GraphBuilder, runs_half
from duologue_export.modules.layers import WeightedModule

# F.normalize's default
NORM_EPS = 1e-12


class TtsCondition(WeightedModule):
    """text row + unit-length projection of the hidden state. Weights: `tts.emb_text`, `tts.projector_semantic`."""

    def __init__(self, checkpoint: Checkpoint):
        weights = checkpoint.weights.state("tts.projector_semantic.")
        weights["emb_text"] = checkpoint.tensor("tts.emb_text.weight")
        super().__init__(weights)
        self.audio_bos = checkpoint.tts.audio_bos

    def forward(self, ids, hidden):
        """ids [m], hidden [m, D] -> condition [m + 1, Dt]."""
        projected = self.linear(F.relu(self.linear(hidden, "linear1")), "linear2")
        rows = self.w["emb_text"][ids] + F.normalize(projected, dim=-1)
        return torch.cat([rows, self.w["emb_text"][self.audio_bos][None]])


def build(checkpoint: Checkpoint, half: bool = False) -> GraphBuilder:
    """The graph of `TtsCondition`. With `half`, the text table and both matrices are float16."""
    d, w = checkpoint.tts, checkpoint.weights
    g = GraphBuilder("tts_condition", half)
    ids = g.input("ids", "int64", ["m"])
    hidden = g.input("hidden", "float32", ["m", d.llm_hidden])
    name = "tts.projector_semantic"
    x = g.linear(g.low(hidden), w.tensor(f"{name}.linear1.weight"), w.tensor(f"{name}.linear1.bias"), "linear1")
    x = g.linear(g.node("Relu", [x]), w.tensor(f"{name}.linear2.weight"), w.tensor(f"{name}.linear2.bias"), "linear2")
    x = g.full(x)
    length = g.node("ReduceL2", [x, g.ints(-1)], keepdims=1)
    x = g.node("Div", [x, g.node("Max", [length, g.const(NORM_EPS)])])
    table = w.tensor("tts.emb_text.weight")
    rows = g.full(g.node("Gather", [g.weight(table, "emb_text"), ids]))
    x = g.concat([g.node("Add", [rows, x]), g.const(table[d.audio_bos][None], "audio_bos")], axis=0)
    g.output(x, "condition", "float32", ["m_plus_1", d.hidden])
    return g


def export(checkpoint: Checkpoint, out_dir: Path, precision: str, target: str) -> dict:
    """Writes tts_condition.onnx; it adds nothing to the manifest."""
    build(checkpoint, half=runs_half(precision, target)).save(out_dir / "tts_condition.onnx")
    return {}
