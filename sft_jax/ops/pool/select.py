"""Selection of whole tokens, or of the values of each feature.

A token whose mask is False is padding and is never selected. An example with fewer than `k`
real tokens keeps them all; unfilled slots hold 0 and are masked. No gradient flows through a
selection, only through the selected values and the weights of a mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sft_jax.ops.pool.reduce import window_weighted_mean
from sft_jax.ops.pool.windows import Windows
from sft_jax.structs import Tokens


def select_top_k(
    tokens: Tokens, score: Float[Array, "b n"], k: int
) -> tuple[Tokens, Int[Array, "b k"]]:
    """Selects the `k` tokens of largest score, in descending order of score.

    With the saliency as score this is the attentive top-k of Ding et al. 2021, section 3.2.
    Among equals the earlier token comes first.

    Args:
      tokens: Tokens to select from.
      score: Scores, finite at real tokens; scores of padding are ignored.
      k: Number of slots, at least 1.

    Returns:
      The tokens and their positions; positions of unfilled slots have no meaning.
    """
    length = score.shape[1]
    _, index = jax.lax.top_k(jnp.where(tokens.mask, score, -jnp.inf), min(k, length))
    index = jnp.pad(index, ((0, 0), (0, max(k - length, 0))))
    return take_tokens(tokens, index, filled_slots(tokens.mask, k)), index


def top_k_and_rest(tokens: Tokens, saliency: Float[Array, "b n"], k: int) -> Tokens:
    """Selects the `k - 1` tokens of largest saliency, and fuses the others into one.

    The first `k - 1` are in descending order of saliency. The last is the mean of all other
    tokens, weighted by saliency. EViT (Liang et al. 2022, arXiv 2202.07800) takes their weighted
    sum. The scale of a mean does not depend on the number of tokens, and exactly `k` real tokens
    are all kept unchanged.

    Args:
      tokens: Tokens to select from.
      saliency: Saliency, at least 0, in any scale; values at padding are ignored. If it is 0 for
        all tokens that are not selected, they count equally.
      k: Number of slots, at least 1; with 1 all tokens are fused.

    Returns:
      One token per slot; differentiable with respect to tokens and saliency.
    """
    selected, index = select_top_k(tokens, saliency, k - 1)
    # Beyond the real tokens, the index points to padding, or to any token once all are selected.
    every = jnp.broadcast_to(jnp.arange(tokens.mask.shape[1])[None], tokens.mask.shape)
    rest = jax.vmap(lambda mask, index: mask.at[index].set(False))(tokens.mask, index)
    window = Windows(index=every[:, None], member=rest[:, None])
    fused = window_weighted_mean(tokens, saliency, window)
    return Tokens(
        jnp.concatenate([selected.values, fused.values], axis=1),
        jnp.concatenate([selected.mask, fused.mask], axis=1),
    )


def draw_tokens(
    tokens: Tokens, weights: Float[Array, "b n"], noise: Float[Array, "b n"], k: int
) -> tuple[Tokens, Int[Array, "b k"]]:
    """Draws `k` tokens without replacement, with probability in proportion to their weights.

    The tokens of largest `log(weight) + Gumbel noise` are selected. Sequential draws in proportion
    to the remaining weights have the same distribution (Kool et al. 2019, arXiv 1903.06059).

    Args:
      tokens: Tokens to draw from.
      weights: Weights, at least 0, in any scale. Real tokens of weight 0 are drawn last.
      noise: Independent samples of the standard Gumbel distribution.
      k: Number of slots, at least 1.

    Returns:
      The tokens and their positions, in the order drawn; positions of unfilled slots have no
      meaning.
    """
    tiny = jnp.finfo(weights.dtype).tiny
    return select_top_k(tokens, jnp.log(jnp.maximum(weights, tiny)) + noise, k)


def draw_from_windows(
    tokens: Tokens, windows: Windows, noise: Float[Array, "b n"]
) -> tuple[Tokens, Int[Array, "b k"]]:
    """Draws one member of each window, each with equal probability.

    Args:
      tokens: Tokens to draw from.
      windows: Windows over the tokens; a window without members leaves its slot unfilled.
      noise: Independent samples of one continuous distribution.

    Returns:
      The tokens and their positions, in the order of the windows; positions of unfilled slots
      have no meaning.
    """
    drawn = jnp.take_along_axis(noise[:, None], windows.index, axis=2)
    largest = jnp.where(windows.member, drawn, -jnp.inf).argmax(axis=2, keepdims=True)
    index = jnp.take_along_axis(windows.index, largest, axis=2)[..., 0]
    return take_tokens(tokens, index, windows.member.any(axis=2)), index


def channel_top_k(tokens: Tokens, k: int) -> Tokens:
    """Selects the `k` largest values of each feature, in descending order.

    The features of a slot come from different tokens: no token is selected as a whole.
    """
    by_feature = jnp.where(tokens.mask[..., None], tokens.values, -jnp.inf).swapaxes(1, 2)
    length = by_feature.shape[2]
    largest, _ = jax.lax.top_k(by_feature, min(k, length))
    largest = jnp.pad(largest, ((0, 0), (0, 0), (0, max(k - length, 0))))
    filled = filled_slots(tokens.mask, k)
    return Tokens(jnp.where(filled[..., None], largest.swapaxes(1, 2), 0), filled)


def weigh_tokens(
    kept: Tokens,
    index: Int[Array, "b k"],
    tokens: Sequence[Tokens],
    saliency: Sequence[Float[Array, "b _"]],
) -> Tokens:
    """Lets each kept token count in attention as its saliency, relative to the mean of all tokens.

    The size of token `j` becomes `n s_j` for `n` real tokens, so a token of mean saliency counts
    as one. Attention adds the logarithm of the size to its logits. A gradient thus reaches the
    saliency in every block, as with the masks of DynamicViT (Rao et al. 2021, arXiv 2106.02034).
    A factor of the values would have no such effect, since pre-norm blocks undo it.

    Args:
      kept: Tokens that a pool has kept.
      index: Their positions in the concatenation of `tokens`.
      tokens: Tokens of one or more sequences.
      saliency: Saliency of the tokens of each sequence, with a sum of about 1.
    """
    relative = [
        own * t.mask.sum(axis=1, keepdims=True).astype(own.dtype)
        for own, t in zip(saliency, tokens, strict=True)
    ]
    sizes = jnp.take_along_axis(jnp.concatenate(relative, axis=1), index, axis=1)
    # A saliency may underflow to 0, whose logarithm is not finite.
    sizes = jnp.where(kept.mask, jnp.maximum(sizes, jnp.finfo(sizes.dtype).tiny), 1)
    return kept.replace(sizes=sizes if kept.sizes is None else sizes * kept.sizes)


def filled_slots(mask: Bool[Array, "b n"], k: int) -> Bool[Array, "b k"]:
    """Masks the slots that real tokens fill: the first of `k`, one for each real token."""
    return jnp.arange(k)[None] < mask.sum(axis=1, keepdims=True)


def take_tokens(tokens: Tokens, index: Int[Array, "b k"], filled: Bool[Array, "b k"]) -> Tokens:
    """Takes the tokens at positions `index`; unfilled slots are 0 and masked."""
    values = jnp.take_along_axis(tokens.values, index[..., None], axis=1)
    return Tokens(jnp.where(filled[..., None], values, 0), filled)
