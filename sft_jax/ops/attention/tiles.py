"""Attention of heads by tiles of queries: the computation of `sft_jax.ops.attention.tiled`.

A tile holds all keys, so that its softmax needs no other tile, and the same pass yields the
saliency.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sft_jax.ops.target import Target

MASKED = -1e30
"""Term that may be added to the logits of a masked key: it is finite, and its exponential 0."""


class Inputs(NamedTuple):
    """Input arrays of attention: for a batch, for all of its heads, or for one head.

    Attributes:
      query: Queries.
      key: Keys, finite where masked.
      value: Values, finite where masked.
      real: 1 at real keys and 0 elsewhere.
      bias: Term added to the base-2 logits of each key; None for 0.
      query_weight: Weight of each query in the sum that a key receives; None to skip that sum.
    """

    query: Array
    key: Array
    value: Array
    real: Array
    bias: Array | None
    query_weight: Array | None


def forward(target: Target, heads: Inputs) -> tuple[Array, Array, Array | None]:
    """Computes the weighted sums, the log-sum-exp, and what each key receives.

    Args:
      target: Kind of machine.
      heads: Input arrays, whose first axis is that of the heads of all examples.

    Returns:
      The sums `[g, q, e]` in the type of the values, the base-2 log-sum-exp `[g, q]`, and the
      received weights `[g, n]` or None.
    """
    return target.each(functools.partial(_forward_of_head, target), heads)


def backward(target: Target, heads: tuple[Any, ...]) -> tuple[Any, ...]:
    """Computes the gradients of query, key, value and bias.

    Args:
      target: Kind of machine.
      heads: Input arrays, sums and log-sum-exp of `forward`, gradients of the sums and of the
        received weights or None.

    Returns:
      The gradients in the types of the inputs; None without a bias.
    """
    return target.each(lambda head: _backward_of_head(target, *head), heads)


def _forward_of_head(target: Target, head: Inputs) -> tuple[Array, Array, Array | None]:
    """Computes sums `[q, e]`, base-2 log-sum-exp `[q]` and received weights for one head.

    Keys are rows and queries are columns: a reduction over the rows vectorises on a CPU.
    """
    key, value, real, bias = head.key, head.value, head.real, head.bias
    dtype = real.dtype
    query = base_2(head.query)
    # A masked key has weight 0, so its logit has no effect.
    values = (value * real[:, None]).astype(value.dtype).T

    def tile(received: Array | None, queries: Any, *, shift: bool) -> tuple[Any, Any]:
        query, query_weight = queries
        logits = _logits(target, key, query, bias, dtype)
        most = jnp.zeros(query.shape[1], dtype)
        if shift:
            # Masked keys have logit 0. If it entered the maximum, all real weights might vanish.
            logits = jnp.where(real[:, None] > 0, logits, jnp.finfo(dtype).min)
            most = logits.max(axis=0)
        weights = target.exp2(logits - most[None] if shift else logits)
        sums = target.matmul(values, weights.astype(values.dtype), dtype)
        total = (weights * real[:, None]).sum(axis=0)
        total = jnp.where(total > 0, total, 1)
        if received is not None:
            received += weights @ (query_weight / total)
        out = (sums / total[None]).astype(value.dtype)
        return received, (out, most + jnp.log2(total))

    def tiles(shift: bool) -> tuple[Any, Any]:
        start = None if head.query_weight is None else jnp.zeros_like(real)
        step = functools.partial(tile, shift=shift)
        columns = (query.T, head.query_weight)
        return _scan_tiles(step, start, columns, _tile_size(target, key.shape[0]))

    if target.sequential:
        is_small = are_small(query, key, value.dtype, bias)
        received, (out, lse) = jax.lax.cond(is_small, lambda: tiles(False), lambda: tiles(True))
    else:
        # Under `vmap` over heads, `lax.cond` would compute both branches.
        received, (out, lse) = tiles(True)
    return out.T, lse, None if received is None else received * real


def _logits(target: Target, key: Array, query: Array, bias: Array | None, dtype: np.dtype) -> Array:
    logits = target.matmul(key, query, dtype)
    return logits if bias is None else logits + bias[:, None]


def _backward_of_head(
    target: Target, head: Inputs, out: Array, lse: Array, d_out: Array, d_received: Array | None
) -> tuple[Any, ...]:
    """Computes the gradients of query, key, value and bias for one head of one example."""
    query, key, value, real, bias, query_weight = head
    dtype = real.dtype
    scaled = base_2(query)
    inner = (out.astype(dtype) * d_out.astype(dtype)).sum(axis=-1)
    real_key = (key * real[:, None]).astype(key.dtype).T

    def tile(gradients: tuple[Any, ...], queries: Any) -> tuple[Any, Array]:
        d_key, d_value, d_bias = gradients
        query, scaled, lse, d_out, inner, query_weight = queries
        logits = _logits(target, key, scaled, bias, dtype)
        # True weights are at most 1; the minimum bounds those of masked keys.
        weights = target.exp2(jnp.minimum(logits - lse[None], 0))
        d_weights = target.matmul(value, d_out, dtype)
        if d_received is not None:
            d_weights += d_received[:, None] * query_weight[None]
            inner += query_weight * ((d_received * real) @ weights)
        d_logits = (weights * (d_weights - inner[None])).astype(query.dtype)
        d_key += target.matmul(d_logits, query.T, dtype)
        weights = weights.astype(query.dtype)
        d_value += target.matmul(weights, d_out.T, dtype)
        if d_bias is not None:
            d_bias += d_logits.sum(axis=1, dtype=dtype)
        d_query = target.matmul(real_key, d_logits, dtype)
        return (d_key, d_value, d_bias), d_query

    d_bias = None if bias is None else jnp.zeros_like(bias)
    zeros = (jnp.zeros_like(key, dtype), jnp.zeros_like(value, dtype), d_bias)
    rows = (query.T, scaled.T, lse, d_out.T, inner, query_weight)
    size = _tile_size(target, key.shape[0])
    (d_key, d_value, d_bias), d_query = _scan_tiles(tile, zeros, rows, size)
    scale = query.shape[-1] ** -0.5
    gradients = (d_query.T * scale, d_key * (real[:, None] * scale), d_value * real[:, None])
    # The logits are to base 2.
    d_bias = None if d_bias is None else d_bias * real * math.log(2)
    return *(
        gradient.astype(like.dtype)
        for gradient, like in zip(gradients, (query, key, value), strict=True)
    ), d_bias


def base_2(query: Array) -> Array:
    """Scales queries so that `2 ** (query · key)` is the exponential of the logits."""
    return query * (math.log2(math.e) * query.shape[-1] ** -0.5)


def are_small(
    query: Float[Array, "*q e"],
    key: Float[Array, "*n e"],
    dtype: np.dtype,
    bias: Float[Array, "*n"] | None = None,
) -> Bool[Array, ""]:
    """Returns whether softmax can do without subtracting the largest logit.

    The logits are to base 2, `query · key + bias`. Subtracting a constant from them does not
    change the softmax, and is only needed where an exponential can overflow or vanish. None can
    if the logits lie within half of the exponent range of `dtype`, in which the weights are
    multiplied with the values.

    Args:
      query: Queries, scaled by `base_2`.
      key: Keys.
      dtype: Type of the values.
      bias: Term added to the logits of each key; None for 0.
    """
    most = jnp.finfo(dtype).maxexp // 2
    left = most if bias is None else jnp.maximum(most - abs(bias).max(), 0)
    return _largest_square(query) * _largest_square(key) < left**2


def _largest_square(vectors: Float[Array, "*n e"]) -> Float[Array, ""]:
    dtype = jnp.promote_types(vectors.dtype, jnp.float32)
    return jnp.square(vectors.astype(dtype)).sum(axis=-1).max()


def _scan_tiles(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, columns: Any, size: int
) -> tuple[Any, Any]:
    """Applies `jax.lax.scan` over tiles of the last axis; a smaller last tile is not padded."""
    length = jax.tree.leaves(columns)[0].shape[-1]
    full = length // size
    outputs = []
    if full:
        tiles = jax.tree.map(lambda a: _split(a[..., : full * size], full), columns)
        carry, outputs_of_tiles = jax.lax.scan(step, carry, tiles)
        outputs.append(jax.tree.map(_unsplit, outputs_of_tiles))
    if length % size:
        rest = jax.tree.map(lambda a: a[..., full * size :], columns)
        carry, output = step(carry, rest)
        outputs.append(output)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *outputs)


def _split(array: Float[Array, "*c n"], count: int) -> Float[Array, "s *c n//s"]:
    *others, length = array.shape
    return jnp.moveaxis(array.reshape(*others, count, length // count), -2, 0)


def _unsplit(array: Float[Array, "s *c w"]) -> Float[Array, "*c s*w"]:
    array = jnp.moveaxis(array, 0, -2)
    *others, count, size = array.shape
    return array.reshape(*others, count * size)


def _tile_size(target: Target, num_keys: int) -> int:
    """Chooses the number of queries of a tile; on a CPU its weights fit the second-level cache."""
    if target.sequential:
        return min(max(80_000 // num_keys // 16, 1), 6) * 16
    return 256
