"""Sizes of a random checkpoint: one dataclass per sub-module, presets, and JSON files that override a preset."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path

from duologue_export.errors import ExportError


@dataclass(frozen=True)
class LlmDims:
    """Qwen3-shaped language model. `vocab` 0 means: as many rows as the tokenizer has entries, rounded up."""

    hidden: int = 256
    layers: int = 3
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 48
    ffn: int = 384
    rope_theta: float = 1e6
    vocab: int = 0


@dataclass(frozen=True)
class ApmDims:
    """Whisper-shaped audio encoder; its feed-forward width is 4 * hidden because the reference derives the projector's
    input width from it (modeling_minicpmo_unified.py, audio_output_dim)."""

    hidden: int = 64
    layers: int = 3
    heads: int = 4
    max_positions: int = 1500
    pool: int = 5


@dataclass(frozen=True)
class VisionDims:
    """SigLIP-shaped tower plus resampler. `layers` counts what is stored; the configuration says one more and the
    model drops the last (drop_vision_last_layer). The resampler works at the LLM's width with heads of 128."""

    hidden: int = 72
    layers: int = 3
    heads: int = 4
    ffn: int = 160
    patch: int = 14
    queries: int = 64


@dataclass(frozen=True)
class TtsDims:
    """Llama-shaped TTS; multi-head attention, head size hidden / heads."""

    hidden: int = 64
    layers: int = 3
    heads: int = 4
    ffn: int = 160
    text_vocab: int = 0


@dataclass(frozen=True)
class FlowDims:
    """Token-to-mel flow: conformer encoder before and after the up-sampling, and the DiT estimator."""

    width: int = 64
    heads: int = 4
    ffn: int = 128
    blocks: int = 2
    up_blocks: int = 2
    dit_width: int = 64
    dit_heads: int = 4
    dit_head_dim: int = 16
    dit_depth: int = 3
    dit_mlp_ratio: float = 4.0


@dataclass(frozen=True)
class HiftDims:
    """Vocoder: channels after conv_pre (halved at each of three stages) and width of the pitch predictor."""

    base: int = 64
    f0_width: int = 64


@dataclass(frozen=True)
class FrontendDims:
    """Speech tokenizer (heads are 64 wide, as the reference's rotary table is) and speaker network."""

    s3_width: int = 128
    s3_layers: int = 2
    campplus_width: int = 64


@dataclass(frozen=True)
class Dims:
    """All sizes. `merges` is the number of BPE merges of the rebuilt vocabulary; `calibrate` says whether rows of
    lm_head are fitted, which needs a forward pass of the whole LLM in float32."""

    llm: LlmDims = field(default_factory=LlmDims)
    apm: ApmDims = field(default_factory=ApmDims)
    vision: VisionDims = field(default_factory=VisionDims)
    tts: TtsDims = field(default_factory=TtsDims)
    flow: FlowDims = field(default_factory=FlowDims)
    hift: HiftDims = field(default_factory=HiftDims)
    frontend: FrontendDims = field(default_factory=FrontendDims)
    merges: int = 1100
    calibrate: bool = True


def with_layers(dims: Dims, most: int) -> Dims:
    """The same widths with at most `most` layers of each kind."""
    counts = {
        "llm": ("layers",),
        "apm": ("layers",),
        "vision": ("layers",),
        "tts": ("layers",),
        "flow": ("blocks", "up_blocks", "dit_depth"),
        "frontend": ("s3_layers",),
    }
    parts = {}
    for part, names in counts.items():
        sizes = getattr(dims, part)
        parts[part] = dataclasses.replace(sizes, **{name: min(most, getattr(sizes, name)) for name in names})
    return dataclasses.replace(dims, **parts)


# Sizes of MiniCPM-o 4.5: Qwen3-8B, 27 SigLIP layers less the last, Whisper-medium, a Llama of 20 layers for speech, and
# the token2wav of CosyVoice 2 with its speech tokenizer and speaker network.
RELEASE = Dims(
    llm=LlmDims(hidden=4096, layers=36, heads=32, kv_heads=8, head_dim=128, ffn=12288, vocab=151748),
    apm=ApmDims(hidden=1024, layers=24, heads=16),
    vision=VisionDims(hidden=1152, layers=26, heads=16, ffn=4304),
    tts=TtsDims(hidden=768, layers=20, heads=12, ffn=3072, text_vocab=152064),
    flow=FlowDims(
        width=512,
        heads=8,
        ffn=2048,
        blocks=6,
        up_blocks=4,
        dit_width=512,
        dit_heads=8,
        dit_head_dim=64,
        dit_depth=16,
    ),
    hift=HiftDims(base=512, f0_width=512),
    frontend=FrontendDims(s3_width=1280, s3_layers=6, campplus_width=512),
    calibrate=False,
)

