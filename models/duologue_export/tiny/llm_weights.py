"""Tensors of model.safetensors: apm, audio projector, vision tower, resampler, LLM (without the fitted rows) and TTS.

Gains are relative to gain / sqrt(fan_in). Sharpened ones: queries and keys (selective attention, so outputs depend on
the content), attention outputs of LLM and apm (context must be able to overrule the current token)."""

import math

import torch

from duologue_export.tiny.dims import ApmDims, Dims, LlmDims, TtsDims, VisionDims
from duologue_export.tiny.random_tensors import TensorSpec, conv, generator_for, linear, norm

# Codes of the speech tokenizer plus the end-of-speech code (the last one).
TTS_CODES = 6562
# Height of the llama embedding that the TTS never uses: the reference leaves LlamaConfig's default.
LLAMA_VOCAB = 32000
MELS = 80
# Rows of plain text tokens are TEXT_OWN * normal plus one shared direction of deviation TEXT_DIRECTION, which tells
# "inside text" from "after audio"; rows of special tokens are SPECIAL_OWN * normal.
TEXT_OWN = 0.87
TEXT_DIRECTION = 0.86
SPECIAL_OWN = 1.3
# Deviation of the projector's last bias: the direction that all audio rows share, for the same reason.
AUDIO_DIRECTION = 0.8
# A row of lm_head has this norm: logits of text tokens have this deviation.
TEXT_LOGIT_STD = 2.0
# Length of the end-of-speech row of the TTS head; other rows are log-normal around 1.
TTS_EOS_GAIN = 7.75


def apm(d: ApmDims, llm_hidden: int) -> list[TensorSpec]:
    """Whisper-shaped encoder (no bias on k_proj) and the two-layer projector."""
    w = d.hidden
    specs = [*conv("apm.conv1", w, MELS, 3, gain=1.5), *conv("apm.conv2", w, w, 3, gain=1.3)]
    specs.append(TensorSpec("apm.embed_positions.weight", (d.max_positions, w), 0.4))
    for i in range(d.layers):
        p = f"apm.layers.{i}"
        specs += linear(f"{p}.self_attn.k_proj", w, w, 1.8, bias=None)
        specs += linear(f"{p}.self_attn.q_proj", w, w, 1.8)
        specs += linear(f"{p}.self_attn.v_proj", w, w)
        specs += linear(f"{p}.self_attn.out_proj", w, w, 1.5)
        specs += norm(f"{p}.self_attn_layer_norm", w) + norm(f"{p}.final_layer_norm", w)
        specs += linear(f"{p}.fc1", 4 * w, w) + linear(f"{p}.fc2", w, 4 * w, 1.3)
    specs += norm("apm.layer_norm", w)
    specs += linear("audio_projection_layer.linear1", llm_hidden, w, 1.4)
    specs += linear("audio_projection_layer.linear2", llm_hidden, llm_hidden, 2.2, bias=AUDIO_DIRECTION)
    return specs


def vision(d: VisionDims, llm_hidden: int) -> list[TensorSpec]:
    """SigLIP-shaped tower with a 70 x 70 position table, and the resampler at the LLM's width."""
    w, e = d.hidden, llm_hidden
    specs = conv("vpm.embeddings.patch_embedding", w, 3, d.patch, d.patch, gain=1.5)
    specs.append(TensorSpec("vpm.embeddings.position_embedding.weight", (70 * 70, w), 0.5))
    for i in range(d.layers):
        p = f"vpm.encoder.layers.{i}"
        specs += norm(f"{p}.layer_norm1", w) + norm(f"{p}.layer_norm2", w)
        specs += linear(f"{p}.self_attn.q_proj", w, w, 1.6) + linear(f"{p}.self_attn.k_proj", w, w, 1.6)
        specs += linear(f"{p}.self_attn.v_proj", w, w) + linear(f"{p}.self_attn.out_proj", w, w, 1.4)
        specs += linear(f"{p}.mlp.fc1", d.ffn, w) + linear(f"{p}.mlp.fc2", w, d.ffn)
    specs += norm("vpm.post_layernorm", w)
    root = math.sqrt(e)
    specs += [
        TensorSpec("resampler.query", (d.queries, e), 1.0),
        TensorSpec("resampler.proj", (e, e), 1 / root),
        TensorSpec("resampler.attn.in_proj_weight", (3 * e, e), 1.5 / root),
        TensorSpec("resampler.attn.in_proj_bias", (3 * e,), 0.05),
        *linear("resampler.attn.out_proj", e, e, 1.2),
        *linear("resampler.kv_proj", e, w, 1.2, bias=None),
    ]
    return specs + norm("resampler.ln_q", e) + norm("resampler.ln_kv", e) + norm("resampler.ln_post", e)


