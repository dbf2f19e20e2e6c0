"""The ONNX graph of `torch_hift.Hift`, float32 in every bundle precision for pitch, phase, source, exp / sin and
ISTFT: half a hertz of pitch error adds up over the cumulative phase until the source is another signal (measured: PCC
0.48 in float16).

Layout: convolutions are written as 2-D ones over a height of 1. ONNX Runtime's blocked (NCHWc) kernels exist for 2-D
convolutions only and are 1.5 to 3 times faster here.
Folded at export: weight normalisation, Snake's alpha into the convolutions around it, 1/3 of the resblock mean, STFT
and ISTFT into strided (transposed) convolutions, the reflection before the last fusion into a gather-free concat.
"""

import math
from pathlib import Path

import numpy as np
import torch

from duologue_export import kernels
from duologue_export.checkpoint import Checkpoint
from duologue_export.modules import torch_hift as spec
from duologue_export.modules.builder import GraphBuilder, runs_half

_END = 1 << 31
# sin(alpha x)^2 / alpha tends to 0 with alpha; below this the fold 1 / alpha would only amplify rounding.
_MIN_ALPHA = 1e-5


class _Builder(GraphBuilder):
    """A `GraphBuilder` that writes sines as operators of `kernels`, or, when `standard`, as standard ones."""

    def __init__(self, half: bool, standard: bool):
        super().__init__("hift", half)
        self.standard = standard

    def sine(self, x: str) -> str:
        return self.node("Sin", [x]) if self.standard else self.call(kernels.SINE, [x])

    def cosine(self, x: str) -> str:
        if self.standard:
            return self.node("Cos", [x])
        return self.sine(self.node("Add", [x, self.const(math.pi / 2)]))

    def convolve(self, x: str, weight: torch.Tensor, bias: torch.Tensor, dilation: int, name: str) -> str:
        """A convolution that keeps the length."""
        taps = weight.shape[2]
        pad = (taps - 1) * dilation // 2
        if self.standard or not kernels.worth_convolving(weight.shape[1], taps):
            return _conv2d(self, x, weight, bias, pad, dilation, name=name)
        inputs = [x, self.const(weight[:, :, None].contiguous(), "conv.w", name), self.const(bias, "conv.b", name)]
        return self.call(kernels.CONVOLVE, inputs, dilations=[1, dilation], pads=[0, pad, 0, pad])

    def snake(self, x: str, alpha: str | None = None) -> str:
        """u + sin(u)^2 with u = alpha x; alpha [C, 1, 1], absent for 1."""
        if not self.standard:
            return self.call(kernels.SNAKE, [x, alpha or self.weight(torch.ones(1), "one")])
        u = self.node("Mul", [x, alpha]) if alpha else x
        sine = self.node("Sin", [u])
        return self.node("Add", [u, self.node("Mul", [sine, sine])])


def build(checkpoint: Checkpoint, half: bool = False, standard: bool = False) -> GraphBuilder:
    """The graph. With `half`, the convolutions of the decoder up to conv_post run in float16. With `standard`, which
    `half` implies, it has no operators of `kernels`."""
    d = checkpoint.hift
    w = spec.folded_weights(checkpoint.hift_weights)
    g = _Builder(half, standard or half)
    mel = g.input("mel", "float32", ["B", d.mel, "F"])
    cache = g.input("cache_source", "float32", ["B", 1, "S"])
    noise = g.input("noise", "float32", ["B", "samples", d.harmonics + 1])
    f0 = _pitch(g, w, mel)
    source = _source(g, w, d.harmonics + 1, f0, noise)
    source = g.concat([cache, g.slice(source, g.size(cache, 2), _END, axis=2)], axis=2)
    speech = _decode(g, w, mel, source)
    g.output(speech, "speech", "float32", ["B", "samples"])
    g.output(source, "source", "float32", ["B", 1, "samples"])
    g.output(g.node("Squeeze", [f0, g.ints(2)]), "f0", "float32", ["B", "F"])
    return g


def _conv2d(
    g: GraphBuilder,
    x: str,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pad: int,
    dilation: int = 1,
    stride: int = 1,
    low: bool = True,
    name: str = "",
):
    make = g.weight if low else g.const
    inputs = [x, make(weight[:, :, None].contiguous(), "conv.w", name)]
    inputs += [make(bias, "conv.b", name)] if bias is not None else []
    attributes = {
        "pads": [0, pad, 0, pad],
        "dilations": [1, dilation],
        "strides": [1, stride],
        "kernel_shape": [1, weight.shape[-1]],
    }
    return g.node("Conv", inputs, "conv", **attributes)


def _up(
    g: GraphBuilder,
    x: str,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pad: int,
    stride: int,
    low: bool = True,
    name: str = "",
):
    make = g.weight if low else g.const
    inputs = [x, make(weight[:, :, None].contiguous(), "up.w", name)]
    inputs += [make(bias, "up.b", name)] if bias is not None else []
    return g.node(
        "ConvTranspose", inputs, "up", pads=[0, pad, 0, pad], strides=[1, stride], kernel_shape=[1, weight.shape[-1]]
    )


