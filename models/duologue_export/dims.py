"""Sizes of every sub-module. Values that config.json may leave out take the defaults of the reference's configuration
classes."""

from dataclasses import dataclass

from duologue_export.errors import ExportError
from duologue_export.tensors import TensorSource

# The audio encoder's frames after its second convolution, 20 ms each.
_FRAMES_PER_SECOND = 50
# Fixed by the reference (modeling_minicpmo_unified.py:253).
RESAMPLER_HEAD_DIM = 128


def _need(section: dict, key: str, where: str):
    if section.get(key) is None:
        raise ExportError(f"{where}: '{key}' is missing. Use the configuration file that came with the weights.")
    return section[key]


def _divide(total: int, parts: int, what: str) -> int:
    if parts < 1 or total % parts:
        raise ExportError(f"{what}: {total} is not divisible by {parts} heads.")
    return total // parts


def _only(section: dict, where: str, **wanted) -> None:
    """Refuses settings that mean another network than the one the graphs compute; a missing entry is the default."""
    for key, value in wanted.items():
        if section.get(key, value) != value:
            raise ExportError(f"{where}: {key} is {section[key]!r}, supported is {value!r}.")


@dataclass(frozen=True)
class DecoderDims:
    """What the step graph builder needs of a Llama-shaped decoder."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rms_eps: float
    rope_theta: float
    max_positions: int


@dataclass(frozen=True)
class LlmDims(DecoderDims):
    """Qwen3 (transformers Qwen3Config defaults: rope_theta 10000, rms_norm_eps 1e-6, head_dim 128)."""

    @classmethod
    def read(cls, config: dict) -> "LlmDims":
        """From the top level of config.json."""
        where = "config.json"
        if config.get("rope_scaling"):
            raise ExportError("config.json: rope_scaling is set; the step graph knows plain rotary positions only.")
        if config.get("tie_word_embeddings"):
            raise ExportError("config.json: tie_word_embeddings is true; MiniCPM-o 4.5 has a separate lm_head.")
        _only(config, where, attention_bias=False, use_sliding_window=False, hidden_act="silu")
        heads = _need(config, "num_attention_heads", where)
        kv_heads = config.get("num_key_value_heads") or heads
        _divide(heads, kv_heads, f"{where}: num_attention_heads over num_key_value_heads")
        return cls(
            hidden=_need(config, "hidden_size", where),
            layers=_need(config, "num_hidden_layers", where),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=config.get("head_dim") or 128,
            intermediate=_need(config, "intermediate_size", where),
            vocab=_need(config, "vocab_size", where),
            rms_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=float(config.get("rope_theta", 10000.0)),
            max_positions=config.get("max_position_embeddings", 32768),
        )


# Codes of a unit: generate_chunk takes 26 steps and discards the last sample (modeling_minicpmo_unified.py:6711).
UNIT_CODES = 25


@dataclass(frozen=True)
class TtsDims(DecoderDims):
    """Llama of the speech tokens. The reference never passes rope_theta nor rms_norm_eps on, so LlamaConfig's defaults
    hold."""

    text_tokens: int
    audio_bos: int
    text_eos: int
    llm_hidden: int
    # Codes of a turn's first unit: more than of the others where a checkpoint was taught to begin ahead of the units.
    first_unit_codes: int

    @property
    def eos(self) -> int:
        """End-of-speech code: the last one."""
        return self.vocab - 1

    @classmethod
    def read(cls, config: dict) -> "TtsDims":
        """From `tts_config` of config.json, defaults of configuration_minicpmo.py:69-117."""
        section = _need(config, "tts_config", "config.json")
        where = "config.json tts_config"
        _only(section, where, backbone_model="llama", num_vq=1, projector_type="mlp", hidden_act="silu")
        hidden, heads = section.get("hidden_size", 768), section.get("num_attention_heads", 12)
        kv_heads = section.get("num_key_value_heads", 12)
        _divide(heads, kv_heads, f"{where}: num_attention_heads over num_key_value_heads")
        return cls(
            hidden=hidden,
            layers=section.get("num_hidden_layers", 20),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=_divide(hidden, heads, f"{where}: hidden_size"),
            intermediate=section.get("intermediate_size", 3072),
            vocab=section.get("num_audio_tokens", 4097),
            rms_eps=1e-6,
            rope_theta=10000.0,
            max_positions=section.get("max_position_embeddings", 4096),
            text_tokens=section.get("num_text_tokens", 21178),
            audio_bos=section.get("audio_bos_token_id", 21132),
            text_eos=section.get("text_eos_token_id", 21133),
            llm_hidden=section.get("llm_dim", 2560),
            first_unit_codes=section.get("first_unit_codes", UNIT_CODES),
        )


@dataclass(frozen=True)
class ApmDims:
    """Whisper encoder, projector and pool."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    ffn: int
    mels: int
    max_positions: int
    pool: int
    # Frames of 20 ms in one block of a voice prompt's attention mask.
    mask_frames: int
    llm_hidden: int

    @classmethod
    def read(cls, config: dict) -> "ApmDims":
        """From `audio_config` of config.json."""
        where = "config.json audio_config"
        section = _need(config, "audio_config", "config.json")
        _only(section, where, activation_function="gelu")
        hidden, heads = _need(section, "d_model", where), _need(section, "encoder_attention_heads", where)
        return cls(
            hidden=hidden,
            layers=_need(section, "encoder_layers", where),
            heads=heads,
            head_dim=_divide(hidden, heads, f"{where}: d_model"),
            ffn=_need(section, "encoder_ffn_dim", where),
            mels=section.get("num_mel_bins", 80),
            max_positions=section.get("max_source_positions", 1500),
            pool=config.get("audio_pool_step", 5),
            mask_frames=int(config.get("audio_chunk_length", 1.0) * _FRAMES_PER_SECOND),
            llm_hidden=_need(config, "hidden_size", "config.json"),
        )


