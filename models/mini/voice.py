"""The speech side in trainable form: speech token model, flow and vocoder under the checkpoint's names.

Flow and vocoder are the exporter's own torch modules (`duologue_export.modules.torch_*`), whose weights are plain
dictionaries: here they are parameters. Weight normalisation is left out; the exporter reads plain weights as well.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from duologue_export import inventory
from duologue_export.dims import UNIT_CODES, FlowDims, HiftDims
from duologue_export.modules.layers import WeightedModule
from duologue_export.modules.torch_flow_cfm import Cfm, modulation, times
from duologue_export.modules.torch_flow_encoder import CONV1_LEN, CONV2_LEN, FlowEncoder
from duologue_export.modules.torch_hift import SAMPLES_PER_FRAME, Hift
from mini.corpus import CODES, MELS
from mini.hearing import Decoder
from mini.pace import FIRST_S

SPEAKER = 192
LOOKAHEAD = 3
# Mel of digital silence: the floor of the vocoder's mel.
SILENT_MEL = math.log(1e-5)
FLOW = FlowDims(
    width=192,
    mel=MELS,
    spk=SPEAKER,
    vocab=CODES,
    input_size=192,
    lookahead=LOOKAHEAD,
    blocks=2,
    up_blocks=2,
    up=2,
    heads=4,
    head_dim=48,
    linear_units=512,
    cfg_rate=0.0,
    dit_channels=4 * MELS,
    dit_layers=3,
    dit_heads=4,
    dit_head_dim=32,
    dit_width=128,
    mlp_ratio=3.0,
)
HIFT = HiftDims(base_channels=128, f0_channels=64, mel=MELS, harmonics=8)
TTS_HIDDEN, TTS_LAYERS, TTS_HEADS, TTS_FFN = 192, 4, 4, 512
FIRST_UNIT_CODES = round(FIRST_S * UNIT_CODES)


def fresh(shapes: inventory.Shapes, gains: dict[str, float] | None = None) -> dict[str, nn.Parameter]:
    """Parameters of these shapes: matrices normal with deviation gain / sqrt(fan_in), norms and Snake slopes one, the
    rest zero. `gains`: factors by a part of the name; 0 makes zeros."""
    out = {}
    for name, shape in shapes.items():
        gain = next((g for part, g in (gains or {}).items() if part in name), 1.0)
        if name.endswith((".alpha",)) or (name.endswith("weight") and len(shape) == 1):
            value = torch.ones(shape)
        elif len(shape) == 1:
            value = torch.zeros(shape)
        else:
            fan_in = shape[1] if "embed" in name or "emb_" in name else math.prod(shape[1:])
            value = torch.randn(shape) * gain / math.sqrt(fan_in)
        out[name] = nn.Parameter(value)
    return out


class Speaking(nn.Module):
    """The speech token model: text tokens -> codes. The LLM's hidden state is left out of the condition: the words say
    all that this voice needs, and the language model can be trained on without it (see `checkpoint.projector`)."""

    def __init__(self, vocab: int):
        super().__init__()
        self.emb_text = nn.Embedding(vocab, TTS_HIDDEN)
        self.emb_code = nn.Embedding(CODES + 1, TTS_HIDDEN)
        self.head_code = nn.Linear(TTS_HIDDEN, CODES + 1, bias=False)
        self.model = Decoder(
            TTS_HIDDEN, TTS_LAYERS, TTS_HEADS, TTS_HEADS, TTS_HIDDEN // TTS_HEADS, TTS_FFN, qk_norm=False
        )
        for table in (self.emb_text, self.emb_code):
            nn.init.normal_(table.weight, std=0.05)

    def rows(self, ids: torch.Tensor, is_code: torch.Tensor) -> torch.Tensor:
        """Embeds a mixed sequence [B, L]."""
        text, code = self.emb_text(ids.masked_fill(is_code, 0)), self.emb_code(ids.masked_fill(~is_code, 0))
        return torch.where(is_code[..., None], code, text)


class Encoder(FlowEncoder):
    """The flow encoder with weights in training."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        WeightedModule.__init__(self, {name.removeprefix("encoder."): value for name, value in weights.items()})
        self.w["embedding"] = weights["input_embedding.weight"]
        self.dims = FLOW

    def speak(self, codes: torch.Tensor, chunks: list[int]) -> torch.Tensor:
        """codes [B, T] -> mu [B, 80, 2 T], chunk after chunk with its caches, as the server runs it. `chunks` add up to
        T; past the end silence of the embedding (valid = 0) stands for the look-ahead, as in a last call."""
        batch, d = codes.shape[0], FLOW
        padded = F.pad(codes, (0, LOOKAHEAD))
        valid = F.pad(torch.ones(codes.shape), (0, LOOKAHEAD))[..., None]
        conv1, conv2 = (torch.zeros(batch, d.width, n) for n in (CONV1_LEN, CONV2_LEN))
        kv1 = torch.zeros(0, d.blocks, batch, d.heads, 2 * d.head_dim)
        kv2 = torch.zeros(0, d.up_blocks, batch, d.heads, 2 * d.head_dim)
        out, at = [], 0
        for size in chunks:
            span = slice(at, at + size + LOOKAHEAD)
            mu, conv1, conv2, new1, new2, _ = self(padded[:, span], valid[:, span], conv1, conv2, kv1, kv2)
            kv1, kv2 = torch.cat([kv1, new1]), torch.cat([kv2, new2])
            out.append(mu)
            at += size
        return torch.cat(out, 2)


