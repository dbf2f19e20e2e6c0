#!/usr/bin/env python3
"""Compares every graph of a bundle with PyTorch, by `duologue-export verify`, and says which nodes run where.

  check.py --work DIR --precision fp16 --json OUT

The graphs run where the bundle was made for; llm and tts of the PyTorch side run on the GPU if there is one, because
reading 8 billion weights for every step takes minutes on a CPU. A bundle for CUDA must not be checked on the CPU by
mistake: that is an error here. Nodes that ONNX Runtime has put on the CPU of such a bundle are listed by name: in
graphs that run once a unit they are arithmetic on shapes, or they are what to mend. llm and tts do not load with any.
"""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models"))

import onnxruntime  # noqa: E402
import torch  # noqa: E402
from duologue_export.bundle import Bundle  # noqa: E402
from duologue_export.cli import main as exporter  # noqa: E402

# Loaded with the CPU forbidden when the engine starts; too large to load once more just to ask.
STEP_GRAPHS = ("llm.onnx", "tts.onnx")
# These run on the CPU by design: once for every new voice.
VOICE_GRAPHS = ("speech_tokenizer.onnx", "campplus.onnx", "flow_speaker.onnx")


def placement(path: Path, providers: list[str]) -> dict[str, list[str]]:
    """Provider -> its nodes ("Type name") as ONNX Runtime has assigned them, after its fusions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    nodes: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, []).extend(f"{node.op_type} {node.name}" for node in part.get_nodes())
    return nodes


def placements(bundle: Bundle) -> dict[str, dict[str, list[str]]]:
    """Prints a line per graph, and its nodes on the CPU where it should run elsewhere; returns them all."""
    found = {}
    for name in sorted(bundle.manifest["graphs"]):
        if name in STEP_GRAPHS or name in VOICE_GRAPHS:
            continue
        found[name] = placement(bundle.folder / name, bundle.providers)
        counts = ", ".join(f"{len(nodes)} on {provider}" for provider, nodes in sorted(found[name].items()))
        print(f"{name:24} {counts}")
        if len(bundle.providers) > 1:
            for node in found[name].get("CPUExecutionProvider", []):
                print(f"    on the CPU: {node}")
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of `true_shapes.py`")
    parser.add_argument("--precision", required=True)
    parser.add_argument("--json", type=Path, required=True, help="the rows, and where the nodes are, as JSON")
    args = parser.parse_args()
    folder = args.work / f"bundle-{args.precision}"
    bundle = Bundle(folder)
    if bundle.notice:
        print(f"error: {folder}: {bundle.notice}", file=sys.stderr)
        return 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = 1 if device == "cpu" else os.cpu_count() or 1
    compared = [f"--checkpoint={args.work / 'checkpoint'}", f"--bundle={folder}", f"--json={args.json}"]
    status = exporter(["verify", *compared, f"--torch-device={device}", f"--threads={threads}"])
    where = placements(bundle)
    if args.json.is_file():
        report = json.loads(args.json.read_text(encoding="utf-8"))
        args.json.write_text(json.dumps({**report, "placement": where}, indent=1) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
