"""A sound as a picture: its log-mel spectrogram.

Frame `t` is the Hann window `w` of 25 ms over the samples `x` from `t * 10 ms` on; `X_t` is its discrete Fourier
transform, padded with zeros to `N` points (the power of two from twice the window up). Band `m` sums the power under a
triangle `F_m`, of height 1 and equally wide in mels:

    E_t[m] = 4 / (N * sum w^2) * sum_k F_m[k] |X_t[k]|^2

so that a sine of full scale whose band is wide enough has `E = 1`, 0 dB. The level `10 log10 E`, from -80 dB to 0 dB,
becomes a grey level from 0 to 255. Nothing is measured on the data: the same sound makes the same picture everywhere.

Triangular filters on the mel scale: Davis and Mermelstein 1980, "Comparison of Parametric Representations for
Monosyllabic Word Recognition in Continuously Spoken Sentences", section II.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tacit.models.errors import InputError

WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.010
FLOOR_DECIBELS = -80.0

_TOP_LEVEL = 255
# Keeps the transforms of a long clip small.
_FRAMES_AT_ONCE = 256


def frame_count(samples: int, sample_rate: int) -> int:
    """Return how many whole frames so many samples have."""
    window, hop = _sizes(sample_rate)
    return max(0, 1 + (samples - window) // hop)


def log_mel(samples: NDArray[np.floating], sample_rate: int, mels: int) -> NDArray[np.uint8]:
    """Return the log-mel spectrogram of one channel.

    Args:
        samples: full scale from -1 to 1, shape `(samples,)`.
        sample_rate: samples a second.
        mels: the number of bands.

    Returns:
        Grey levels, shape `(mels, frames)`; the lowest band is first.

    Raises:
        InputError: there are too many bands for the sample rate.
    """
    window, hop = _sizes(sample_rate)
    filters = mel_filters(sample_rate, mels)
    hann = np.hanning(window + 2)[1:-1]
    points = _points(window)
    scale = 4 / (points * np.square(hann).sum())
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop] if len(samples) >= window else ()
    levels = np.empty((len(frames), mels), dtype=np.uint8)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        portion = frames[start : start + _FRAMES_AT_ONCE]
        power = np.square(np.abs(np.fft.rfft(portion * hann, points)))
        # Not `@`: its threads cost more than so small a product, and their number may change the last bit.
        energies = scale * np.einsum("tk,mk->tm", power, filters)
        decibels = 10 * np.log10(np.maximum(energies, 10 ** (FLOOR_DECIBELS / 10)))
        share = np.clip(1 - decibels / FLOOR_DECIBELS, 0.0, 1.0)
        levels[start : start + _FRAMES_AT_ONCE] = np.rint(_TOP_LEVEL * share)
    return np.ascontiguousarray(levels.T)


@lru_cache(maxsize=4)
def mel_filters(sample_rate: int, mels: int) -> NDArray[np.float64]:
    """Return the triangles of all bands, shape `(mels, points // 2 + 1)`, from 0 to half the sample rate.

    Raises:
        InputError: a band is so narrow that it holds no point of the transform.
    """
    window, _ = _sizes(sample_rate)
    hertz = np.fft.rfftfreq(_points(window), 1 / sample_rate)
    edges = band_edges(sample_rate, mels)
    low, middle, high = edges[:-2, np.newaxis], edges[1:-1, np.newaxis], edges[2:, np.newaxis]
    filters = np.maximum(0.0, np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
    if not filters.any(axis=1).all():
        raise InputError(f"{mels} bands are too many", where="option mels", right=f"fewer at {sample_rate} samples/s")
    filters.flags.writeable = False
    return filters


def band_edges(sample_rate: int, mels: int) -> NDArray[np.float64]:
    """Return where bands begin, peak and end, in Hz: `mels + 2` numbers, equally far apart in mels."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    return 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)


def _sizes(sample_rate: int) -> tuple[int, int]:
    """Return window and hop in samples."""
    return round(WINDOW_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)


def _points(window: int) -> int:
    return 1 << (2 * window - 1).bit_length()