class Estimator(Cfm):
    """The flow-matching estimator with weights in training. It is trained at the start times of the steps that the
    exported graph takes, so nothing in between is asked of it."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        prefix = "decoder.estimator."
        WeightedModule.__init__(
            self, {name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)}
        )
        self.dims = FLOW
        self.starts, self.dt = times(FLOW.steps)

    def refresh(self) -> None:
        """Recomputes the steps' constants from the weights: after every change of them."""
        self.blocks, self.final = modulation(self.w, FLOW.dit_layers, FLOW.steps)

    def empty(self, batch: int) -> tuple[list, list, list]:
        """Caches of one step before the first frame: cnn, keys, values per layer (both rows of guidance)."""
        d = FLOW
        cnn = [torch.zeros(2 * batch, 2 * d.dit_width, 2) for _ in range(d.dit_layers)]
        slots = [torch.zeros(2 * batch, d.dit_heads, 0, d.dit_head_dim) for _ in range(d.dit_layers)]
        return cnn, slots, list(slots)

    def velocities(self, step: int, x, mu, chunks: list[int]):
        """v [B, 80, T] of all chunks of a sentence at one step; x, mu [B, 80, T], `chunks` in mel frames. The first
        chunk is the voice prompt: it alone is told its mel, which is silence."""
        batch, at, out = x.shape[0], 0, []
        cnn, keys, values = self.empty(batch)
        speaker = torch.zeros(batch, MELS)
        for size in chunks:
            piece, guide = x[..., at : at + size], mu[..., at : at + size]
            prompt = torch.full_like(guide, 0.0 if at else SILENT_MEL)
            mask = torch.zeros(batch, keys[0].shape[2] + size)
            v, cnn, new_keys, new_values = self.velocity(step, piece, guide, speaker, prompt, mask, cnn, keys, values)
            keys = [torch.cat(pair, 2) for pair in zip(keys, new_keys, strict=True)]
            values = [torch.cat(pair, 2) for pair in zip(values, new_values, strict=True)]
            out.append(v[:batch])
            at += size
        return torch.cat(out, 2)

    @torch.inference_mode()
    def sample(self, z, mu, chunks: list[int]):
        """mel [B, 80, T] by Euler steps from the noise z."""
        x = z
        for step in range(FLOW.steps):
            x = x + self.dt[step] * self.velocities(step, x, mu, chunks)
        return x


class Vocoder(Hift):
    """The vocoder with weights in training."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        WeightedModule.__init__(self, weights)
        self.dims = HIFT

    def from_pitch(self, mel, pitch):
        """Waveform [B, F * 480] from mel and a given pitch [B, F]."""
        noise = torch.randn(mel.shape[0], mel.shape[2] * SAMPLES_PER_FRAME, HIFT.harmonics + 1)
        return self.decode(mel, self.source(pitch, noise))


def flow_weights() -> dict[str, nn.Parameter]:
    """Fresh weights of flow.pt. Gates of the estimator start closed."""
    return fresh(inventory.flow(FLOW), {"adaLN_modulation": 0.0, "final_layer.linear": 0.0, "pos_bias": 0.1})


def hift_weights() -> dict[str, nn.Parameter]:
    """Fresh weights of hift.pt. Residual branches start small, the magnitude at some hundredths, the pitch at 170
    Hz."""
    weights = fresh(inventory.hift(HIFT), {"convs2": 0.3, "conv_post": 0.3, "m_source": 0.5})
    with torch.no_grad():
        weights["conv_post.bias"][:9] = -3.0
        weights["f0_predictor.classifier.bias"] += 100.0
        weights["f0_predictor.classifier.weight"] *= 50.0
        for name, value in weights.items():
            if name.startswith("ups.") and name.endswith("weight"):
                # Stored [in, out, kernel]: an output sample sums in * kernel / stride products.
                value *= math.sqrt(math.prod(value.shape[1:]) / value.shape[0] / 2)
    return weights
