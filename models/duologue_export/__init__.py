"""Exporter of MiniCPM-o 4.5 checkpoints: one ONNX graph per sub-module, plus a manifest (BUNDLE.md is the contract)."""

import os

# ONNX Runtime reads this switch when it is first imported, so it must be set before any module of this package imports
# it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
