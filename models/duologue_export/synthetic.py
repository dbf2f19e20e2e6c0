"""Synthetic input: a speech-like spectrogram and a picture. For calibration and validation, where no recording is at
hand."""

import torch
import torch.nn.functional as F


def speech_mel(frames: int, generator: torch.Generator, bands: int = 80) -> torch.Tensor:
    """Speech-like normalised log-mel [bands, frames] at 100 frames a second: phrases and pauses, syllables, drifting
    formants, falling spectrum."""

    def noise(step: int, *channels: int) -> torch.Tensor:
        return torch.randn(1, 1, *channels, 2 + frames // step, generator=generator)

    phrases = F.interpolate((noise(250) > -0.4).float(), size=frames, mode="nearest")[0, 0]
    syllables = F.interpolate(noise(12), size=frames, mode="linear")[0, 0]
    formants = F.interpolate(noise(20, 7), size=(bands, frames), mode="bilinear")[0, 0]
    # Every recording has its own loudness and spectral slope.
    loudness, slope = 0.2 * torch.randn((), generator=generator), 0.3 + 0.2 * torch.randn((), generator=generator)
    tilt = torch.linspace(1, -1, bands)[:, None] * slope
    return (tilt + loudness + 0.4 * formants + 0.25 * syllables - 0.9 * (1 - phrases)).clamp(min=-0.6)


def picture(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth colours with some detail, [3, rows, columns], values in -1..1 as after normalisation."""
    coarse = F.interpolate(torch.randn(1, 3, 5, 5, generator=generator), size=(rows, columns), mode="bilinear")[0]
    return (0.5 * coarse + 0.1 * torch.randn(3, rows, columns, generator=generator)).clamp(-1, 1)
