"""Pooling within windows (Ding et al. 2021, section 3.2).

A token whose mask is False is padding and enters no mean or maximum. A window without members
gives a slot whose mask is False and whose value is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sft_jax.ops.pool.windows import Windows
from sft_jax.structs import Tokens


def gather_windows(values: Float[Array, "b n d"], windows: Windows) -> Float[Array, "b k w d"]:
    """Gathers the tokens of each window; entries that are not members have no meaning."""
    batch, k, size = windows.index.shape
    flat = windows.index.reshape(batch, k * size, 1)
    return jnp.take_along_axis(values, flat, axis=1).reshape(batch, k, size, values.shape[-1])


def window_max(tokens: Tokens, windows: Windows) -> Tokens:
    """Computes the maximum of each feature over the members of each window."""
    member = windows.member[..., None]
    gathered = gather_windows(tokens.values, windows)
    pooled = jnp.max(gathered, axis=2, where=member, initial=-jnp.inf)
    return _only_filled(pooled, windows)


def window_mean(tokens: Tokens, windows: Windows, divisor: int | None = None) -> Tokens:
    """Computes the mean over the members of each window.

    Args:
      tokens: Tokens to pool.
      windows: Windows over the tokens.
      divisor: Divisor of each sum, in place of the number of members. The authors' code
        divides by the kernel size, which counts padding as tokens of 0.

    Returns:
      One token per window.
    """
    member = windows.member[..., None]
    values = gather_windows(tokens.values, windows)
    total = jnp.sum(values, axis=2, where=member, dtype=_dtype_of_sums(values))
    count = jnp.maximum(member.sum(axis=2), 1) if divisor is None else divisor
    return _only_filled((total / count).astype(values.dtype), windows)


def window_weighted_mean(
    tokens: Tokens,
    saliency: Float[Array, "b n"],
    windows: Windows,
    epsilon: float | None = None,
) -> Tokens:
    """Computes the mean over the members of each window, weighted by saliency.

    The result is differentiable with respect to tokens and saliency.

    Args:
      tokens: Tokens to pool.
      saliency: Weights, at least 0.
      windows: Windows over the tokens.
      epsilon: Number added to each sum of weights. By default the weights are divided by the
        largest of their window, so small weights do not shrink the result. The authors' code adds
        1e-5 to the mean weight, which corresponds to 1e-5 times the kernel size here.

    Returns:
      One token per window.
    """
    saliency = saliency.astype(_dtype_of_sums(saliency))
    weights = jnp.take_along_axis(saliency[:, None], windows.index, axis=2)
    weights = jnp.where(windows.member, weights, 0)
    if epsilon is None:
        largest = jax.lax.stop_gradient(weights.max(axis=2, keepdims=True))
        # If every weight of a window has underflowed to 0, its members count equally.
        weights = jnp.where(largest > 0, weights, windows.member)
        weights = weights / jnp.where(largest > 0, largest, 1)
        epsilon = 0.0
    values = jnp.where(windows.member[..., None], gather_windows(tokens.values, windows), 0)
    total = jnp.einsum("bkwd,bkw->bkd", values, weights)
    norm = weights.sum(axis=2) + epsilon
    mean = total / jnp.where(norm > 0, norm, 1)[..., None]
    return _only_filled(mean.astype(tokens.values.dtype), windows)


def masked_mean(tokens: Tokens) -> Float[Array, "b d"]:
    """Computes the mean over the real tokens of each example; 0 without any."""
    dtype = _dtype_of_sums(tokens.values)
    total = jnp.sum(tokens.values, axis=1, where=tokens.mask[..., None], dtype=dtype)
    count = jnp.maximum(tokens.mask.sum(axis=1, keepdims=True), 1)
    return (total / count).astype(tokens.values.dtype)


def _dtype_of_sums(values: Array) -> np.dtype:
    """Returns at least float32: a sum or count of float16 numbers may overflow their type."""
    return jnp.promote_types(values.dtype, jnp.float32)


def _only_filled(pooled: Float[Array, "b k d"], windows: Windows) -> Tokens:
    mask = windows.member.any(axis=2)
    return Tokens(jnp.where(mask[..., None], pooled, 0), mask)
