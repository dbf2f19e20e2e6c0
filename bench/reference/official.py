"""Loads the official PyTorch code from paths given on the command line and drives its duplex loop on the CPU.

Nothing of the official code lives here. It is patched at run time. Two patches let it run, and change no number:

  cpu      `.cuda()` is the identity, autocast a no-op: float32 throughout
  sizes    vocoder and speech tokenizer classes, and the streaming buffers, take their sizes from the files

Two change what is computed, so that a run can be repeated and compared token by token; they are not the official
program as users run it:

  noise    the vocoder's additive noise is zero instead of random, and the flow matching starts from the given noise
           array instead of an unseeded draw
  argmax   `torch.multinomial` gives the most probable element: speech codes are not sampled (text is decoded greedily
           by the sessions' own settings)

The work per step stays the same but for the random draws that are left out.
"""

import contextlib
import importlib
import os
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import torch

warnings.filterwarnings("ignore")


class _TorchWith:
    """The torch module with a few attributes replaced, for use inside one module of the official code."""

    def __init__(self, **replaced):
        self._replaced = replaced

    def __getattr__(self, name):
        return self._replaced[name] if name in self._replaced else getattr(torch, name)


def _on_cpu(function):
    def call(*args, **kwargs):
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)

    return call


def _patch_token2wav(files: Path):
    import onnx
    import s3tokenizer.model_v2 as s3
    import stepaudio2.flashcosyvoice.modules.hifigan as hifigan
    import stepaudio2.flashcosyvoice.modules.hifigan_components.layers as layers
    import stepaudio2.token2wav as token2wav

    torch.nn.Module.cuda = lambda self, *a, **k: self
    torch.Tensor.cuda = lambda self, *a, **k: self
    amp = types.SimpleNamespace(autocast=lambda *a, **k: contextlib.nullcontext())
    token2wav.torch = _TorchWith(tensor=_on_cpu(torch.tensor), zeros=_on_cpu(torch.zeros), amp=amp)
    layers.torch = _TorchWith(
        rand=lambda *shape, **k: torch.zeros(*shape), randn_like=lambda x, **k: torch.zeros_like(x)
    )

    state = torch.load(files / "hift.pt", map_location="cpu", weights_only=True)
    state = {k.removeprefix("generator."): v for k, v in state.items()}
    generator = hifigan.HiFTGenerator
    token2wav.HiFTGenerator = lambda: generator(
        base_channels=state["conv_pre.parametrizations.weight.original1"].shape[0],
        f0_predictor=hifigan.ConvRNNF0Predictor(cond_channels=state["f0_predictor.classifier.weight"].shape[1]),
    )
    graph = onnx.load(files / "speech_tokenizer_v2_25hz.onnx").graph
    width = next(t.dims[0] for t in graph.initializer if t.name == "onnx::Conv_2216")
    depth = len({n.name.split("/")[1] for n in graph.node if n.name.startswith("/blocks.")})
    s3.S3TokenizerV2.__init__.__defaults__ = (
        s3.ModelConfig(n_audio_state=width, n_audio_head=width // 64, n_audio_layer=depth),
    )
    s3.print = token2wav.print = lambda *a, **k: None


def _resize_buffers(flow):
    blocks = flow.decoder.estimator.blocks
    attention, width = blocks[0].attn, flow.decoder.estimator.in_proj.out_features
    att = (len(blocks), 2, attention.num_heads, 1000, 2 * attention.head_dim)
    cnn = (len(blocks), 2, 2 * width, 2)
    flow.decoder.estimator.att_cache_buffer, flow.decoder.estimator.cnn_cache_buffer = (
        torch.zeros(att),
        torch.zeros(cnn),
    )
    flow.decoder.att_cache_buffer, flow.decoder.cnn_cache_buffer = torch.zeros(16, *att), torch.zeros(16, *cnn)


def load(code: Path, token2wav_code: Path, checkpoint: Path, noise: np.ndarray):
    """Returns the official model in duplex mode, float32 on the CPU, with deterministic sampling and noise (see
    above)."""
    sys.path[:0] = [str(token2wav_code), str(code)]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import logging

    logging.disable(logging.WARNING)
    torch.multinomial = lambda p, num_samples=1, **k: p.argmax(-1, keepdim=True)
    unified = importlib.import_module("MiniCPMO45.modeling_minicpmo_unified")
    processing = importlib.import_module("MiniCPMO45.processing_minicpmo")
    tokenization = importlib.import_module("MiniCPMO45.tokenization_minicpmo_fast")
    _patch_token2wav(checkpoint / "assets/token2wav")
    unified.print = lambda *a, **k: None
    processor = processing.MiniCPMOProcessor(
        processing.MiniCPMVImageProcessor.from_pretrained(checkpoint),
        processing.MiniCPMAAudioProcessor.from_pretrained(checkpoint),
        tokenization.MiniCPMOTokenizerFast.from_pretrained(checkpoint),
    )
    model = unified.MiniCPMO.from_pretrained(str(checkpoint), _attn_implementation="sdpa", torch_dtype=torch.float32)
    model.float().eval()
    model.processor = processor
    model.init_unified(
        duplex_config={
            "generate_audio": True,
            "ls_mode": "explicit",
            "max_new_speak_tokens_per_chunk": 20,
            "force_listen_count": 0,
        },
        device="cpu",
    )
    model.set_mode(unified.ProcessorMode.DUPLEX)
    _resize_buffers(model.tts.audio_tokenizer.flow)
    model.tts.audio_tokenizer.flow.decoder.rand_noise = torch.from_numpy(noise)
    return model


def run_session(model, session: dict, audio: np.ndarray, reference_wav: Path, reference_audio: np.ndarray):
    """Runs a recorded session; yields per unit its stage times in ms, tokens and decision."""
    from MiniCPMO45.utils import DuplexWindowConfig

    duplex = model.duplex
    duplex.force_listen_count = session["force_listen_count"]
    duplex.decoder.set_window_config(DuplexWindowConfig(**session["window"]))
    duplex.decoder.set_window_enabled(session["window"]["sliding_window_mode"] != "off")
    extractor = model.processor.audio_processor
    extractor.dynamic_log_norm, extractor.dynamic_range_db, extractor.log_floor_db = True, 8.0, -10.0
    model.reset_session(reset_token2wav_cache=True)
    model.audio_past_key_values = None
    prompt = session["prompt"]
    model.duplex_prepare(
        prefix_system_prompt=prompt["prefix"],
        suffix_system_prompt=prompt["suffix"],
        ref_audio=reference_audio,
        prompt_wav_path=str(reference_wav),
    )
    for index, unit in enumerate(session["units"]):
        chunk = audio[index * 16000 : (index + 1) * 16000]
        chunk = np.pad(chunk, (0, 16000 - len(chunk)))
        kv_before = duplex.decoder.get_cache_length()
        start = time.perf_counter()
        prefill = model.duplex_prefill(audio_waveform=chunk)
        before_tokens = len(duplex.total_ids)
        result = model.duplex_generate(**session["gen"], force_listen_override=unit["force_listen"])
        tokens = [int(t) for t in duplex.total_ids[before_tokens:]]
        model.duplex_finalize()
        yield {
            "unit": index,
            "is_listen": bool(result["is_listen"]),
            "tokens": tokens,
            "kv_before": kv_before,
            "unit_ms": (time.perf_counter() - start) * 1e3,
            "prefill_ms": prefill["cost_all"] * 1e3,
            "llm_ms": result["cost_llm"] * 1e3,
            "tts_ms": (result["cost_tts"] or 0.0) * 1e3,
            "token2wav_ms": (result["cost_token2wav"] or 0.0) * 1e3,
        }
