"""Two ways to run the sub-modules of a checkpoint behind one interface: the torch modules, or the graphs of a bundle.

Names and shapes of inputs and outputs are those of BUNDLE.md, arrays are numpy, floating point values float32."""

from pathlib import Path

import numpy as np
import torch
from onnxruntime import InferenceSession

from duologue_export.bundle import Bundle, StepGraph, open_session
from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import DecoderDims
from duologue_export.modules.apm import Apm
from duologue_export.modules.decoder import TorchDecoder, llm_source, tts_source
from duologue_export.modules.flow import FlowSpeaker
from duologue_export.modules.frontends import SPEAKER_FILE, TOKENIZER_FILE
from duologue_export.modules.torch_flow_cfm import Cfm
from duologue_export.modules.torch_flow_encoder import FlowEncoder
from duologue_export.modules.torch_hift import Hift
from duologue_export.modules.tts_condition import TtsCondition
from duologue_export.modules.vision import Vision
from duologue_export.verify import TABLES

# Graph -> (torch module, names of its outputs). Further outputs of the module are not in the graph.
_MODULES = {
    "vision": (Vision, ("embeds",)),
    "apm": (Apm, ("embeds", "new_key", "new_value")),
    "tts_condition": (TtsCondition, ("condition",)),
    "flow_speaker": (FlowSpeaker, ("spk",)),
    "flow_encoder": (FlowEncoder, ("mu", "conv1_out", "conv2_out", "new_kv1", "new_kv2")),
    "flow_cfm": (Cfm, ("mel", "cnn_out", "new_key", "new_value")),
    "hift": (Hift, ("speech", "source", "f0")),
}
_FRONTENDS = {"speech_tokenizer": TOKENIZER_FILE, "campplus": SPEAKER_FILE}


class TorchBackend:
    """The checkpoint's own weights in the torch modules; each module lives for one call."""

    label = "PyTorch modules"

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint

    @torch.inference_mode()
    def run(self, name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call of a stateless graph. Inputs and outputs named `x.0`, `x.1` ... belong to the list `x` of the
        module."""
        arguments: dict[str, torch.Tensor | list[torch.Tensor]] = {}
        for key, value in feeds.items():
            group, dot, _ = key.partition(".")
            if dot:
                arguments.setdefault(group, []).append(torch.from_numpy(value))
            else:
                arguments[key] = torch.from_numpy(value)
        make, names = _MODULES[name]
        results = make(self._checkpoint)(*arguments.values())
        results = results if isinstance(results, tuple) else (results,)
        outputs = {}
        for key, value in zip(names, results[: len(names)], strict=True):
            parts = {f"{key}.{i}": part for i, part in enumerate(value)} if isinstance(value, list) else {key: value}
            outputs |= {part_key: part.numpy() for part_key, part in parts.items()}
        return outputs

    def frontend(self, name: str, inputs: list[np.ndarray]) -> np.ndarray:
        """One call of speech_tokenizer or campplus by position of inputs; ONNX Runtime on the checkpoint's own file."""
        path = self._checkpoint.token2wav / _FRONTENDS[name]
        return _run_by_position(open_session(str(path), ["CPUExecutionProvider"]), inputs)

    def decoder(self, name: str, dims: DecoderDims, capacity: int) -> "_TorchSteps":
        """A fresh sequence of llm or tts; the cache grows as needed, `capacity` is the bundle's concern."""
        source = llm_source(self._checkpoint) if name == "llm" else tts_source(self._checkpoint)
        return _TorchSteps(TorchDecoder(dims, source))

    def embed(self, name: str, token: int) -> np.ndarray:
        """Embedding row [1, hidden] of a token (llm) or code (tts)."""
        return self._checkpoint.weights.rows(TABLES[name], token, token + 1).numpy()


class _TorchSteps:
    def __init__(self, decoder: TorchDecoder):
        self._decoder = decoder

    def step(self, embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """embeds [S, hidden] -> logits [vocab] of the last row, hidden [S, hidden] after the final norm."""
        logits, hidden = self._decoder.step(torch.from_numpy(embeds))
        return logits.numpy(), hidden.numpy()


class BundleBackend:
    """The graphs of a bundle in ONNX Runtime; each session lives for one call, a decoder's for its sequence."""

    def __init__(self, folder: Path):
        self._bundle = Bundle(folder)
        self.label = self._bundle.label

    def run(self, name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `TorchBackend.run`."""
        session = self._bundle.session(f"{name}.onnx")
        half = {value.name for value in session.get_inputs() if "float16" in value.type}
        names = [value.name for value in session.get_outputs()]
        outputs = session.run(
            names, {key: value.astype(np.float16) if key in half else value for key, value in feeds.items()}
        )
        return {
            key: value.astype(np.float32) if value.dtype == np.float16 else value
            for key, value in zip(names, outputs, strict=True)
        }

    def frontend(self, name: str, inputs: list[np.ndarray]) -> np.ndarray:
        """See `TorchBackend.frontend`."""
        return _run_by_position(self._bundle.session(f"{name}.onnx"), inputs)

    def decoder(self, name: str, dims: DecoderDims, capacity: int) -> "_BundleSteps":
        """See `TorchBackend.decoder`; `capacity` is the length of the cache that is bound."""
        return _BundleSteps(StepGraph(self._bundle.session(f"{name}.onnx"), dims, capacity))

    def embed(self, name: str, token: int) -> np.ndarray:
        """See `TorchBackend.embed`."""
        width = self._bundle.manifest[name]["hidden"]
        return self._bundle.table_rows(name, width, token, token + 1).astype(np.float32)


class _BundleSteps:
    def __init__(self, graph: StepGraph):
        self._graph = graph

    def step(self, embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """See `_TorchSteps.step`; hidden is None for tts, whose graph does not return it."""
        outputs = self._graph.step(embeds[None])
        hidden = outputs.get("hidden")
        return outputs["logits"][0], None if hidden is None else hidden[0]


def _run_by_position(session: InferenceSession, inputs: list[np.ndarray]) -> np.ndarray:
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]
