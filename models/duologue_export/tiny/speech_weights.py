"""Tensors of assets/token2wav: flow.pt, hift.pt, and the text of flow.yaml.

Gains are relative to 1 / sqrt(fan_in). HiFT: up-sampling keeps the power of its input, resblocks add a little, and
conv_post is biased down, because its output is exponentiated: together speech has an RMS of some hundredths. The pitch
classifier is centred at 120 Hz with a spread of the same size, so most frames are voiced and some are not."""

import math

import torch

from duologue_export.tiny.dims import FlowDims, HiftDims
from duologue_export.tiny.random_tensors import TensorSpec, conv, linear, norm

MELS = 80
SPEAKER = 192
CODES = 6561
# Gates of the DiT's adaLN (third of each shift, scale, gate group) start at 0.4 instead of 0, so that every branch
# contributes.
DIT_GATE = 0.4
# Fixed by the HiFT class of minicpmo-utils 1.0.5 (hifigan.py): strides and kernels of the stages, kernels and
# dilations of resblocks.
UP_STRIDES, UP_KERNELS = (8, 5, 3), (16, 11, 7)
SOURCE_KERNELS, SOURCE_STRIDES = (7, 7, 11), (15, 3, 1)
RESBLOCK_KERNELS, DILATIONS = (3, 7, 11), 3
HARMONICS = 9
STFT_ROWS = 18


def flow(d: FlowDims) -> list[TensorSpec]:
    """State dict of flow.pt."""
    w = d.width
    specs = [
        TensorSpec("input_embedding.weight", (CODES, w), 0.5),
        *linear("spk_embed_affine_layer", MELS, SPEAKER, 4.0),
    ]
    specs += linear("encoder.embed.out.0", w, w) + norm("encoder.embed.out.1", w) + norm("encoder.after_norm", w)
    specs += conv("encoder.pre_lookahead_layer.conv1", w, w, 4) + conv("encoder.pre_lookahead_layer.conv2", w, w, 3)
    for i in range(d.blocks):
        specs += _conformer_layer(f"encoder.encoders.{i}", d)
    specs += (
        conv("encoder.up_layer.conv", w, w, 5)
        + linear("encoder.up_embed.out.0", w, w)
        + norm("encoder.up_embed.out.1", w)
    )
    for i in range(d.up_blocks):
        specs += _conformer_layer(f"encoder.up_encoders.{i}", d)
    specs += linear("encoder_proj", MELS, w, 1.2)
    return specs + _estimator("decoder.estimator", d)


