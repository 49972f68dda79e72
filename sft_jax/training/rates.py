"""Learning-rate range test: the training loss while the rate rises exponentially.

Smith 2017, arXiv 1506.01186, section 3.3. The loss is smoothed over neighbouring steps on both
sides, since a running mean would lag behind and suggest a rate that is too high. A good rate is
where the smoothed loss falls most steeply over the logarithm of the rate. At the rate of its
smallest value, training is about to become unstable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import optax

NEIGHBOURS = 3.0
"""Standard deviation, in steps, of the Gaussian that smooths the loss."""
DECAY = 0.9
"""Decay of the running mean of the loss, which tells whether it diverges."""
DIVERGED = 4.0
"""Multiple of the smallest running mean above which the test ends."""
MIN_STEPS = 10
"""Least number of steps, also until the test may end early."""


@dataclasses.dataclass(frozen=True)
class RateRange:
    """Result of a range test.

    Attributes:
      rates: Learning rate of each step.
      losses: Training loss before each step.
      smoothed: Weighted mean of `losses` over neighbouring steps.
      steepest: Rate at which `smoothed` falls most steeply; None if it never falls.
      smallest: Rate of the smallest value of `smoothed`; None if it never falls.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    steepest: float | None
    smallest: float | None


def rising(lowest: float, highest: float, steps: int) -> optax.Schedule:
    """Makes the schedule that rises exponentially from `lowest` to `highest` in `steps` steps.

    Raises:
      ValueError: If the rates are not in order, or there are fewer than `MIN_STEPS` steps.
    """
    if not 0 < lowest < highest < float("inf"):
        raise ValueError(f"expected 0 < lowest < highest, got lowest={lowest}, highest={highest}")
    if steps < MIN_STEPS:
        raise ValueError(f"steps={steps} must be at least {MIN_STEPS}")
    return optax.exponential_decay(lowest, steps - 1, highest / lowest)


def range_of(rates: Sequence[float], losses: Iterator[float]) -> RateRange:
    """Follows the loss until the rates or the losses end, or the loss diverges.

    Args:
      rates: Learning rate of each step.
      losses: Training loss before each step, computed as it is asked for.
    """
    taken: list[float] = []
    mean = best = 0.0
    for loss, _ in zip(losses, rates, strict=False):
        if not np.isfinite(loss):
            break
        mean = DECAY * mean + (1 - DECAY) * loss if taken else loss
        best = min(best, mean) if taken else mean
        taken.append(loss)
        if len(taken) >= MIN_STEPS and mean > DIVERGED * best:
            break
    used, smoothed = list(rates[: len(taken)]), _smoothed(taken)
    lowest = int(np.argmin(smoothed)) if smoothed else 0
    if lowest == 0:
        return RateRange(used, taken, smoothed, None, None)
    slopes = np.gradient(smoothed, np.log(used))[: lowest + 1]
    return RateRange(used, taken, smoothed, used[int(np.argmin(slopes))], used[lowest])


def _smoothed(losses: Sequence[float]) -> list[float]:
    if not losses:
        return []
    reach = int(3 * NEIGHBOURS)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / NEIGHBOURS) ** 2)
    # Both are cut to the steps that exist, so that the ends have fewer neighbours.
    within = slice(reach, reach + len(losses))
    sums, counts = (np.convolve(a, weights)[within] for a in (losses, np.ones(len(losses))))
    return [float(mean) for mean in sums / counts]
