"""Losses of single examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sft_jax.structs import AnyArray


def cross_entropy(
    logits: Float[Array, "b c"], labels: Int[AnyArray, " b"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Cross-entropy with the label, mixed with `smoothing` parts of the uniform distribution.

    The target is `(1 - smoothing) onehot(label) + smoothing / c`. A label outside
    `0 .. c - 1` gives NaN, which training reports, rather than the loss of some class.
    """
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    target = (1 - smoothing) * target + smoothing / classes
    loss = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)