@dataclass(frozen=True)
class VisionDims:
    """SigLIP encoder (without the dropped last layer) and the resampler."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    intermediate: int
    patch: int
    grid: int
    eps: float
    queries: int
    resampler_heads: int
    llm_hidden: int
    image: int
    max_slices: int
    mean: float
    std: float

    @classmethod
    def read(cls, config: dict, preprocessor: dict, weights: TensorSource) -> "VisionDims":
        """From `vision_config` and the image processor's file; `grid` from the position table in the weights."""
        default = {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
        }
        section = {**default, **(config.get("vision_config") or {})}
        _only(section, "config.json vision_config", hidden_act="gelu_pytorch_tanh")
        hidden, heads = section["hidden_size"], section["num_attention_heads"]
        positions = weights.shape("vpm.embeddings.position_embedding.weight")[0]
        grid = round(positions**0.5)
        if grid * grid != positions:
            raise ExportError(f"{weights.label}: the vision position table has {positions} rows, which is no square.")
        llm_hidden = _need(config, "hidden_size", "config.json")
        if llm_hidden % RESAMPLER_HEAD_DIM:
            raise ExportError(
                f"config.json: hidden_size {llm_hidden} is no multiple of {RESAMPLER_HEAD_DIM} (resampler)."
            )
        mean, std = preprocessor.get("norm_mean", [0.5] * 3), preprocessor.get("norm_std", [0.5] * 3)
        if len(set(mean)) != 1 or len(set(std)) != 1:
            raise ExportError(
                "preprocessor_config.json: norm_mean / norm_std differ per channel, which is not supported."
            )
        return cls(
            hidden=hidden,
            # The last layer is dropped at construction (modeling_minicpmo_unified.py:225), so its weights are not in
            # the file.
            layers=section["num_hidden_layers"] - (1 if config.get("drop_vision_last_layer", True) else 0),
            heads=heads,
            head_dim=_divide(hidden, heads, "config.json vision_config: hidden_size"),
            intermediate=section["intermediate_size"],
            patch=section["patch_size"],
            grid=grid,
            eps=section.get("layer_norm_eps", 1e-6),
            queries=config.get("query_num", 64),
            resampler_heads=llm_hidden // RESAMPLER_HEAD_DIM,
            llm_hidden=llm_hidden,
            image=preprocessor.get("scale_resolution", 448),
            max_slices=preprocessor.get("max_slice_nums", 9),
            mean=float(mean[0]),
            std=float(std[0]),
        )


