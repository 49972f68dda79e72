"""Log-mel spectrograms in numpy."""

from __future__ import annotations

import functools

import numpy as np


@functools.cache
def mel_filters(bands: int, fft_length: int, sample_rate: float) -> np.ndarray:
    """Makes triangular filters, equally wide on the mel scale, up to half the sample rate.

    The mel scale is that of HTK, `2595 log10(1 + f / 700)`. Each filter rises from 0 at the
    previous centre to 1 at its own, and falls to 0 at the next.

    Returns:
      `[fft_length // 2 + 1, bands]` float64, read-only.
    """
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.arange(fft_length // 2 + 1)[:, None] * (sample_rate / fft_length)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies - low) / (centre - low)
    falling = (high - frequencies) / (high - centre)
    filters = np.maximum(0, np.minimum(rising, falling))
    filters.flags.writeable = False
    return filters


def log_mel(
    waves: np.ndarray,
    *,
    sample_rate: float,
    window: int = 256,
    hop: int = 128,
    bands: int = 32,
    floor: float = 1e-6,
) -> np.ndarray:
    """Computes the natural logarithm of the power in mel bands, frame by frame.

    Frames are weighted by a (periodic) Hann window. The power spectrum of a frame is divided by
    the sum of the squared window. White noise of power 1 thus has a power of 1 at every frequency.
    Nothing is padded: an incomplete frame at the end is dropped.

    Args:
      waves: `[..., samples]` floats, at least `window` samples.
      sample_rate: Samples per second, in Hz.
      window: Length of a frame in samples, and of its Fourier transform.
      hop: Number of samples from the start of a frame to the start of the next.
      bands: Number of mel bands; see `mel_filters`.
      floor: Smallest power; smaller values are raised to it.

    Returns:
      `[..., 1 + (samples - window) // hop, bands]` float32.
    """
    hann = np.hanning(window + 1)[:-1]
    hann = (hann / np.sqrt(np.sum(hann**2))).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(waves, window, axis=-1)[..., ::hop, :]
    spectrum = np.fft.rfft(frames.astype(np.float32) * hann)
    power = spectrum.real**2 + spectrum.imag**2
    filters = mel_filters(bands, window, sample_rate).astype(np.float32)
    return np.log(np.maximum(power @ filters, np.float32(floor)))
