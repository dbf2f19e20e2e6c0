"""hift: mel -> 24 kHz waveform, the non-causal vocoder of minicpmo-utils 1.0.5
(flashcosyvoice/modules/hifigan.py:85-249, hifigan_components/layers.py). This file is the plain torch form; `hift`
writes the graph.

    mel -> f0 -> 9 harmonics + noise -> tanh -> source (first samples from the cache) -> STFT ----+---------+----------+
    mel -> conv k7 -> [leaky ReLU, transposed conv, + source branch, mean of 3 resblocks] x 3 <---+  (each stage)
        -> leaky ReLU -> conv k7 -> exp / sin -> ISTFT -> clamp

The phase is kept in cycles reduced to [0, 1) at every frame, which is more accurate than the reference's radians that
run up to 1e4. The reference's random initial phase reaches no sample (golden `rand_ini_has_no_effect`), so it is not
an input; its noise is.
"""

import math

import torch
import torch.nn.functional as F

from duologue_export.checkpoint import Checkpoint
from duologue_export.dims import HiftDims
from duologue_export.modules.layers import WeightedModule
from duologue_export.tensors import State, TensorSource

# Fixed by the class (hifigan.py:90-113): no configuration file holds them.
SAMPLE_RATE_HZ = 24000
RATES = (8, 5, 3)
UP_KERNELS = (16, 11, 7)
RESBLOCK_KERNELS = (3, 7, 11)
SOURCE_KERNELS = (7, 7, 11)
DILATIONS = (1, 3, 5)
N_FFT, HOP = 16, 4
SINE_AMP, NOISE_STD, VOICED_HZ = 0.1, 0.003, 10.0
SLOPE, LAST_SLOPE = 0.1, 0.01
LIMIT, MAX_MAGNITUDE = 0.99, 100.0
SAMPLES_PER_FRAME = math.prod(RATES) * HOP
F0_CONVS = (0, 2, 4, 6, 8)
# Frames and samples that one call hands to the next (token2wav.py:99-101).
CACHE_FRAMES = 8


def source_strides() -> tuple[int, ...]:
    """Stride of the source branch of each stage: the samples of STFT frames that one frame of the stage covers."""
    return tuple(math.prod(RATES[stage + 1 :]) for stage in range(len(RATES)))


def interpolation() -> tuple[torch.Tensor, torch.Tensor]:
    """Linear interpolation of the phase between frame centres: cycles = base + left * A[j] + right * B[j] for sample
    j of a frame, left and right being the per-sample increments of this frame and of the next."""
    offset = torch.arange(SAMPLES_PER_FRAME) + 0.5 - SAMPLES_PER_FRAME / 2
    return offset.clamp(max=0), offset.clamp(min=0)


