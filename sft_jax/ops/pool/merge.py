"""Merging of similar tokens (Bolya et al. 2023, arXiv 2210.09461)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sft_jax.structs import Tokens


def merge_tokens(tokens: Tokens, k: int) -> Tokens:
    """Merges similar tokens into their means until at most `k` are left: token merging, ToMe.

    A round of bipartite soft matching divides the real tokens into set A, of even rank, and set B,
    of odd rank. Each token of A finds the token of B with the largest cosine similarity (the first
    of equals). Of `v` tokens, the `v - max(k, ceil(v / 2))` in A with the most similar partners
    are merged into their partners; several may share a partner. The remaining tokens keep their
    order. The paper merges a few tokens in every block; here all rounds follow each other. The
    paper compares attention keys; here the tokens themselves are compared.

    A merged token is the mean of its constituents, weighted by their sizes, and its size is the
    sum of their sizes. The sums of `sizes * values` and of the sizes over the real tokens thus do
    not change. Gradients flow through the means, but not through the choice of the tokens to
    merge.

    Args:
      tokens: Tokens to merge; padding is ignored. Sizes are above 0 at real tokens, 1 if None.
      k: Number of slots, at least 1.

    Returns:
      `[b, k, d]` tokens of the type of `tokens` with sizes in float32 at least. An example
      with at most `k` real tokens keeps them all; unfilled slots hold 0, have size 0 and are
      masked.
    """
    mask, values = tokens.mask, tokens.values
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    # A size of 0 marks a position without a token.
    sizes = mask.astype(dtype) if tokens.sizes is None else jnp.where(mask, tokens.sizes, 0)
    sizes = sizes.astype(dtype)
    # Totals, sizes * values, merge by addition and have the same direction as the values.
    totals = jnp.where(mask[..., None], values, 0) * sizes[..., None]
    length = mask.shape[1]
    totals, sizes = _to_front(totals, sizes, length)
    while length > k:
        totals, sizes = _merge_round(totals, sizes, k)
        length = max(k, -(-length // 2))
        totals, sizes = _to_front(totals, sizes, length)
    sizes = jnp.pad(sizes, ((0, 0), (0, k - length)))
    totals = jnp.pad(totals, ((0, 0), (0, k - length), (0, 0)))
    filled = sizes > 0
    means = totals / jnp.where(filled, sizes, 1)[..., None]
    return Tokens(means.astype(values.dtype), filled, sizes)


def _merge_round(
    totals: Float[Array, "b n d"], sizes: Float[Array, "b n"], k: int
) -> tuple[Float[Array, "b m d"], Float[Array, "b m"]]:
    """Merges once. Only the result may have gaps. `m` is `n`, or `n + 1` if `n` is odd."""
    odd = sizes.shape[1] % 2
    totals = jnp.pad(totals, ((0, 0), (0, odd), (0, 0)))
    sizes = jnp.pad(sizes, ((0, 0), (0, odd)))
    totals_a, totals_b = totals[:, 0::2], totals[:, 1::2]
    sizes_a, sizes_b = sizes[:, 0::2], sizes[:, 1::2]

    unit = _unit(totals)
    similarity = jnp.einsum("bid,bjd->bij", unit[:, 0::2], unit[:, 1::2], precision="highest")
    possible = (sizes_a > 0)[:, :, None] & (sizes_b > 0)[:, None, :]
    similarity = jnp.where(possible, similarity, -jnp.inf)
    count = (sizes > 0).sum(axis=1)
    surplus = jnp.where(count > k, count - jnp.maximum(k, -(-count // 2)), 0)
    merged = _are_largest(similarity.max(axis=2), surplus)

    # A one-hot matrix sums in a fixed order on every platform, unlike a scattered sum.
    into = (
        similarity.argmax(axis=2)[..., None] == jnp.arange(sizes_b.shape[1])[None, None]
    ) & merged[..., None]
    into = into.astype(totals.dtype)
    totals_b += jnp.einsum("bij,bid->bjd", into, totals_a, precision="highest")
    sizes_b += jnp.einsum("bij,bi->bj", into, sizes_a, precision="highest")
    totals_a = jnp.where(merged[..., None], 0, totals_a)
    sizes_a = jnp.where(merged, 0, sizes_a)
    return (
        jnp.stack([totals_a, totals_b], axis=2).reshape(totals.shape),
        jnp.stack([sizes_a, sizes_b], axis=2).reshape(sizes.shape),
    )


def _unit(values: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Computes the directions of the tokens, 0 for a zero token; no gradient flows."""
    values = jax.lax.stop_gradient(values)
    # Dividing by the largest feature first keeps the squares from overflow and underflow.
    largest = abs(values).max(axis=2, keepdims=True)
    values = values / jnp.where(largest > 0, largest, 1)
    return values / jnp.maximum(jnp.linalg.norm(values, axis=2, keepdims=True), 1)


def _are_largest(score: Float[Array, "b n"], count: Array) -> Bool[Array, "b n"]:
    """Masks the `count` largest scores of each example; among equals the earlier come first."""
    rank = jnp.argsort(jnp.argsort(-score, axis=1, stable=True), axis=1)
    return rank < count[:, None]


def _to_front(
    totals: Float[Array, "b n d"], sizes: Float[Array, "b n"], length: int
) -> tuple[Float[Array, "b m d"], Float[Array, "b m"]]:
    """Moves tokens of size above 0 to the front, in their order, and truncates to `length`."""
    order = jnp.argsort(sizes <= 0, axis=1, stable=True)[:, :length]
    return (
        jnp.take_along_axis(totals, order[..., None], axis=1),
        jnp.take_along_axis(sizes, order, axis=1),
    )
