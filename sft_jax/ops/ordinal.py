"""Proportional odds (McCullagh 1980): one score and ordered thresholds give ordered classes.

    P(y <= j) = sigmoid(t_j - s),    t_0 < t_1 < ... < t_{c-2}

The thresholds are parametrised so that any stored values give ordered thresholds. The first is
stored directly, and each gap to the next as its inverse softplus.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def ordered_thresholds(stored: Float[Array, " t"]) -> Float[Array, " t"]:
    """Computes the thresholds: `t_0 = stored_0` and `t_j = t_{j-1} + softplus(stored_j)`."""
    return jnp.cumsum(jnp.concatenate([stored[:1], jax.nn.softplus(stored[1:])]))


def uniform_thresholds(classes: int) -> Float[np.ndarray, " t"]:
    """Computes stored thresholds with which a score of 0 makes all classes equally likely.

    Args:
      classes: Number of classes, at least 2; one more than the number of thresholds.

    Returns:
      `[classes - 1]` float32.
    """
    shares = np.arange(1, classes) / classes
    thresholds = np.log(shares / (1 - shares))
    gaps = np.log(np.expm1(np.diff(thresholds)))
    return np.concatenate([thresholds[:1], gaps]).astype(np.float32)


def ordinal_log_probabilities(
    score: Float[Array, " b"], stored: Float[Array, " t"]
) -> Float[Array, "b c"]:
    """Computes the logarithm of the probability of each of `t + 1` classes.

    `log(sigmoid(u) - sigmoid(l))` is computed as
    `log_sigmoid(u) + log_sigmoid(-l) + log(1 - exp(l - u))`, whose last term is
    `log_sigmoid(stored_j)` for a gap of `softplus(stored_j)`. Neither a score far from the
    thresholds nor a gap that rounds to 0 thus gives an infinite logarithm or gradient.
    """
    distance = ordered_thresholds(stored)[None] - score[:, None]
    below = jnp.pad(jax.nn.log_sigmoid(distance), ((0, 0), (0, 1)))
    above = jnp.pad(jax.nn.log_sigmoid(-distance), ((0, 0), (1, 0)))
    between = jnp.pad(jax.nn.log_sigmoid(stored[1:]), 1)
    return below + above + between[None]
