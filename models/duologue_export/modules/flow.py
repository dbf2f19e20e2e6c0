"""flow: the four graphs of the flow matching and their section of the manifest."""

from pathlib import Path

import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.modules import flow_cfm, flow_encoder, flow_store, torch_flow_cfm, torch_flow_encoder
from duologue_export.modules.builder import GraphBuilder, runs_half
from duologue_export.modules.layers import WeightedModule

# F.normalize's default
_NORM_EPS = 1e-12


class FlowSpeaker(WeightedModule):
    """Speaker vector -> 80 channels (cosyvoice2/flow/flow.py:135-137). Weights: flow.pt `spk_embed_affine_layer`."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint.flow_weights.state("spk_embed_affine_layer."))

    def forward(self, embedding):
        """embedding [1, spk] -> spk [1, M]."""
        return F.linear(F.normalize(embedding, dim=1), self.w["weight"], self.w["bias"])


def build_speaker(checkpoint: Checkpoint) -> GraphBuilder:
    """The graph of `FlowSpeaker`, float32 in every bundle: it runs once per voice."""
    d, w = checkpoint.flow, checkpoint.flow_weights.state("spk_embed_affine_layer.")
    g = GraphBuilder("flow_speaker")
    embedding = g.input("embedding", "float32", [1, d.spk])
    length = g.node("Max", [g.node("ReduceL2", [embedding, g.ints(1)], keepdims=1), g.const(_NORM_EPS)])
    spk = g.linear(g.node("Div", [embedding, length]), w["weight"], w["bias"], "affine")
    g.output(spk, "spk", "float32", [1, d.mel])
    return g


def export(checkpoint: Checkpoint, out_dir: Path, precision: str, target: str) -> dict:
    """Writes the flow's four graphs, flow_*.onnx; returns the manifest's `flow` section."""
    half = runs_half(precision, target)
    build_speaker(checkpoint).save(out_dir / "flow_speaker.onnx")
    flow_encoder.build(checkpoint, half).save(out_dir / "flow_encoder.onnx")
    flow_cfm.build(checkpoint, half).save(out_dir / "flow_cfm.onnx")
    flow_store.build(checkpoint, half).save(out_dir / "flow_store.onnx")
    d = checkpoint.flow
    return {
        "flow": {
            "mel": d.mel,
            "up": d.up,
            "width": d.width,
            "conv1_len": torch_flow_encoder.CONV1_LEN,
            "conv2_len": torch_flow_encoder.CONV2_LEN,
            "layers1": d.blocks,
            "layers2": d.up_blocks,
            "heads": d.heads,
            "head_dim": d.head_dim,
            "steps": d.steps,
            "dit_layers": d.dit_layers,
            "dit_heads": d.dit_heads,
            "dit_head_dim": d.dit_head_dim,
            "dit_width": d.dit_width,
            "cnn_len": torch_flow_cfm.KERNEL - 1,
            "spk": d.spk,
        }
    }