PRESETS = {
    "default": Dims(),
    # Other counts and widths everywhere; in particular heads * head_dim differs from the width in LLM and DiT.
    "odd": Dims(
        llm=LlmDims(hidden=384, layers=4, heads=6, kv_heads=3, head_dim=32, ffn=464, rope_theta=5e5),
        apm=ApmDims(hidden=96, layers=2, heads=3),
        vision=VisionDims(hidden=80, layers=2, heads=5, ffn=112, queries=48),
        tts=TtsDims(hidden=96, layers=2, heads=6, ffn=224),
        flow=FlowDims(
            width=96,
            heads=3,
            ffn=144,
            blocks=3,
            up_blocks=1,
            dit_width=80,
            dit_heads=3,
            dit_head_dim=32,
            dit_depth=2,
            dit_mlp_ratio=3.0,
        ),
        hift=HiftDims(base=48, f0_width=40),
        frontend=FrontendDims(s3_width=192, s3_layers=3, campplus_width=48),
        merges=760,
    ),
    # The sizes of the release: 18 GB in bf16. For measurements at true shapes.
    "release": RELEASE,
    # Its widths with two layers of each kind, about 4.4 GB: for memory measurements of the exporter.
    "wide2": with_layers(RELEASE, 2),
}


def load(spec: str) -> Dims:
    """A preset by name, or a JSON file `{"preset": "default", "llm": {"layers": 5}, "merges": 500}`.

    Raises `ExportError` for an unknown preset, an unknown name in the file, a value of another type, or sizes that do
    not fit."""
    if spec in PRESETS:
        return check(PRESETS[spec])
    path = Path(spec)
    if not path.is_file():
        raise ExportError(f"--dims {spec}: neither a preset ({', '.join(PRESETS)}) nor a JSON file.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path}: not JSON ({error}).") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path}: the file must hold one JSON object.")
    preset = data.pop("preset", "default")
    if preset not in PRESETS:
        raise ExportError(f"{path}: preset '{preset}' is unknown; known are {', '.join(PRESETS)}.")
    return check(_override(PRESETS[preset], data, str(path)))


def _override(base: typing.Any, data: dict, where: str) -> typing.Any:
    changes = {}
    for name, value in data.items():
        if name not in {f.name for f in dataclasses.fields(base)}:
            raise ExportError(
                f"{where}: '{name}' is unknown; known are {', '.join(f.name for f in dataclasses.fields(base))}."
            )
        old = getattr(base, name)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, dict):
                raise ExportError(f"{where}: '{name}' must be an object.")
            changes[name] = _override(old, value, f"{where}: {name}")
        elif isinstance(old, bool) != isinstance(value, bool) or not isinstance(
            value, (int, float) if isinstance(old, float) else int
        ):
            raise ExportError(f"{where}: '{name}' is {value!r}, expected {type(old).__name__}.")
        else:
            changes[name] = type(old)(value)
    return dataclasses.replace(base, **changes)


def check(dims: Dims) -> Dims:
    """Returns `dims` if the reference and ONNX Runtime can run such a model, else raises `ExportError` naming the
    rule."""
    d = dims
    rules = [
        (d.llm.hidden % 128 == 0, "llm.hidden must be a multiple of 128: the resampler's heads are 128 wide"),
        (d.llm.head_dim % 16 == 0, "llm.head_dim must be a multiple of 16: GroupQueryAttention asks for it"),
        (d.llm.heads % d.llm.kv_heads == 0, "llm.heads must be a multiple of llm.kv_heads"),
        (
            d.tts.hidden % d.tts.heads == 0 and d.tts.hidden // d.tts.heads % 16 == 0,
            "tts.hidden / tts.heads must be a multiple of 16",
        ),
        (d.apm.hidden % d.apm.heads == 0, "apm.hidden must be a multiple of apm.heads"),
        (d.vision.hidden % d.vision.heads == 0, "vision.hidden must be a multiple of vision.heads"),
        (
            d.vision.hidden != d.llm.hidden,
            "vision.hidden must differ from llm.hidden: the resampler's kv_proj would vanish",
        ),
        (d.flow.width % d.flow.heads == 0, "flow.width must be a multiple of flow.heads"),
        (d.flow.width % 2 == 0, "flow.width must be even: it carries a sine and cosine position table"),
        (d.hift.base % 8 == 0, "hift.base must be a multiple of 8: it is halved three times"),
        (d.frontend.s3_width % 64 == 0, "frontend.s3_width must be a multiple of 64: its heads are 64 wide"),
        (
            all(
                v > 0
                for part in (d.llm, d.apm, d.vision, d.tts, d.flow, d.hift, d.frontend)
                for k, v in dataclasses.asdict(part).items()
                if "vocab" not in k
            ),
            "every size must be positive",
        ),
        (0 <= d.merges <= 4000, "merges must lie in 0..4000"),
    ]
    for holds, rule in rules:
        if not holds:
            raise ExportError(f"dims: {rule}.")
    return dims