@dataclass(frozen=True)
class FlowDims:
    """Flow matching: conformer encoder with up-sampling, and the DiT estimator."""

    width: int
    mel: int
    spk: int
    vocab: int
    input_size: int
    lookahead: int
    blocks: int
    up_blocks: int
    up: int
    heads: int
    head_dim: int
    linear_units: int
    cfg_rate: float
    dit_channels: int
    dit_layers: int
    dit_heads: int
    dit_head_dim: int
    dit_width: int
    mlp_ratio: float
    # Euler steps: Token2wav(n_timesteps=5), modeling_minicpmo_unified.py:275; not part of any configuration file.
    steps: int = 5

    @classmethod
    def read(cls, flow: dict) -> "FlowDims":
        """From the parsed flow.yaml; class names are checked because other classes mean another network."""
        where = "flow.yaml"
        encoder, decoder = _need(flow, "encoder", where), _need(flow, "decoder", where)
        estimator = _need(decoder, "estimator", f"{where} decoder")
        for section, wanted in (
            (flow, "CausalMaskedDiffWithXvec"),
            (encoder, "UpsampleConformerEncoderV2"),
            (decoder, "CausalConditionalCFM"),
            (estimator, "DiT"),
        ):
            if section.get("class", "").split(".")[-1] != wanted:
                raise ExportError(f"{where}: found class {section.get('class')!r} where {wanted} is supported.")
        _only(encoder, f"{where} encoder", key_bias=True, normalize_before=True, input_layer="linear")
        width, heads, mel = (
            encoder.get("output_size", 256),
            encoder.get("attention_heads", 4),
            flow.get("output_size", 80),
        )
        # in_proj sees noise, mu, speaker and prompt side by side.
        channels = _need(estimator, "in_channels", f"{where} estimator")
        if channels != 4 * mel:
            raise ExportError(f"{where} estimator: in_channels is {channels}, expected 4 x output_size = {4 * mel}.")
        return cls(
            width=width,
            mel=mel,
            spk=flow.get("spk_embed_dim", 192),
            vocab=flow.get("vocab_size", 5121),
            input_size=flow.get("input_size", 512),
            lookahead=encoder.get("pre_lookahead_len", 3),
            blocks=encoder.get("num_blocks", 6),
            up_blocks=encoder.get("num_up_blocks", 4),
            up=encoder.get("up_stride", 2),
            heads=heads,
            head_dim=_divide(width, heads, f"{where} encoder: output_size"),
            linear_units=encoder.get("linear_units", 2048),
            cfg_rate=float(decoder.get("inference_cfg_rate", 0.7)),
            dit_channels=channels,
            dit_layers=estimator.get("depth", 28),
            dit_heads=estimator.get("num_heads", 8),
            dit_head_dim=estimator.get("head_dim", 64),
            dit_width=estimator.get("hidden_size", 256),
            mlp_ratio=float(estimator.get("mlp_ratio", 4.0)),
        )


@dataclass(frozen=True)
class HiftDims:
    """Vocoder widths; the rest (strides, kernels, harmonics) is fixed by the class in minicpmo-utils 1.0.5
    hifigan.py."""

    base_channels: int
    f0_channels: int
    mel: int
    harmonics: int

    @classmethod
    def read(cls, weights: TensorSource) -> "HiftDims":
        """From the shapes in hift.pt, for either spelling of weight normalisation."""
        for spelling in ("parametrizations.weight.original1", "weight_v", "weight"):
            if f"conv_pre.{spelling}" in weights.names("conv_pre."):
                base, mel, kernel = weights.shape(f"conv_pre.{spelling}")
                break
        else:
            raise ExportError(f"{weights.label}: no conv_pre weight; this is not the HiFT of minicpmo-utils 1.0.5.")
        if kernel != 7:
            raise ExportError(
                f"{weights.label}: conv_pre has kernel {kernel}, the HiFT of minicpmo-utils 1.0.5 has 7; "
                "the causal HiFT of newer versions is not supported."
            )
        return cls(
            base_channels=base,
            f0_channels=weights.shape("f0_predictor.classifier.weight")[1],
            mel=mel,
            harmonics=weights.shape("m_source.l_linear.weight")[1] - 1,
        )
