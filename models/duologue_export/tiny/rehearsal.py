"""Plays a short duplex session on the random weights, in plain torch: the calibration looks at its hidden states and
decisions.

Written independently of `duologue_export.modules`, which would need a checkpoint on disk; only what calibration needs
is here."""

import math

import torch
import torch.nn.functional as F

from duologue_export.synthetic import speech_mel
from duologue_export.tiny.dims import Dims
from duologue_export.tiny.random_tensors import TensorSpec
from duologue_export.tiny.vocabulary import Vocabulary

# Situations in which a logit row is read: after the audio rows of a unit, inside text, after turn_eos.
AUDIO, TEXT, END = range(3)
UNITS = 20
REFERENCE_SECONDS = 4
PROMPT_WORDS = 8
# As in the duplex loop: at most this many decisions per unit, penalties of the decoder (utils.py:2143-2162).
MAX_TOKENS = 19
REPETITION_PENALTY = 1.05
LENGTH_PENALTY = 1.1
SPOKEN_EVENTS = ("<|chunk_eos|>", "<|chunk_tts_eos|>", "<|turn_eos|>")


class Rehearsal:
    """Apm, projector and LLM of one set of weights; `weights` are rounded to the stored type so that decisions are the
    file's."""

    def __init__(self, dims: Dims, vocabulary: Vocabulary, specs: list[TensorSpec], seed: int, dtype: torch.dtype):
        self._dims, self._vocabulary = dims, vocabulary
        self._w = {
            s.name: s.tensor(seed).to(dtype).float()
            for s in specs
            if s.name.startswith(("apm.", "audio_projection", "llm."))
        }

    @property
    def lm_head(self) -> torch.Tensor:
        """The output matrix [rows, hidden] before calibration."""
        return self._w["llm.lm_head.weight"]

    def play(
        self, head: torch.Tensor | None, generator: torch.Generator
    ) -> tuple[list[torch.Tensor], dict[str, list[int]]]:
        """One session, with greedy decisions by `head`, or with random ones when it is None.

        -> hidden states [n, width] per situation, and [times chosen, times possible] of listen (after audio) and of
        each end of speech."""
        ids, head_ids = self._vocabulary.ids, self._vocabulary.text_ids
        states: list[list[torch.Tensor]] = [[], [], []]
        counts = {token: [0, 0] for token in ("<|listen|>", *SPOKEN_EVENTS)}
        seen: set[int] = set()
        cache: list = [None] * self._dims.llm.layers
        random_words = torch.randint(len(head_ids), (PROMPT_WORDS,), generator=generator).tolist()
        prompt = [ids["<|im_start|>"], *(head_ids[i] for i in random_words), ids["<|audio_start|>"]]
        reference = self._audio_rows(speech_mel(100 * REFERENCE_SECONDS, generator))
        self._llm(
            torch.cat([self._rows(*prompt), reference, self._rows(ids["<|audio_end|>"], ids["<|im_end|>"])]), cache
        )
        heard = self._audio_rows(speech_mel(100 * UNITS, generator)).reshape(UNITS, -1, self._dims.llm.hidden)
        speaking = False
        for unit in heard:
            hidden = self._llm(torch.cat([self._rows(ids["<unit>"]), unit]), cache)
            situation, terminator = AUDIO, ids["<|chunk_eos|>"]
            for _ in range(MAX_TOKENS):
                states[situation].append(hidden)
                token = self._random(situation, generator) if head is None else self._greedy(head @ hidden, seen)
                for name in ("<|listen|>",) if situation == AUDIO else SPOKEN_EVENTS if situation == TEXT else ():
                    counts[name][0] += token == ids[name]
                    counts[name][1] += 1
                if token == ids["<|listen|>"] and speaking:
                    token = ids["<|tts_bos|>"]
                if token in (ids["<|listen|>"], ids["<|chunk_eos|>"], ids["<|chunk_tts_eos|>"]):
                    terminator = token
                    break
                speaking = token != ids["<|turn_eos|>"]
                situation = TEXT if speaking else END
                hidden = self._llm(self._rows(token), cache)
            self._llm(self._rows(terminator, ids["</unit>"]), cache)
        return [torch.stack(s) if s else torch.zeros(0, self._dims.llm.hidden) for s in states], counts

    def _random(self, situation: int, generator: torch.Generator) -> int:
        ids = self._vocabulary.ids
        draw = float(torch.rand((), generator=generator))
        if situation == AUDIO:
            return ids["<|listen|>" if draw < 0.5 else "<|speak|>"]
        if situation == END or draw < 0.1:
            return ids["<|chunk_eos|>"]
        if draw < 0.14:
            return ids["<|turn_eos|>"]
        return self._vocabulary.text_ids[int(torch.randint(len(self._vocabulary.text_ids), (), generator=generator))]

    def _greedy(self, logits: torch.Tensor, seen: set[int]) -> int:
        """The decoder's greedy rule: a raw chunk_eos wins at once, else penalties, forbidden tokens and the best of
        the rest."""
        ids = self._vocabulary.ids
        if int(logits.argmax()) == ids["<|chunk_eos|>"]:
            return ids["<|chunk_eos|>"]
        logits[list(seen)] /= REPETITION_PENALTY
        end = ids["<|turn_eos|>"]
        logits[end] = logits[end] / LENGTH_PENALTY if logits[end] > 0 else logits[end] * LENGTH_PENALTY
        logits[[ids["<|chunk_eos|>"], ids["<|tts_pad|>"]]] = -math.inf
        token = int(logits.argmax())
        seen.add(token)
        return token

    def _rows(self, *tokens: int) -> torch.Tensor:
        return self._w["llm.model.embed_tokens.weight"][list(tokens)]

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self._w[f"{name}.weight"], self._w.get(f"{name}.bias"))

    def _audio_rows(self, mel: torch.Tensor) -> torch.Tensor:
        """mel [80, F] -> rows [F / 2 / pool, hidden]: the audio encoder over the whole input at once, then projector
        and pool."""
        d = self._dims.apm

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, x.shape[-1:], self._w[f"{name}.weight"], self._w[f"{name}.bias"])

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.reshape(len(x), d.heads, -1).transpose(0, 1)

        x = F.gelu(F.conv1d(mel[None], self._w["apm.conv1.weight"], self._w["apm.conv1.bias"], padding=1))
        x = F.gelu(F.conv1d(x, self._w["apm.conv2.weight"], self._w["apm.conv2.bias"], stride=2, padding=1))[0].T
        x = x + self._w["apm.embed_positions.weight"][: len(x)]
        for i in range(d.layers):
            p = f"apm.layers.{i}"
            n = norm(x, f"{p}.self_attn_layer_norm")
            q, k, v = (heads(self._linear(n, f"{p}.self_attn.{part}_proj")) for part in "qkv")
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
            x = x + self._linear(mixed, f"{p}.self_attn.out_proj")
            x = x + self._linear(F.gelu(self._linear(norm(x, f"{p}.final_layer_norm"), f"{p}.fc1")), f"{p}.fc2")
        x = F.relu(self._linear(norm(x, "apm.layer_norm"), "audio_projection_layer.linear1"))
        x = self._linear(x, "audio_projection_layer.linear2")
        return x[: len(x) // d.pool * d.pool].reshape(-1, d.pool, x.shape[-1]).mean(1)

    def _llm(self, x: torch.Tensor, cache: list) -> torch.Tensor:
        """Feeds rows x [T, hidden] after what `cache` holds (grown in place); returns the last state after the final
        norm."""
        d = self._dims.llm
        half = d.head_dim // 2
        past = 0 if cache[0] is None else cache[0][0].shape[1]
        angles = torch.outer(
            torch.arange(past, past + len(x)).float(), d.rope_theta ** (-torch.arange(half).float() / half)
        )
        cos, sin = angles.cos(), angles.sin()
        mask = torch.ones(len(x), past + len(x), dtype=torch.bool).tril(past)

        def norm(y: torch.Tensor, name: str) -> torch.Tensor:
            return F.rms_norm(y, y.shape[-1:], self._w[f"{name}.weight"], eps=1e-6)

        def heads(y: torch.Tensor, count: int) -> torch.Tensor:
            return y.reshape(len(y), count, d.head_dim).transpose(0, 1)

        def rotated(y: torch.Tensor) -> torch.Tensor:
            low, high = y[..., :half], y[..., half:]
            return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)

        for i in range(d.layers):
            p = f"llm.model.layers.{i}"
            n = norm(x, f"{p}.input_layernorm")
            q = rotated(norm(heads(self._linear(n, f"{p}.self_attn.q_proj"), d.heads), f"{p}.self_attn.q_norm"))
            k = rotated(norm(heads(self._linear(n, f"{p}.self_attn.k_proj"), d.kv_heads), f"{p}.self_attn.k_norm"))
            v = heads(self._linear(n, f"{p}.self_attn.v_proj"), d.kv_heads)
            if cache[i] is not None:
                k, v = torch.cat([cache[i][0], k], dim=1), torch.cat([cache[i][1], v], dim=1)
            cache[i] = (k, v)
            repeat = d.heads // d.kv_heads
            k, v = k.repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1 / math.sqrt(d.head_dim))
            x = x + self._linear(mixed.transpose(0, 1).flatten(1), f"{p}.self_attn.o_proj")
            n = norm(x, f"{p}.post_attention_layernorm")
            x = x + self._linear(
                F.silu(self._linear(n, f"{p}.mlp.gate_proj")) * self._linear(n, f"{p}.mlp.up_proj"),
                f"{p}.mlp.down_proj",
            )
        return norm(x[-1], "llm.model.norm")
