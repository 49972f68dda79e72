"""Clustering of tokens: k-medoids weighted by saliency."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sft_jax.ops.pool.select import filled_slots, select_top_k, take_tokens
from sft_jax.structs import Tokens


def pairwise_l1(values: Float[Array, "b n d"]) -> Float[Array, "b n n"]:
    """Computes the L1 distances between the tokens of each example, in float32 at least.

    The distances are summed feature by feature, so that no array exceeds the result in size.
    """
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    batch, length, _ = values.shape

    def add(total: Array, feature: Array) -> tuple[Array, None]:
        return total + jnp.abs(feature[:, :, None] - feature[:, None, :]), None

    zeros = jnp.zeros((batch, length, length), values.dtype)
    # The scan is unrolled, so that the sum is read and written once for several features.
    distance, _ = jax.lax.scan(add, zeros, values.transpose(2, 0, 1), unroll=8)
    return distance


def weighted_k_medoids(
    tokens: Tokens, saliency: Float[Array, "b n"], k: int, iterations: int
) -> tuple[Tokens, Int[Array, "b k"]]:
    """Selects `k` representative tokens: medoids in L1 distance, weighted by saliency.

    The centres start as the `k` tokens of largest saliency `s`. In each iteration every
    token joins its nearest centre (the first of equals); then the centre of each cluster `M`
    becomes `argmin_{i in M} sum_{j in M} |x_i - x_j| s_j` (Ding et al. 2021, section 3.2). A
    cluster without members, which equal tokens can cause, keeps its centre. No gradient flows
    through the selection.

    Args:
      tokens: Tokens to cluster; padding belongs to no cluster.
      saliency: Saliency, at least 0.
      k: Number of clusters, at least 1.
      iterations: Number of times that the centres are moved; 0 is equivalent to `select_top_k`.

    Returns:
      The tokens at the centres and their positions; positions of unfilled slots have no meaning.
      An example with at most `k` real tokens keeps them all, in their order.
    """
    mask = tokens.mask
    values = jax.lax.stop_gradient(jnp.where(mask[..., None], tokens.values, 0))
    distance = pairwise_l1(values)
    weight = jax.lax.stop_gradient(jnp.where(mask, saliency, 0)).astype(distance.dtype)

    def move(_: Array, centres: Int[Array, "b k"]) -> Int[Array, "b k"]:
        to_centres = jnp.take_along_axis(distance, centres[:, None], axis=2)
        nearest = to_centres.argmin(axis=2)
        # A token can only become the centre of its own cluster, so one cost per token is enough:
        # no product with the k clusters is needed.
        together = nearest[:, :, None] == nearest[:, None]
        cost = jnp.sum(distance * weight[:, None], axis=2, where=together)
        member = (nearest[..., None] == jnp.arange(k)[None, None]) & mask[..., None]
        moved = jnp.where(member, cost[..., None], jnp.inf).argmin(axis=1).astype(centres.dtype)
        return jnp.where(member.any(axis=1), moved, centres)

    _, most_salient = select_top_k(tokens, saliency, k)
    centres = jax.lax.fori_loop(0, iterations, move, most_salient)
    in_order = jnp.argsort(~mask, axis=1, stable=True)[:, :k].astype(centres.dtype)
    in_order = jnp.pad(in_order, ((0, 0), (0, k - in_order.shape[1])))
    index = jnp.where(mask.sum(axis=1, keepdims=True) > k, centres, in_order)
    return take_tokens(tokens, index, filled_slots(mask, k)), index