def llm(d: LlmDims, vocab: int, text_ids: torch.Tensor, seed: int) -> list[TensorSpec]:
    """Qwen3-shaped model. Rows `text_ids` (bool [vocab]) of the embedding share one direction; lm_head rows are
    unfitted."""
    direction = torch.randn(d.hidden, generator=generator_for(seed, "text direction")) * TEXT_DIRECTION

    def shared(first: int, block: torch.Tensor) -> torch.Tensor:
        is_text = text_ids[first : first + len(block), None]
        return torch.where(is_text, TEXT_OWN * block + direction, SPECIAL_OWN * block)

    specs = [TensorSpec("llm.model.embed_tokens.weight", (vocab, d.hidden), 1.0, edit=shared)]
    for i in range(d.layers):
        p = f"llm.model.layers.{i}"
        q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
        specs += linear(f"{p}.self_attn.q_proj", q, d.hidden, bias=None) + linear(
            f"{p}.self_attn.k_proj", kv, d.hidden, bias=None
        )
        specs += linear(f"{p}.self_attn.v_proj", kv, d.hidden, bias=None) + linear(
            f"{p}.self_attn.o_proj", d.hidden, q, 2.2, bias=None
        )
        specs += norm(f"{p}.self_attn.q_norm", d.head_dim, bias=False, mean=1.6) + norm(
            f"{p}.self_attn.k_norm", d.head_dim, bias=False, mean=1.6
        )
        specs += linear(f"{p}.mlp.gate_proj", d.ffn, d.hidden, bias=None) + linear(
            f"{p}.mlp.up_proj", d.ffn, d.hidden, bias=None
        )
        specs += linear(f"{p}.mlp.down_proj", d.hidden, d.ffn, 1.6, bias=None)
        specs += norm(f"{p}.input_layernorm", d.hidden, bias=False) + norm(
            f"{p}.post_attention_layernorm", d.hidden, bias=False
        )
    specs += norm("llm.model.norm", d.hidden, bias=False)
    specs.append(lm_head(d, vocab))
    return specs


def lm_head(d: LlmDims, vocab: int) -> TensorSpec:
    """The untied output matrix before calibration."""
    return TensorSpec("llm.lm_head.weight", (vocab, d.hidden), TEXT_LOGIT_STD / math.sqrt(d.hidden))


def tts(d: TtsDims, llm_hidden: int, text_vocab: int) -> list[TensorSpec]:
    """Llama-shaped TTS with the two projectors and the unused llama embedding of the release. Layers are weak (output
    gains 0.25 and 0.2): codes then follow the condition and the previous code instead of one attractor."""
    w = d.hidden

    def gains(first: int, block: torch.Tensor) -> torch.Tensor:
        block = torch.exp(block)
        if first + len(block) == TTS_CODES:
            block[-1] = TTS_EOS_GAIN
        return block

    specs = [
        TensorSpec("tts.emb_text.weight", (text_vocab, w), 1 / math.sqrt(w)),
        TensorSpec("tts.emb_code.0.weight", (TTS_CODES, w), 1.2 / math.sqrt(w)),
    ]
    specs += [
        TensorSpec("tts.head_code.0.parametrizations.weight.original0", (TTS_CODES, 1), 0.35, edit=gains),
        TensorSpec("tts.head_code.0.parametrizations.weight.original1", (TTS_CODES, w), 1.0),
        TensorSpec("tts.model.embed_tokens.weight", (LLAMA_VOCAB, w), 0.09),
    ]
    for i in range(d.layers):
        p = f"tts.model.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj"):
            specs += linear(f"{p}.self_attn.{part}", w, w, bias=None)
        specs += linear(f"{p}.self_attn.o_proj", w, w, 0.25, bias=None)
        specs += linear(f"{p}.mlp.gate_proj", d.ffn, w, bias=None) + linear(f"{p}.mlp.up_proj", d.ffn, w, bias=None)
        specs += linear(f"{p}.mlp.down_proj", w, d.ffn, 0.2, bias=None)
        specs += norm(f"{p}.input_layernorm", w, bias=False) + norm(f"{p}.post_attention_layernorm", w, bias=False)
    specs += norm("tts.model.norm", w, bias=False)
    for projector in ("projector_semantic", "projector_spk"):
        specs += linear(f"tts.{projector}.linear1", w, llm_hidden, 1.2) + linear(f"tts.{projector}.linear2", w, w, 1.2)
    return specs


def all_specs(dims: Dims, vocab: int, text_vocab: int, text_ids: torch.Tensor, seed: int) -> list[TensorSpec]:
    """Every tensor of model.safetensors, in the order in which it is written."""
    h = dims.llm.hidden
    return [
        *apm(dims.apm, h),
        *vision(dims.vision, h),
        *tts(dims.tts, h, text_vocab),
        *llm(dims.llm, vocab, text_ids, seed),
    ]
