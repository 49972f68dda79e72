"""Speech at a random point of a window, drowned in babble and pink noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class NoisySpeech(NamedTuple):
    """Parts of a noisy recording; the recording is their sum.

    Attributes:
      speech: `[samples]` float64, 0 before and after the recording.
      babble: `[samples]` float64 of power 1/2.
      pink: `[samples]` float64 of power 1/2.
      start: First sample of the speech.
      stop: Sample after the last sample of the speech.
    """

    speech: np.ndarray
    babble: np.ndarray
    pink: np.ndarray
    start: int
    stop: int


def mix(
    rng: np.random.Generator,
    recording: np.ndarray,
    voices: Sequence[np.ndarray],
    snr_db: float,
    samples: int,
) -> NoisySpeech:
    """Places a recording in a window and adds noise, half babble and half pink.

    The noise has power 1 over the window. The speech has power `10^(snr_db / 10)` over the part
    where it is heard; silence before and after does not count.

    A recording shorter than the window is placed at random inside it; a longer recording gives a
    random excerpt. Each voice of the babble is a recording played backwards from a random point,
    and repeated until the window is full. All voices have the same power.

    Args:
      rng: Generator of all random numbers.
      recording: `[any]` numbers, the speech.
      voices: Voices of the babble, `[any]` numbers each; at least one.
      snr_db: Ratio of the speech to the noise, in dB.
      samples: Length of the window.
    """
    slack = samples - len(recording)
    offset = choose(rng, abs(slack) + 1)
    start = offset if slack > 0 else 0
    piece = recording[offset : offset + samples] if slack < 0 else recording
    speech = np.zeros(samples)
    speech[start : start + len(piece)] = to_power(piece, 10 ** (snr_db / 10))
    babble = np.zeros(samples)
    for voice in voices:
        turned = np.roll(voice[::-1], choose(rng, len(voice)))
        babble += to_power(np.resize(turned, samples), 1.0)
    return NoisySpeech(
        speech,
        to_power(babble, 0.5),
        to_power(pink_noise(rng, samples), 0.5),
        start,
        start + len(piece),
    )


def pink_noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Makes noise whose power density falls as 1 / frequency, from one period in `samples` upwards.

    Returns:
      `[samples]` float64.
    """
    spectrum = np.fft.rfft(rng.random(samples))
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.fft.irfft(spectrum, samples)


def to_power(values: np.ndarray, power: float) -> np.ndarray:
    """Scales values to a mean square; zeros stay zeros."""
    values = values.astype(np.float64)
    now = np.mean(values**2)
    return values * np.sqrt(power / now) if now > 0 else values


def choose(rng: np.random.Generator, count: int) -> int:
    """Draws a whole number from 0 to `count - 1`, each equally likely."""
    return int(rng.random() * count)