def _pitch(g: GraphBuilder, w: dict, mel: str) -> str:
    """f0 [B, F, 1] in Hz."""
    x = g.node("Unsqueeze", [mel, g.ints(2)])
    for layer in spec.F0_CONVS:
        name = f"f0_predictor.condnet.{layer}"
        x = g.node("Elu", [_conv2d(g, x, w[f"{name}.weight"], w[f"{name}.bias"], 1, low=False, name=name)])
    name = "f0_predictor.classifier"
    x = _conv2d(g, x, w[f"{name}.weight"][:, :, None], w[f"{name}.bias"], 0, low=False, name=name)
    return g.node("Abs", [g.reshape(x, 0, -1, 1)])


def _fraction(g: GraphBuilder, x: str) -> str:
    return g.node("Sub", [x, g.node("Floor", [x])])


def _source(g: _Builder, w: dict, harmonics: int, f0: str, noise: str) -> str:
    """Excitation [B, 1, samples]. One product with a constant [3, 480] interpolates the phase of all harmonics inside
    the frames."""
    rates = np.arange(1, harmonics + 1, dtype=np.float32) / spec.SAMPLE_RATE_HZ
    step = _fraction(g, g.node("Mul", [f0, g.const(rates)]))
    base = _fraction(g, g.node("Mul", [step, g.const(float(spec.SAMPLES_PER_FRAME))]))
    base = _fraction(g, g.node("CumSum", [base, g.const(np.array(1, np.int64))]))
    frames = g.size(f0, 1)
    # The increment before the first and after the last frame is 0: the phase is held at both ends.
    padded = g.node("Pad", [g.slice(step, 1, _END, axis=1), g.ints(0, 1, 0, 0, 1, 0)])
    left = g.slice(padded, 0, frames, axis=1)
    right = g.slice(padded, 1, _END, axis=1)
    columns = g.concat([g.node("Unsqueeze", [v, g.ints(3)]) for v in (base, left, right)], axis=3)
    before, after = spec.interpolation()
    table = 2 * math.pi * torch.stack([torch.ones(spec.SAMPLES_PER_FRAME), before, after])
    sines = g.sine(g.node("MatMul", [columns, g.const(table, "interpolation")]))
    # Harmonics are summed before anything else is done to the samples: [1, harmonics] x [B, F, harmonics, 480].
    weight, bias = w["m_source.l_linear.weight"], w["m_source.l_linear.bias"]
    tone = g.node("Squeeze", [g.node("MatMul", [g.const(weight * spec.SINE_AMP, "harmonics.w"), sines]), g.ints(2)])
    hiss = g.node("MatMul", [noise, g.const(weight.t().contiguous(), "noise.w")])
    hiss = g.reshape(hiss, 0, -1, spec.SAMPLES_PER_FRAME)
    voiced = g.node("Greater", [f0, g.const(spec.VOICED_HZ)])
    tone = g.node("Mul", [tone, g.node("Where", [voiced, g.const(1.0), g.const(0.0)])])
    loudness = g.node("Where", [voiced, g.const(spec.NOISE_STD), g.const(spec.SINE_AMP / 3)])
    mixed = g.node("Add", [g.node("Add", [tone, g.node("Mul", [hiss, loudness])]), g.const(bias)])
    return g.reshape(g.node("Tanh", [mixed]), 0, 1, -1)