def fourier_kernel() -> torch.Tensor:
    """Analysis kernel [n_fft + 2, n_fft]: cosine rows, then minus sine rows, times the periodic Hann window."""
    angle = 2 * math.pi / N_FFT * torch.arange(N_FFT // 2 + 1)[:, None] * torch.arange(N_FFT)[None]
    return torch.cat([torch.cos(angle), -torch.sin(angle)]) * torch.hann_window(N_FFT)


def inverse_kernel() -> torch.Tensor:
    """Synthesis kernel [n_fft + 2, n_fft]: every bin but the first and last stands for two of the full spectrum."""
    twice = torch.full((N_FFT // 2 + 1, 1), 2.0)
    twice[0] = twice[-1] = 1.0
    return fourier_kernel() * torch.cat([twice, twice]) / N_FFT


def folded_weights(source: TensorSource) -> dict[str, torch.Tensor]:
    """hift.pt with weight normalisation multiplied out."""
    weights = {
        name: source.weight(name.removesuffix(".weight")) if name.endswith(".weight") else source.tensor(name)
        for name in source.folded_shapes()
    }
    return State(source, "", weights)


class Hift(WeightedModule):
    """The vocoder. Weights: hift.pt."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(folded_weights(checkpoint.hift_weights))
        self.dims: HiftDims = checkpoint.hift

    def forward(self, mel, cache_source, noise):
        """mel [B, M, F]; cache_source [B, 1, S] replaces the first S samples of the source; noise [B, F * 480,
        harmonics + 1].

        -> speech [B, F * 480], source [B, 1, F * 480], f0 [B, F] in Hz.
        """
        f0 = self.f0(mel)
        source = self.source(f0, noise)
        source = torch.cat([cache_source, source[..., cache_source.shape[-1] :]], -1)
        return self.decode(mel, source), source, f0

    def f0(self, mel):
        """Pitch per frame, Hz."""
        x = mel
        for layer in F0_CONVS:
            x = F.elu(self.conv(x, f"f0_predictor.condnet.{layer}", padding=1))
        return self.linear(x.transpose(1, 2), "f0_predictor.classifier")[..., 0].abs()

    def source(self, f0, noise):
        """Excitation [B, 1, F * 480]."""
        harmonics = torch.arange(1, self.dims.harmonics + 2)
        step = f0[..., None] * harmonics / SAMPLE_RATE_HZ
        step = step - step.floor()
        base = step * SAMPLES_PER_FRAME
        base = (base - base.floor()).cumsum(1)
        base = base - base.floor()
        # At both ends the phase is held, as the reference's interpolation does.
        left = step.clone()
        left[:, 0] = 0
        right = F.pad(step[:, 1:], (0, 0, 0, 1))
        before, after = interpolation()
        cycles = base[:, :, None] + left[:, :, None] * before[:, None] + right[:, :, None] * after[:, None]
        sines = SINE_AMP * torch.sin(2 * math.pi * cycles).flatten(1, 2)
        voiced = (f0 > VOICED_HZ).float().repeat_interleave(SAMPLES_PER_FRAME, 1)[..., None]
        sines = sines * voiced + noise * (voiced * NOISE_STD + (1 - voiced) * SINE_AMP / 3)
        return torch.tanh(self.linear(sines, "m_source.l_linear")).transpose(1, 2)

    def decode(self, mel, source):
        """Waveform from mel and source."""
        pad = N_FFT // 2
        spectrum = F.conv1d(F.pad(source, (pad, pad), mode="reflect"), fourier_kernel()[:, None], stride=HOP)
        x = self.conv(mel, "conv_pre", padding=3)
        for stage, (rate, kernel, stride) in enumerate(zip(RATES, UP_KERNELS, source_strides(), strict=True)):
            weight, bias = self.w[f"ups.{stage}.weight"], self.w[f"ups.{stage}.bias"]
            x = F.conv_transpose1d(F.leaky_relu(x, SLOPE), weight, bias, stride=rate, padding=(kernel - rate) // 2)
            if stage == len(RATES) - 1:
                x = torch.cat([x[..., 1:2], x], -1)
            branch = self.conv(spectrum, f"source_downs.{stage}", stride=stride, padding=stride // 2)
            x = x + self.resblock(branch, f"source_resblocks.{stage}", SOURCE_KERNELS[stage])
            blocks = [self.resblock(x, f"resblocks.{stage * 3 + i}", k) for i, k in enumerate(RESBLOCK_KERNELS)]
            x = sum(blocks) / len(blocks)
        x = self.conv(F.leaky_relu(x, LAST_SLOPE), "conv_post", padding=3)
        magnitude, phase = x.split(N_FFT // 2 + 1, 1)
        magnitude, phase = magnitude.exp().clamp(max=MAX_MAGNITUDE), phase.sin()
        spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1)
        wave = F.conv_transpose1d(spectrum, inverse_kernel()[:, None], stride=HOP)
        window = (torch.hann_window(N_FFT) ** 2)[None, None].expand(1, spectrum.shape[-1], -1).transpose(1, 2)
        envelope = F.conv_transpose1d(window, torch.eye(N_FFT)[:, None], stride=HOP)
        return (wave / envelope.clamp(min=1e-11))[:, 0, pad:-pad].clamp(-LIMIT, LIMIT)

    def resblock(self, x, name, kernel):
        """Three times: x + conv(snake(dilated conv(snake(x))))."""
        for i, dilation in enumerate(DILATIONS):
            h = self.snake(x, f"{name}.activations1.{i}.alpha")
            h = self.conv(h, f"{name}.convs1.{i}", padding=(kernel - 1) * dilation // 2, dilation=dilation)
            h = self.snake(h, f"{name}.activations2.{i}.alpha")
            x = x + self.conv(h, f"{name}.convs2.{i}", padding=(kernel - 1) // 2)
        return x

    def snake(self, x, name):
        """x + sin(alpha x)^2 / alpha (hifigan_components/layers.py:73-92)."""
        alpha = self.w[name][:, None]
        return x + torch.sin(x * alpha) ** 2 / (alpha + 1e-9)
