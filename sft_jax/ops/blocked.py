"""Exact attention that never stores its weights, and the saliency that pooling takes from it.

The weights are computed for a block of queries at a time and forgotten; the backward pass
computes them again from the log-sum-exp of each query (Rabe and Staats 2021, arXiv 2112.05682;
Dao et al. 2022, arXiv 2205.14135). A block holds all keys, so that its softmax needs no second
block, and the saliency comes out of the same pass. Memory grows linearly with the length.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from sft_jax.ops.exponential import exp2

SAVED = "attention"
"""The name of what the backward pass needs, for the policies of `jax.checkpoint`."""


def blocked_attention(
    query: Float[Array, "b q h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    key_mask: Bool[Array, "b n"],
    key_sizes: Float[Array, "b n"] | None = None,
) -> Float[Array, "b q h e"]:
    """Scaled dot-product attention, in memory linear in the number of queries and of keys.

    The same as `apply_weights` of `attention_weights` (`sft_jax.ops.attention`), to rounding.

    Args:
      query: queries of `h` heads of size `e`.
      key: keys.
      value: values.
      key_mask: False marks a key that gets no weight; neither it nor its value has any
        effect, whatever they are.
      key_sizes: at least 1 at real keys, how many equal keys each counts as; no gradient
        passes through them. None for 1 everywhere.

    Returns:
      The weighted sums of the values, in their type; 0 where an example has no real key.
    """
    weight = _key_weight(key_mask, key_sizes, query)
    key, value = (jnp.where(key_mask[..., None, None], array, 0) for array in (key, value))
    attended, _ = _attend(query, key, value, weight, None)
    return attended


def blocked_self_attention(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    sizes: Float[Array, "b n"] | None = None,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n-1"]]:
    """`blocked_attention` of a sequence over itself, CLS first, and the saliency of its tokens.

    Args:
      query: queries of `h` heads of size `e`.
      key: keys.
      value: values.
      mask: False marks padding.
      sizes: see `blocked_attention`.

    Returns:
      The weighted sums of the values, and `sft_jax.ops.attention.saliency` of the weights, in
      float32 or, for float64 inputs, float64. Gradients pass through both.
    """
    query, key, value = (
        jnp.where(mask[..., None, None], array, 0) for array in (query, key, value)
    )
    weight = _key_weight(mask, sizes, query)
    queries = mask.at[:, 0].set(False).astype(weight.dtype)
    count = jnp.maximum(queries.sum(axis=-1, keepdims=True), 1) * query.shape[2]
    attended, received = _attend(query, key, value, weight, queries / count)
    assert received is not None  # For mypy: it is None only without weights of the queries.
    return attended, received[:, 1:]


def _key_weight(mask: Bool[Array, "b n"], sizes: Float[Array, "b n"] | None, query: Array) -> Array:
    """What `exp` of a key's logits is multiplied by, in their type: its size, or 0."""
    weight = mask if sizes is None else jnp.where(mask, sizes, 0)
    return jax.lax.stop_gradient(weight.astype(jnp.promote_types(query.dtype, jnp.float32)))


@jax.custom_vjp
def _attend(
    query: Array, key: Array, value: Array, key_weight: Array, query_weight: Array | None
) -> tuple[Array, Array | None]:
    """The weighted sums and, if queries have weights, the weight that each key receives.

    Masked keys and values are finite. With `w_ij` the attention weights summed over the heads,
    a key receives `sum_i query_weight_i w_ij`.
    """
    return _forward(query, key, value, key_weight, query_weight)[0]


def _forward(
    query: Array, key: Array, value: Array, key_weight: Array, query_weight: Array | None
) -> tuple[tuple[Array, Array | None], Any]:
    parts = _by_head(query, key, value, key_weight, query_weight)
    out, lse, received = each(lambda of_head: _forward_of_head(*of_head), parts)
    out, lse = (checkpoint_name(array, SAVED) for array in (out, lse))
    if received is not None:
        received = checkpoint_name(_sum_over_heads(received, len(query)), SAVED)
    outputs = (_from_heads(out, query), received)
    return outputs, (query, key, value, key_weight, query_weight, out, lse)