def _conformer_layer(p: str, d: FlowDims) -> list[TensorSpec]:
    w, head = d.width, (d.heads, d.width // d.heads)
    specs = [TensorSpec(f"{p}.self_attn.pos_bias_u", head, 0.12), TensorSpec(f"{p}.self_attn.pos_bias_v", head, 0.12)]
    for part in ("linear_q", "linear_k", "linear_v", "linear_out"):
        specs += linear(f"{p}.self_attn.{part}", w, w)
    specs += linear(f"{p}.self_attn.linear_pos", w, w, bias=None)
    specs += linear(f"{p}.feed_forward.w_1", d.ffn, w) + linear(f"{p}.feed_forward.w_2", w, d.ffn)
    return specs + norm(f"{p}.norm_ff", w) + norm(f"{p}.norm_mha", w)


def _estimator(p: str, d: FlowDims) -> list[TensorSpec]:
    w, inner, ffn = d.dit_width, d.dit_heads * d.dit_head_dim, int(d.dit_width * d.dit_mlp_ratio)
    specs = (
        linear(f"{p}.t_embedder.mlp.0", w, 256)
        + linear(f"{p}.t_embedder.mlp.2", w, w)
        + linear(f"{p}.in_proj", w, 4 * MELS)
    )

    def gates(_: int, bias: torch.Tensor) -> torch.Tensor:
        bias.view(9, w)[2::3] += DIT_GATE
        return bias

    for i in range(d.dit_depth):
        b = f"{p}.blocks.{i}"
        for part in ("to_q", "to_k", "to_v"):
            specs += linear(f"{b}.attn.{part}", inner, w)
        specs += (
            norm(f"{b}.attn.q_norm", d.dit_head_dim)
            + norm(f"{b}.attn.k_norm", d.dit_head_dim)
            + linear(f"{b}.attn.proj", w, inner)
        )
        specs += linear(f"{b}.mlp.fc1", ffn, w) + linear(f"{b}.mlp.fc2", w, ffn)
        specs += conv(f"{b}.conv.block.1", w, w, 3) + norm(f"{b}.conv.block.3", w) + conv(f"{b}.conv.block.6", w, w, 3)
        specs.append(TensorSpec(f"{b}.adaLN_modulation.1.weight", (9 * w, w), 0.3 / math.sqrt(w)))
        specs.append(TensorSpec(f"{b}.adaLN_modulation.1.bias", (9 * w,), 0.05, edit=gates))
    specs += linear(f"{p}.final_layer.adaLN_modulation.1", 2 * w, w, 0.3)
    return specs + linear(f"{p}.final_layer.linear", MELS, w, 0.8)


def hift(d: HiftDims) -> list[TensorSpec]:
    """State dict of hift.pt (weight norm as parametrizations, no `generator.` prefix)."""
    specs = [
        TensorSpec("m_source.l_linear.weight", (1, HARMONICS), 0.5),
        TensorSpec("m_source.l_linear.bias", (1,), 0.05),
    ]
    specs += _weight_norm("conv_pre", (d.base, MELS, 7), 1.0, d.base)
    for i, (stride, kernel) in enumerate(zip(UP_STRIDES, UP_KERNELS, strict=True)):
        before, after = d.base >> i, d.base >> (i + 1)
        # Transposed convolution: each output sample sums before * kernel / stride products; the norm runs over the
        # other two axes.
        specs += _weight_norm(f"ups.{i}", (before, after, kernel), math.sqrt(after * stride / before), after)
        step = SOURCE_STRIDES[i]
        specs += conv(f"source_downs.{i}", after, STFT_ROWS, 2 * step if step > 1 else 1, gain=3.0)
        specs += _resblock(f"source_resblocks.{i}", after, SOURCE_KERNELS[i])
        for j, size in enumerate(RESBLOCK_KERNELS):
            specs += _resblock(f"resblocks.{len(RESBLOCK_KERNELS) * i + j}", after, size)
    last = d.base >> len(UP_STRIDES)

    def log_magnitude(_: int, bias: torch.Tensor) -> torch.Tensor:
        bias[: STFT_ROWS // 2] -= 1.5
        return bias

    specs += _weight_norm("conv_post", (STFT_ROWS, last, 7), 0.6, STFT_ROWS)
    specs[-1] = TensorSpec("conv_post.bias", (STFT_ROWS,), 0.05, edit=log_magnitude)
    for i in range(5):
        specs += _weight_norm(
            f"f0_predictor.condnet.{2 * i}", (d.f0_width, MELS if i == 0 else d.f0_width, 3), 1.0, d.f0_width
        )
    specs.append(TensorSpec("f0_predictor.classifier.weight", (1, d.f0_width), 184 / math.sqrt(d.f0_width)))
    specs.append(TensorSpec("f0_predictor.classifier.bias", (1,), 1.0, mean=120.0))
    return specs


def _resblock(p: str, channels: int, kernel: int) -> list[TensorSpec]:
    specs = []
    for i in range(DILATIONS):
        specs += _weight_norm(f"{p}.convs1.{i}", (channels, channels, kernel), 0.55, channels)
        specs += _weight_norm(f"{p}.convs2.{i}", (channels, channels, kernel), 0.55, channels)
        # Snake divides by alpha, so it stays away from zero.
        for part in ("activations1", "activations2"):
            specs.append(
                TensorSpec(f"{p}.{part}.{i}.alpha", (channels,), 0.15, mean=1.2, edit=lambda _, a: a.clamp(0.8, 1.6))
            )
    return specs


def _weight_norm(p: str, shape: tuple[int, ...], gain: float, bias: int) -> list[TensorSpec]:
    """Direction `original1` (any length), row norms `original0` around `gain`, and the bias."""
    return [
        TensorSpec(f"{p}.parametrizations.weight.original0", (shape[0], 1, 1), 0.04 * gain, mean=gain),
        TensorSpec(f"{p}.parametrizations.weight.original1", shape, 1.0),
        TensorSpec(f"{p}.bias", (bias,), 0.05),
    ]


def flow_yaml(d: FlowDims) -> str:
    """flow.yaml with the release's class names (token2wav.py:17-53 reads it through hyperpyyaml)."""
    return f"""\
flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec
    input_size: {d.width}
    output_size: {MELS}
    spk_embed_dim: {SPEAKER}
    output_type: mel
    vocab_size: {CODES}
    encoder: !new:cosyvoice2.transformer.upsample_encoder_v2.UpsampleConformerEncoderV2
        input_size: {d.width}
        output_size: {d.width}
        input_layer: linear
        pre_lookahead_len: 3
        num_blocks: {d.blocks}
        num_up_blocks: {d.up_blocks}
        up_stride: 2
        up_scale_factor: 2
        attention_heads: {d.heads}
        pos_enc_layer_type: rel_pos_espnet
        selfattention_layer_type: rel_selfattn
        key_bias: true
        linear_units: {d.ffn}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: true
    decoder: !new:cosyvoice2.flow.flow_matching.CausalConditionalCFM
        inference_cfg_rate: 0.7
        estimator: !new:cosyvoice2.flow.decoder_dit.DiT
            in_channels: {4 * MELS}
            out_channels: {MELS}
            mlp_ratio: {d.dit_mlp_ratio}
            depth: {d.dit_depth}
            num_heads: {d.dit_heads}
            head_dim: {d.dit_head_dim}
            hidden_size: {d.dit_width}
"""
