"""Speech at a random point of a window, drowned in babble and pink noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class NoisySpeech(NamedTuple):
    """The parts of a recording that is made; their sum is what is heard.

    Attributes:
      speech: `[samples]` float64, 0 before and after the recording.
      babble: `[samples]` float64 of power 1/2.
      pink: `[samples]` float64 of power 1/2.
      start: first sample of the speech.
      stop: the sample after the last of the speech.
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

    The noise has power 1 over the window, and the speech is scaled to `10^(snr_db / 10)` times
    that over the part where it is heard; silence before and after does not count.

    A recording shorter than the window starts at a random point such that it fits; of a longer
    one a random piece is taken. Each voice of the babble is a recording that runs backwards,
    from a random point and around again until the window is full; all have the same power.

    Args:
      rng: where all that is random comes from.
      recording: `[any]` numbers, the speech.
      voices: `[any]` numbers each, what the babble is made of; at least one.
      snr_db: ratio of the speech to the noise, in dB.
      samples: length of the window.
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
    """Noise whose power density falls as 1 / frequency, from one period in `samples` upwards.

    Returns:
      `[samples]` float64.
    """
    spectrum = np.fft.rfft(rng.random(samples))
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.fft.irfft(spectrum, samples)


def to_power(values: np.ndarray, power: float) -> np.ndarray:
    """Scales to a mean square; what is 0 throughout stays so."""
    values = values.astype(np.float64)
    now = np.mean(values**2)
    return values * np.sqrt(power / now) if now > 0 else values


def choose(rng: np.random.Generator, count: int) -> int:
    """A whole number from 0 to `count - 1`, each equally likely."""
    return int(rng.random() * count)