def _backward(residuals: Any, cotangents: tuple[Array, Array | None]) -> tuple[Any, ...]:
    query, key, value, key_weight, query_weight, out, lse = residuals
    of_out, of_received = cotangents
    parts = _by_head(query, key, value, key_weight, query_weight)
    heads = query.shape[2]
    if of_received is not None:
        of_received = jnp.repeat(of_received, heads, axis=0)
    parts = (*parts, out, lse, _to_heads(of_out), of_received)
    gradients = each(lambda of_head: _backward_of_head(*of_head), parts)
    return (*(_from_heads(array, query) for array in gradients), None, None)


_attend.defvjp(_forward, _backward)


def _forward_of_head(
    query: Array, key: Array, value: Array, key_weight: Array, query_weight: Array | None
) -> tuple[Array, Array, Array | None]:
    """Of one head of one example: `[q, e]` sums, `[q]` log-sum-exp to base 2, what keys receive.

    Keys are rows and queries columns: reducing over the rows vectorises on a CPU.
    """
    kind = jnp.promote_types(query.dtype, jnp.float32)
    query = base_2(query)
    # With a weight of 0 a masked key is gone, whatever its logit.
    values = (value * key_weight[:, None]).astype(value.dtype).T

    def block(received: Array | None, queries: Any, *, shift: bool) -> tuple[Any, Any]:
        query, query_weight = queries
        logits = jnp.matmul(key, query, preferred_element_type=kind)
        most = jnp.zeros(query.shape[1], kind)
        if shift:
            # Without the masked keys, where 0 stands: next to that all others might vanish.
            logits = jnp.where(key_weight[:, None] > 0, logits, jnp.finfo(kind).min)
            most = logits.max(axis=0)
        weights = exp2(logits - most if shift else logits)
        sums = jnp.matmul(values, weights.astype(values.dtype), preferred_element_type=kind)
        total = (weights * key_weight[:, None]).sum(axis=0)
        total = jnp.where(total > 0, total, 1)
        if received is not None:
            received += weights @ (query_weight / total)
        out = (sums / total).astype(value.dtype)
        return received, (out, most + jnp.log2(total))

    def blocks(shift: bool) -> tuple[Any, Any]:
        start = None if query_weight is None else jnp.zeros(len(key), kind)
        step = functools.partial(block, shift=shift)
        return _scan_blocks(step, start, (query.T, query_weight), len(key))

    received, (out, lse) = jax.lax.cond(
        are_small(query, key, value.dtype),
        lambda: blocks(shift=False),
        lambda: blocks(shift=True),
    )
    return out.T, lse, None if received is None else received * key_weight


def _backward_of_head(
    query: Array,
    key: Array,
    value: Array,
    key_weight: Array,
    query_weight: Array | None,
    out: Array,
    lse: Array,
    of_out: Array,
    of_received: Array | None,
) -> tuple[Array, Array, Array]:
    """The gradients of query, key and value of one head of one example."""
    kind = jnp.promote_types(query.dtype, jnp.float32)
    scaled = base_2(query)
    inner = (out.astype(kind) * of_out.astype(kind)).sum(axis=-1)
    weighted_key = (key * key_weight[:, None]).astype(key.dtype).T

    def block(gradients: tuple[Array, Array], queries: Any) -> tuple[Any, Array]:
        of_key, of_value = gradients
        query, scaled, lse, of_out, inner, query_weight = queries
        logits = jnp.matmul(key, scaled, preferred_element_type=kind)
        # No weight exceeds 1; only what masked keys have could.
        weights = exp2(jnp.minimum(logits - lse, 0))
        of_weights = jnp.matmul(value, of_out, preferred_element_type=kind)
        if of_received is not None:
            of_weights += of_received[:, None] * query_weight
            inner += query_weight * ((of_received * key_weight) @ weights)
        of_logits = (weights * (of_weights - inner)).astype(query.dtype)
        of_key += jnp.matmul(of_logits, query.T, preferred_element_type=kind)
        weights = weights.astype(query.dtype)
        of_value += jnp.matmul(weights, of_out.T, preferred_element_type=kind)
        of_query = jnp.matmul(weighted_key, of_logits, preferred_element_type=kind)
        return (of_key, of_value), of_query

    zeros = (jnp.zeros(key.shape, kind), jnp.zeros(value.shape, kind))
    rows = (query.T, scaled.T, lse, of_out.T, inner, query_weight)
    (of_key, of_value), of_query = _scan_blocks(block, zeros, rows, len(key))
    scale = query.shape[-1] ** -0.5
    gradients = (
        of_query.T * scale,
        of_key * (key_weight[:, None] * scale),
        of_value * key_weight[:, None],
    )
    return tuple(
        gradient.astype(like.dtype)
        for gradient, like in zip(gradients, (query, key, value), strict=True)
    )


