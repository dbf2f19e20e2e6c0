"""Sub-modules written in torch and exported one by one.

Every module `duologue_export.modules.<name>` offers

    export(checkpoint: Checkpoint, out_dir: Path, precision: str, target: str) -> dict

which writes its graph files into `out_dir` and returns a manifest fragment that is merged into the top level of
`manifest.json`, for example `{"apm": {...}, "kept_precision": {"apm.onnx": "fp32"}}`. Files, checksums and the graphs'
inputs and outputs are listed by `duologue_export.manifest`, not by the module.
"""
