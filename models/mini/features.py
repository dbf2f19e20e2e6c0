"""The streaming log-mel as the server computes it (submodule apm; server/audio/src/mel), for a whole session at once.

A session's stream is the user's audio with 560 zeros in front (modeling_minicpmo_unified.py:4848-4906). Unit i brings
the frames 100 i - 2 .. 100 i + 101. Below 5 s of audio values are clamped at 1e-10; from then on at 8 (log10) below the
loudest value of the window so far, which is 30 s long and then slides by 10 s (processing_minicpmo.py:783-846).
"""

import numpy as np

RATE_HZ = 16000
LEAD_SAMPLES = 560
FRAMES_PER_UNIT = 100
N_FFT, HOP, MELS = 400, 160, 80
_FIRST_SAMPLES, _UNIT_SAMPLES = 16480, 16000
_SHORT, _WINDOW_FRAMES, _DROP_FRAMES = 80000, 3000, 1000


def stream_samples(units: int) -> int:
    """Samples of the stream that `units` units need."""
    return _FIRST_SAMPLES + (units - 1) * _UNIT_SAMPLES


def _hertz_to_mel(hertz: np.ndarray) -> np.ndarray:
    # Slaney: linear below 1 kHz, logarithmic above.
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1e-9) / 1000) * 27 / np.log(6.4))


def _mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def filter_bank(rate_hz: int, n_fft: int, mels: int = MELS, top_hz: float = 8000) -> np.ndarray:
    """Slaney mel filters, area normalised: [n_fft / 2 + 1, mels] float32."""
    bins = np.linspace(0, rate_hz / 2, n_fft // 2 + 1)
    edges = _mel_to_hertz(np.linspace(0, _hertz_to_mel(np.float64(top_hz)), mels + 2))
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


_FILTERS = filter_bank(RATE_HZ, N_FFT)
_HANN = np.hanning(N_FFT + 1)[:-1].astype(np.float32)


def _log_columns(stream: np.ndarray, frames: int) -> np.ndarray:
    padded = np.pad(stream, N_FFT // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][:frames]
    power = np.abs(np.fft.rfft(windows * _HANN, axis=1)) ** 2
    return np.log10(np.maximum(power @ _FILTERS, 1e-10))


def unit_mels(stream: np.ndarray) -> np.ndarray:
    """Stream of `stream_samples(units)` samples -> [mels, 100 * units + 2]: what the convolutions see, in one piece.

    The two frames that a unit shares with the next one are floored with the later unit's window here, with their own
    unit's window in the server: a difference only while the loudest value is still rising.
    """
    units = (len(stream) - _FIRST_SAMPLES) // _UNIT_SAMPLES + 1
    columns = _log_columns(stream, FRAMES_PER_UNIT * units + 3)
    peaks = columns.max(1)
    out = columns[: FRAMES_PER_UNIT * units + 2].copy()
    for unit in range(4, units):
        # 16480 + 4 * 16000 samples are the first buffer of 5 s; the window slides before units 29, 39, ...
        base = _DROP_FRAMES * max(0, (unit - 29) // 10 + 1) if unit >= 29 else 0
        end = FRAMES_PER_UNIT * (unit + 1) + 3
        own = slice(FRAMES_PER_UNIT * unit, FRAMES_PER_UNIT * unit + FRAMES_PER_UNIT + 2)
        np.maximum(out[own], peaks[base:end].max() - 8, out=out[own])
    return ((out + 4) / 4).T.astype(np.float32)