def base_2(query: Array) -> Array:
    """Scaled so that `2 ** (query · key)` is the exponential of the logits."""
    return query * (math.log2(math.e) * query.shape[-1] ** -0.5)


def are_small(
    query: Float[Array, "*q e"], key: Float[Array, "*n e"], dtype: np.dtype
) -> Bool[Array, ""]:
    """Whether softmax needs nothing subtracted from the logits to base 2, `query · key`.

    It is the same whatever is subtracted. Where no logit can be so large that its exponential
    overflows, and none so small that it vanishes, nothing need be: within half of the exponents
    of `dtype`, in which the weights are multiplied with the values.
    """
    return _largest_square(query) * _largest_square(key) < (jnp.finfo(dtype).maxexp // 2) ** 2


def _largest_square(vectors: Float[Array, "*n e"]) -> Float[Array, ""]:
    kind = jnp.promote_types(vectors.dtype, jnp.float32)
    return jnp.square(vectors.astype(kind)).sum(axis=-1).max()


def _scan_blocks(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, columns: Any, num_keys: int
) -> tuple[Any, Any]:
    """`jax.lax.scan` over blocks of the last axis; a last, smaller block is not filled up."""
    length = jax.tree.leaves(columns)[0].shape[-1]
    size = _block_size(num_keys)
    full = length // size
    outputs = []
    if full:
        blocks = jax.tree.map(lambda a: _split(a[..., : full * size], full), columns)
        carry, outputs_of_full = jax.lax.scan(step, carry, blocks)
        outputs.append(jax.tree.map(_unsplit, outputs_of_full))
    if length % size:
        rest = jax.tree.map(lambda a: a[..., full * size :], columns)
        carry, output = step(carry, rest)
        outputs.append(output)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *outputs)


def _split(array: Float[Array, "*c n"], count: int) -> Float[Array, "s *c n//s"]:
    return jnp.moveaxis(array.reshape(*array.shape[:-1], count, -1), -2, 0)


def _unsplit(array: Float[Array, "s *c w"]) -> Float[Array, "*c s*w"]:
    array = jnp.moveaxis(array, 0, -2)
    return array.reshape(*array.shape[:-2], -1)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _block_size(num_keys: int) -> int:
    """Queries of a block: on a CPU as many as leave its weights in the second-level cache."""
    if _on_cpu():
        return min(max(80_000 // num_keys // 16, 1), 6) * 16
    return 256


def each(function: Callable[[Any], Any], parts: Any) -> Any:
    """Applies a function to every example or head: on a CPU one by one, to stay in its cache."""
    return jax.lax.map(function, parts) if _on_cpu() else jax.vmap(function)(parts)


def _by_head(
    query: Array, key: Array, value: Array, key_weight: Array, query_weight: Array | None
) -> tuple[Any, ...]:
    heads = query.shape[2]
    key_weight = jnp.repeat(key_weight, heads, axis=0)
    if query_weight is not None:
        query_weight = jnp.repeat(query_weight, heads, axis=0)
    return (_to_heads(query), _to_heads(key), _to_heads(value), key_weight, query_weight)


def _to_heads(array: Float[Array, "b n h e"]) -> Float[Array, "g n e"]:
    return array.swapaxes(1, 2).reshape(-1, array.shape[1], array.shape[3])


def _from_heads(array: Float[Array, "g n e"], like: Array) -> Float[Array, "b n h e"]:
    return array.reshape(len(like), like.shape[2], *array.shape[1:]).swapaxes(1, 2)


def _sum_over_heads(array: Float[Array, "g n"], batch: int) -> Float[Array, "b n"]:
    return array.reshape(batch, -1, array.shape[1]).sum(axis=1)
