"""The checkpoint folder as downloaded: config.json, weights, tokenizer files and `assets/token2wav`.

Sizes come from config.json and flow.yaml; where the reference hard-codes a size (HiFT), it is read from the weights.
"""

import json
from functools import cached_property
from pathlib import Path

import torch
import yaml

from duologue_export.dims import ApmDims, FlowDims, HiftDims, LlmDims, TtsDims, VisionDims
from duologue_export.errors import ExportError
from duologue_export.tensors import SafetensorsSource, TorchSource


class _FlowLoader(yaml.SafeLoader):
    """Reads flow.yaml without running it: `!new:package.Class` nodes become plain mappings with the class under
    `class`."""


def _construct_new(loader: _FlowLoader, suffix: str, node: yaml.Node) -> dict:
    arguments = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
    return {"class": suffix, **arguments}


_FlowLoader.add_multi_constructor("!new:", _construct_new)


class Checkpoint:
    """One MiniCPM-o 4.5 checkpoint folder; nothing is read until it is asked for.

    `weights`, `flow_weights` and `hift_weights` are the three tensor files; `llm`, `apm`, `vision`, `tts`, `flow` and
    `hift` hold the sizes. Raises `ExportError` for a folder that is not such a checkpoint.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        path = self.folder / "config.json"
        if not path.is_file():
            raise ExportError(
                f"{path}: missing. --checkpoint must name the folder that holds config.json and the weights."
            )
        try:
            self.config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ExportError(f"{path}: not valid JSON ({error}).") from error
        if not isinstance(self.config, dict):
            raise ExportError(f"{path}: holds no JSON object; this is no model configuration.")
        if self.config.get("model_type") != "minicpmo":
            raise ExportError(
                f"{path}: model_type is {self.config.get('model_type')!r}, this exporter reads 'minicpmo' only."
            )
        # Random weights speak noise, and the server says so. The generator marks its checkpoints; the user can say it
        # too.
        self.is_random = (self.folder / "tiny_info.json").exists()
        if self.has_tts:
            self._refuse_newer_vocoder()

    # The reference builds a sub-module unless its switch is false (modeling_minicpmo_unified.py, MiniCPMO.__init__).
    @property
    def has_vision(self) -> bool:
        """config.json `init_vision`."""
        return bool(self.config.get("init_vision", True))

    @property
    def has_apm(self) -> bool:
        """config.json `init_audio`."""
        return bool(self.config.get("init_audio", True))

    @property
    def has_tts(self) -> bool:
        """config.json `init_tts`: tts and token2wav together."""
        return bool(self.config.get("init_tts", True))

    @property
    def drops_vision_layer(self) -> bool:
        """config.json `drop_vision_last_layer`: the tower's last layer is not part of the model."""
        return bool(self.config.get("drop_vision_last_layer", True))

    @property
    def token2wav(self) -> Path:
        """Folder of the vocoder files."""
        return self.folder / "assets" / "token2wav"

    def _refuse_newer_vocoder(self) -> None:
        # minicpmo-utils 1.0.7 keeps the file name hift.pt for another network (causal HiFT); config.yaml and
        # hift_original.pt mark it.
        for marker in (self.token2wav / "config.yaml", self.token2wav / "hift_original.pt"):
            if marker.exists():
                raise ExportError(
                    f"{marker}: this is the causal HiFT vocoder of minicpmo-utils 1.0.7, which is not supported. "
                    "Use the assets/token2wav folder of minicpmo-utils 1.0.5: flow.yaml, flow.pt and the plain hift.pt "
                    "(newer folders keep it as hift_original.pt), without config.yaml."
                )

    def file(self, name: str) -> Path:
        """A file of the checkpoint folder, or `ExportError` when it is missing."""
        path = self.folder / name
        if not path.is_file():
            raise ExportError(f"{path}: missing. The checkpoint folder is incomplete.")
        return path

    def json(self, name: str) -> dict:
        """A JSON file of the checkpoint folder."""
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ExportError(f"{self.folder / name}: not valid JSON ({error}).") from error

    @cached_property
    def weights(self) -> SafetensorsSource:
        """LLM, apm, vision, resampler and tts tensors."""
        return SafetensorsSource(self.folder)

    @cached_property
    def flow_weights(self) -> TorchSource:
        """assets/token2wav/flow.pt."""
        return TorchSource(self.token2wav / "flow.pt")

    @cached_property
    def hift_weights(self) -> TorchSource:
        """assets/token2wav/hift.pt, names without the `generator.` prefix that some files carry (token2wav.py:85)."""
        return TorchSource(self.token2wav / "hift.pt", strip="generator.")

    def tensor(
        self, name: str, shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Short for `weights.tensor`."""
        return self.weights.tensor(name, shape, dtype)

    @cached_property
    def flow_config(self) -> dict:
        """flow.yaml as plain mappings."""
        path = self.token2wav / "flow.yaml"
        if not path.is_file():
            raise ExportError(f"{path}: missing.")
        try:
            return yaml.load(path.read_text(encoding="utf-8"), Loader=_FlowLoader)["flow"]
        except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{path}: not a flow configuration ({error}).") from error

    @cached_property
    def llm(self) -> LlmDims:
        """Sizes of the language model."""
        return LlmDims.read(self.config)

    @cached_property
    def apm(self) -> ApmDims:
        """Sizes of the audio encoder."""
        return ApmDims.read(self.config)

    @cached_property
    def vision(self) -> VisionDims:
        """Sizes of SigLIP and the resampler."""
        return VisionDims.read(self.config, self.json("preprocessor_config.json"), self.weights)

    @cached_property
    def tts(self) -> TtsDims:
        """Sizes of the speech token model."""
        return TtsDims.read(self.config)

    @cached_property
    def flow(self) -> FlowDims:
        """Sizes of the flow matching (flow.yaml)."""
        return FlowDims.read(self.flow_config)

    @cached_property
    def hift(self) -> HiftDims:
        """Sizes of the vocoder, read from its weights."""
        return HiftDims.read(self.hift_weights)
