"""From many tokens to `k`: pooling within windows, and selection of whole tokens.

SPEC numbers refer to Ding et al. 2021, section 3.2. Everywhere a token whose mask is False
is padding: it is in no mean or maximum and is selected only to fill up an example that has
fewer than `k` real tokens, in a slot whose own mask is then False and whose value is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sft_jax.ops.windows import Windows
from sft_jax.structs import Tokens


def gather_windows(values: Float[Array, "b n d"], windows: Windows) -> Float[Array, "b k w d"]:
    """The tokens of each window; what stands at a non-member carries no meaning."""
    batch, k, size = windows.index.shape
    flat = windows.index.reshape(batch, k * size, 1)
    return jnp.take_along_axis(values, flat, axis=1).reshape(batch, k, size, -1)


def window_max(tokens: Tokens, windows: Windows) -> Tokens:
    """The maximum of each feature over the members of each window."""
    member = windows.member[..., None]
    gathered = gather_windows(tokens.values, windows)
    pooled = jnp.max(gathered, axis=2, where=member, initial=-jnp.inf)
    return _only_filled(pooled, windows)


def window_mean(tokens: Tokens, windows: Windows, divisor: int | None = None) -> Tokens:
    """The mean over the members of each window.

    Args:
      tokens: what is pooled.
      windows: the windows.
      divisor: divides each sum in place of the number of members. The authors' code
        divides by the kernel size, counting padding as tokens of 0.

    Returns:
      One token per window.
    """
    member = windows.member[..., None]
    total = jnp.sum(gather_windows(tokens.values, windows), axis=2, where=member)
    count = jnp.maximum(member.sum(axis=2), 1) if divisor is None else divisor
    return _only_filled(total / count, windows)


def window_weighted_mean(
    tokens: Tokens,
    saliency: Float[Array, "b n"],
    windows: Windows,
    epsilon: float | None = None,
) -> Tokens:
    """The mean over the members of each window, weighted by saliency; differentiable in both.

    Args:
      tokens: what is pooled.
      saliency: weights, at least 0.
      windows: the windows.
      epsilon: added to each sum of weights. By default nothing is: the weights are taken
        relative to the largest of their window, so the result does not shrink however
        small they are. The authors' code adds 1e-5 to the mean weight, which is 1e-5
        times the kernel size here.

    Returns:
      One token per window.
    """
    weights = jnp.take_along_axis(saliency[:, None], windows.index, axis=2)
    weights = jnp.where(windows.member, weights, 0)
    if epsilon is None:
        largest = jax.lax.stop_gradient(weights.max(axis=2, keepdims=True))
        # Where every weight of a window has underflowed to 0, its members count equally.
        weights = jnp.where(largest > 0, weights, windows.member)
        weights = weights / jnp.where(largest > 0, largest, 1)
        epsilon = 0.0
    values = jnp.where(windows.member[..., None], gather_windows(tokens.values, windows), 0)
    total = jnp.einsum("bkwd,bkw->bkd", values, weights)
    norm = weights.sum(axis=2) + epsilon
    mean = total / jnp.where(norm > 0, norm, 1)[..., None]
    return _only_filled(mean.astype(tokens.values.dtype), windows)


def select_top_k(
    tokens: Tokens, saliency: Float[Array, "b n"], k: int
) -> tuple[Tokens, Int[Array, "b k"]]:
    """The `k` whole tokens of largest saliency, in descending order of it.

    No gradient flows through the choice. Among equals the earlier token comes first.

    Returns:
      The tokens and their positions; those of slots that are not filled mean nothing.
    """
    short = max(k - saliency.shape[1], 0)
    if short:
        tokens = Tokens(
            jnp.pad(tokens.values, ((0, 0), (0, short), (0, 0))),
            jnp.pad(tokens.mask, ((0, 0), (0, short))),
        )
        saliency = jnp.pad(saliency, ((0, 0), (0, short)))
    _, index = jax.lax.top_k(jnp.where(tokens.mask, saliency, -jnp.inf), k)
    return take_tokens(tokens, index), index


def take_tokens(tokens: Tokens, index: Int[Array, "b k"]) -> Tokens:
    """The tokens at the given positions, with their masks; padding is returned as 0."""
    mask = jnp.take_along_axis(tokens.mask, index, axis=1)
    values = jnp.take_along_axis(tokens.values, index[..., None], axis=1)
    return Tokens(jnp.where(mask[..., None], values, 0), mask)


def _only_filled(pooled: Float[Array, "b k d"], windows: Windows) -> Tokens:
    mask = windows.member.any(axis=2)
    return Tokens(jnp.where(mask[..., None], pooled, 0), mask)