def _decode(g: _Builder, w: dict, mel: str, source: str) -> str:
    pad = spec.N_FFT // 2
    wave = g.node("Pad", [source, g.ints(0, 0, pad, 0, 0, pad)], mode="reflect")
    wave = g.node("Unsqueeze", [wave, g.ints(2)])
    spectrum = g.low(_conv2d(g, wave, spec.fourier_kernel()[:, None], None, 0, stride=spec.HOP, low=False))
    x = g.node("Unsqueeze", [g.low(mel), g.ints(2)])
    x = _conv2d(g, x, w["conv_pre.weight"], w["conv_pre.bias"], 3, name="conv_pre")
    stages = zip(spec.RATES, spec.UP_KERNELS, spec.source_strides(), strict=True)
    for stage, (rate, kernel, stride) in enumerate(stages):
        x = g.node("LeakyRelu", [x], alpha=spec.SLOPE)
        up = f"ups.{stage}"
        x = _up(g, x, w[f"{up}.weight"], w[f"{up}.bias"], (kernel - rate) // 2, rate, name=up)
        if stage == len(spec.RATES) - 1:
            x = g.concat([g.slice(x, 1, 2, axis=3), x], axis=3)
        down = f"source_downs.{stage}"
        branch = _conv2d(g, spectrum, w[f"{down}.weight"], w[f"{down}.bias"], stride // 2, stride=stride, name=down)
        x = g.node("Add", [x, _resblock(g, w, branch, f"source_resblocks.{stage}")])
        blocks = [_resblock(g, w, x, f"resblocks.{stage * 3 + i}") for i in range(len(spec.RESBLOCK_KERNELS))]
        x = g.node("Add", [g.node("Add", blocks[:2]), blocks[2]])
        # The mean's 1/3 goes into what follows the leaky ReLU, which commutes with a positive factor.
        follower = f"ups.{stage + 1}" if stage + 1 < len(spec.RATES) else "conv_post"
        w[f"{follower}.weight"] = w[f"{follower}.weight"] / len(blocks)
    x = g.node("LeakyRelu", [x], alpha=spec.LAST_SLOPE)
    x = g.full(_conv2d(g, x, w["conv_post.weight"], w["conv_post.bias"], 3, name="conv_post"))
    return _inverse(g, x)


def _resblock(g: _Builder, w: dict, x: str, name: str) -> str:
    for i, dilation in enumerate(spec.DILATIONS):
        first, second = (w[f"{name}.activations{n}.{i}.alpha"] for n in (1, 2))
        first, second = (torch.where(a.abs() < _MIN_ALPHA, torch.full_like(a, _MIN_ALPHA), a) for a in (first, second))
        # snake(x) = (u + sin(u)^2) / alpha with u = alpha x: the division moves into the next convolution's input
        # channels and, for the second snake, the multiplication into the previous one's output channels.
        h = g.snake(x, g.weight(first[:, None, None], "alpha", f"{name}.activations1.{i}"))
        weight, bias = w[f"{name}.convs1.{i}.weight"], w[f"{name}.convs1.{i}.bias"]
        weight = weight / first[None, :, None] * second[:, None, None]
        h = g.snake(g.convolve(h, weight, bias * second, dilation, f"{name}.convs1.{i}"))
        weight = w[f"{name}.convs2.{i}.weight"] / second[None, :, None]
        h = g.convolve(h, weight, w[f"{name}.convs2.{i}.bias"], 1, f"{name}.convs2.{i}")
        x = g.node("Add", [h, x])
    return x


def _inverse(g: _Builder, x: str) -> str:
    """[B, n_fft + 2, 1, frames] -> speech [B, samples]: overlap-add by a transposed convolution.

    Its padding drops the first and last 8 samples. What remains is covered by four windows except within one hop of
    the rim (three there): sum of hann^2 is 1.5 inside and smaller at the rim, so the envelope is 1.5 times a constant
    rim correction.
    """
    magnitude, phase = g.split(x, [spec.N_FFT // 2 + 1] * 2, axis=1)
    magnitude = g.node("Min", [g.node("Exp", [magnitude]), g.const(spec.MAX_MAGNITUDE)])
    phase = g.sine(phase)
    parts = [g.node("Mul", [magnitude, value]) for value in (g.cosine(phase), g.sine(phase))]
    inside, first, last = _envelope()
    kernel = spec.inverse_kernel() / inside
    wave = _up(g, g.concat(parts, axis=1), kernel[:, None], None, spec.N_FFT // 2, spec.HOP, low=False)
    wave = g.reshape(wave, 0, -1)
    samples = len(first)
    head = g.node("Mul", [g.slice(wave, 0, samples, axis=1), g.const(first, "rim")])
    tail = g.node("Mul", [g.slice(wave, -samples, _END, axis=1), g.const(last, "rim")])
    wave = g.concat([head, g.slice(wave, samples, -samples, axis=1), tail], axis=1)
    return g.node("Clip", [wave, g.const(-spec.LIMIT), g.const(spec.LIMIT)])


def _envelope() -> tuple[float, torch.Tensor, torch.Tensor]:
    """(sum of squared windows far from the ends, factors that correct the first and the last samples after the cut)."""
    window = torch.hann_window(spec.N_FFT, dtype=torch.float64) ** 2
    frames = 12
    total = torch.zeros(spec.HOP * (frames - 1) + spec.N_FFT, dtype=torch.float64)
    for frame in range(frames):
        total[frame * spec.HOP : frame * spec.HOP + spec.N_FFT] += window
    middle = total[len(total) // 2].item()
    half = spec.N_FFT // 2
    return middle, (middle / total[half : 2 * half]).float(), (middle / total[-2 * half : -half]).float()


def export(checkpoint: Checkpoint, out_dir: Path, precision: str, target: str) -> dict:
    """Writes hift.onnx; returns the manifest's `hift` section."""
    build(checkpoint, runs_half(precision, target), standard=target == "cuda").save(out_dir / "hift.onnx")
    return {
        "hift": {
            "samples_per_frame": spec.SAMPLES_PER_FRAME,
            "harmonics": checkpoint.hift.harmonics,
            "cache_frames": spec.CACHE_FRAMES,
            "cache_source_samples": spec.CACHE_FRAMES * spec.SAMPLES_PER_FRAME,
            "fade": "hamming",
        }
    }
