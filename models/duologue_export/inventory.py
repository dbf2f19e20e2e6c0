"""Which tensors the exporter reads, and the shape of each that the configuration asks for.

`require_complete` compares the lists with the files' headers before anything is written: a missing tensor or a wrong
shape is told in the first second of an export that takes an hour. Names are those of the checkpoint with weight
normalisation folded.
"""

import sys

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import ApmDims, DecoderDims, FlowDims, HiftDims, LlmDims, TtsDims, VisionDims
from duologue_export.errors import ExportError
from duologue_export.modules import torch_flow_cfm, torch_hift
from duologue_export.tensors import TensorSource

Shapes = dict[str, tuple[int, ...]]

# In the official checkpoint, but of no use to the duplex loop: the speech model is fed embeddings, and a speaker
# projector exists beside the semantic one that the loop uses.
_UNUSED = ("tts.model.embed_tokens.", "tts.projector_spk.")
# Tables that torch computes; some versions of transformers store them.
_COMPUTED = (".rotary_emb.inv_freq", ".position_ids")
_CFM = "decoder.estimator."


def require_complete(checkpoint: Checkpoint) -> None:
    """Raises `ExportError` for a tensor that is missing, has another shape, or that would change the result but is not
    read (a bias or a layer too many). Other unread tensors are a warning on stderr."""
    wanted, prefixes, unused = llm(checkpoint.llm), ["llm."], list(_UNUSED)
    if checkpoint.has_apm:
        wanted |= apm(checkpoint.apm)
        prefixes += ["apm.", "audio_projection_layer."]
    if checkpoint.has_vision:
        wanted |= vision(checkpoint.vision)
        prefixes += ["vpm.", "resampler."]
        if checkpoint.drops_vision_layer:
            unused.append(f"vpm.encoder.layers.{checkpoint.vision.layers}.")
    if checkpoint.has_tts:
        wanted |= tts(checkpoint.tts)
        prefixes.append("tts.")
    _compare(checkpoint.weights, wanted, tuple(prefixes), tuple(unused))
    if checkpoint.has_tts:
        _compare(checkpoint.flow_weights, flow(checkpoint.flow), ("",), ())
        _compare(checkpoint.hift_weights, hift(checkpoint.hift), ("",), ())


def _compare(source: TensorSource, wanted: Shapes, prefixes: tuple[str, ...], unused: tuple[str, ...]) -> None:
    found = source.folded_shapes()
    for name, shape in wanted.items():
        if name not in found:
            raise source.missing(name)
        if found[name] != shape:
            raise source.wrong_shape(name, found[name], shape)
    unread = [name for name in found if name.startswith(prefixes) and name not in wanted]
    unread = sorted(name for name in unread if not name.startswith(unused) and not name.endswith(_COMPUTED))
    patterns = {_pattern(name) for name in wanted}
    for name in unread:
        is_bias = name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in wanted
        if is_bias or _pattern(name) in patterns:
            raise ExportError(
                f"{source.label}: tensor '{name}' belongs to the network but the configuration has no place for it "
                "(a layer or a bias too many). The weights and the configuration file do not belong together."
            )
    if unread:
        more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
        print(f"warning: {source.label}: not used: {', '.join(unread[:3])}{more}", file=sys.stderr)


def _pattern(name: str) -> str:
    return ".".join("0" if part.isdigit() else part for part in name.split("."))


def _linear(name: str, rows: int, columns: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _conv(name: str, out: int, into: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (out, into, kernel), f"{name}.bias": (out,)}


def _decoder(prefix: str, d: DecoderDims, qk_norm: bool) -> Shapes:
    shapes: Shapes = {f"{prefix}.norm.weight": (d.hidden,)}
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    for layer in range(d.layers):
        name = f"{prefix}.layers.{layer}"
        shapes |= {f"{name}.{part}_layernorm.weight": (d.hidden,) for part in ("input", "post_attention")}
        if qk_norm:
            shapes |= {f"{name}.self_attn.{part}_norm.weight": (d.head_dim,) for part in "qk"}
        for part, rows, columns in (
            ("self_attn.q_proj", q, d.hidden),
            ("self_attn.k_proj", kv, d.hidden),
            ("self_attn.v_proj", kv, d.hidden),
            ("self_attn.o_proj", d.hidden, q),
            ("mlp.gate_proj", d.intermediate, d.hidden),
            ("mlp.up_proj", d.intermediate, d.hidden),
            ("mlp.down_proj", d.hidden, d.intermediate),
        ):
            shapes |= _linear(f"{name}.{part}", rows, columns, bias=False)
    return shapes


def llm(d: LlmDims) -> Shapes:
    """`llm.*`."""
    table = (d.vocab, d.hidden)
    return {
        "llm.model.embed_tokens.weight": table,
        "llm.lm_head.weight": table,
        **_decoder("llm.model", d, qk_norm=True),
    }


def tts(d: TtsDims) -> Shapes:
    """`tts.*` without what the duplex loop has no use for."""
    return {
        "tts.emb_code.0.weight": (d.vocab, d.hidden),
        "tts.head_code.0.weight": (d.vocab, d.hidden),
        "tts.emb_text.weight": (d.text_tokens, d.hidden),
        **_linear("tts.projector_semantic.linear1", d.hidden, d.llm_hidden),
        **_linear("tts.projector_semantic.linear2", d.hidden, d.hidden),
        **_decoder("tts.model", d, qk_norm=False),
    }


def apm(d: ApmDims) -> Shapes:
    """`apm.*` and `audio_projection_layer.*`."""
    shapes = {
        **_conv("apm.conv1", d.hidden, d.mels, 3),
        **_conv("apm.conv2", d.hidden, d.hidden, 3),
        "apm.embed_positions.weight": (d.max_positions, d.hidden),
        **_norm("apm.layer_norm", d.hidden),
        **_linear("audio_projection_layer.linear1", d.llm_hidden, d.hidden),
        **_linear("audio_projection_layer.linear2", d.llm_hidden, d.llm_hidden),
    }
    for layer in range(d.layers):
        name = f"apm.layers.{layer}"
        for part in "qkv":
            shapes |= _linear(f"{name}.self_attn.{part}_proj", d.hidden, d.hidden, bias=part != "k")
        shapes |= _linear(f"{name}.self_attn.out_proj", d.hidden, d.hidden)
        shapes |= _linear(f"{name}.fc1", d.ffn, d.hidden) | _linear(f"{name}.fc2", d.hidden, d.ffn)
        shapes |= _norm(f"{name}.self_attn_layer_norm", d.hidden) | _norm(f"{name}.final_layer_norm", d.hidden)
    return shapes


def vision(d: VisionDims) -> Shapes:
    """`vpm.*` and `resampler.*`."""
    wide = d.llm_hidden
    shapes = {
        "vpm.embeddings.patch_embedding.weight": (d.hidden, 3, d.patch, d.patch),
        "vpm.embeddings.patch_embedding.bias": (d.hidden,),
        "vpm.embeddings.position_embedding.weight": (d.grid * d.grid, d.hidden),
        **_norm("vpm.post_layernorm", d.hidden),
        "resampler.query": (d.queries, wide),
        "resampler.proj": (wide, wide),
        "resampler.attn.in_proj_weight": (3 * wide, wide),
        "resampler.attn.in_proj_bias": (3 * wide,),
        **_linear("resampler.attn.out_proj", wide, wide),
        **_linear("resampler.kv_proj", wide, d.hidden, bias=False),
    }
    for part in ("q", "kv", "post"):
        shapes |= _norm(f"resampler.ln_{part}", wide)
    for layer in range(d.layers):
        name = f"vpm.encoder.layers.{layer}"
        for part in ("q", "k", "v", "out"):
            shapes |= _linear(f"{name}.self_attn.{part}_proj", d.hidden, d.hidden)
        shapes |= _linear(f"{name}.mlp.fc1", d.intermediate, d.hidden)
        shapes |= _linear(f"{name}.mlp.fc2", d.hidden, d.intermediate)
        shapes |= _norm(f"{name}.layer_norm1", d.hidden) | _norm(f"{name}.layer_norm2", d.hidden)
    return shapes


def flow(d: FlowDims) -> Shapes:
    """flow.pt."""
    w = d.width
    shapes = {
        "input_embedding.weight": (d.vocab, d.input_size),
        **_linear("spk_embed_affine_layer", d.mel, d.spk),
        **_linear("encoder_proj", d.mel, w),
        **_linear("encoder.embed.out.0", w, d.input_size),
        **_norm("encoder.embed.out.1", w),
        **_conv("encoder.pre_lookahead_layer.conv1", w, w, d.lookahead + 1),
        **_conv("encoder.pre_lookahead_layer.conv2", w, w, 3),
        **_conv("encoder.up_layer.conv", w, w, 2 * d.up + 1),
        **_linear("encoder.up_embed.out.0", w, w),
        **_norm("encoder.up_embed.out.1", w),
        **_norm("encoder.after_norm", w),
    }
    for group, layers in (("encoders", d.blocks), ("up_encoders", d.up_blocks)):
        for layer in range(layers):
            name = f"encoder.{group}.{layer}"
            for part in ("q", "k", "v", "out", "pos"):
                shapes |= _linear(f"{name}.self_attn.linear_{part}", w, w, bias=part != "pos")
            shapes |= {f"{name}.self_attn.pos_bias_{side}": (d.heads, d.head_dim) for side in "uv"}
            shapes |= _linear(f"{name}.feed_forward.w_1", d.linear_units, w)
            shapes |= _linear(f"{name}.feed_forward.w_2", w, d.linear_units)
            shapes |= _norm(f"{name}.norm_mha", w) | _norm(f"{name}.norm_ff", w)
    return shapes | _estimator(d)


def _estimator(d: FlowDims) -> Shapes:
    w, inner, mlp = d.dit_width, d.dit_heads * d.dit_head_dim, int(d.dit_width * d.mlp_ratio)
    shapes = {
        **_linear(f"{_CFM}in_proj", w, d.dit_channels),
        **_linear(f"{_CFM}t_embedder.mlp.0", w, torch_flow_cfm.FREQUENCIES),
        **_linear(f"{_CFM}t_embedder.mlp.2", w, w),
        **_linear(f"{_CFM}final_layer.adaLN_modulation.1", 2 * w, w),
        **_linear(f"{_CFM}final_layer.linear", d.mel, w),
    }
    for layer in range(d.dit_layers):
        name = f"{_CFM}blocks.{layer}"
        shapes |= _linear(f"{name}.adaLN_modulation.1", 9 * w, w)
        for part in "qkv":
            shapes |= _linear(f"{name}.attn.to_{part}", inner, w)
        shapes |= _norm(f"{name}.attn.q_norm", d.dit_head_dim) | _norm(f"{name}.attn.k_norm", d.dit_head_dim)
        shapes |= _linear(f"{name}.attn.proj", w, inner)
        shapes |= _conv(f"{name}.conv.block.1", w, w, torch_flow_cfm.KERNEL)
        shapes |= _conv(f"{name}.conv.block.6", w, w, torch_flow_cfm.KERNEL)
        shapes |= _norm(f"{name}.conv.block.3", w)
        shapes |= _linear(f"{name}.mlp.fc1", mlp, w) | _linear(f"{name}.mlp.fc2", w, mlp)
    return shapes


def hift(d: HiftDims) -> Shapes:
    """hift.pt, weight normalisation folded."""
    spec, bins = torch_hift, torch_hift.N_FFT + 2
    shapes = {
        **_conv("conv_pre", d.base_channels, d.mel, 7),
        **_linear("m_source.l_linear", 1, d.harmonics + 1),
        **_linear("f0_predictor.classifier", 1, d.f0_channels),
    }
    for layer in spec.F0_CONVS:
        shapes |= _conv(f"f0_predictor.condnet.{layer}", d.f0_channels, d.f0_channels if layer else d.mel, 3)
    for stage, (kernel, stride) in enumerate(zip(spec.UP_KERNELS, spec.source_strides(), strict=True)):
        width = d.base_channels >> (stage + 1)
        # Transposed convolutions are stored input channels first.
        shapes |= {f"ups.{stage}.weight": (2 * width, width, kernel), f"ups.{stage}.bias": (width,)}
        shapes |= _conv(f"source_downs.{stage}", width, bins, 2 * stride if stride > 1 else 1)
        shapes |= _resblock(f"source_resblocks.{stage}", width, spec.SOURCE_KERNELS[stage])
        for index, size in enumerate(spec.RESBLOCK_KERNELS):
            shapes |= _resblock(f"resblocks.{stage * len(spec.RESBLOCK_KERNELS) + index}", width, size)
    return shapes | _conv("conv_post", bins, d.base_channels >> len(spec.RATES), 7)


def _resblock(name: str, width: int, kernel: int) -> Shapes:
    shapes: Shapes = {}
    for index in range(len(torch_hift.DILATIONS)):
        for part in ("1", "2"):
            shapes |= _conv(f"{name}.convs{part}.{index}", width, width, kernel)
            shapes[f"{name}.activations{part}.{index}.alpha"] = (width,)
    return shapes
