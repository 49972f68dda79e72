"""Exact attention that never stores its weights, and the saliency that pooling uses.

The weights are computed for one tile of queries at a time and discarded. The backward pass
recomputes them from the log-sum-exp of each query (Rabe and Staats 2021, arXiv 2112.05682;
Dao et al. 2022, arXiv 2205.14135). Memory grows linearly with the length.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from sft_jax.ops.attention import on_chip, tiles
from sft_jax.ops.attention.tiles import Inputs
from sft_jax.ops.refusal import reverse_only
from sft_jax.ops.target import for_target, varying_alike

SAVED = "attention"
"""Name of the arrays that the backward pass needs, for the policies of `jax.checkpoint`."""

_NO_FORWARD_MODE = (
    "forward-mode differentiation (jax.jvp, jax.jacfwd, jax.linearize) of attention that stores no"
    " weights is not implemented; with attention_kernel='plain' it is"
)


def tiled_attention(
    query: Float[Array, "b q h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    key_mask: Bool[Array, "b n"],
    key_sizes: Float[Array, "b n"] | None = None,
    *,
    chip: bool = False,
) -> Float[Array, "b q h e"]:
    """Scaled dot-product attention, in memory linear in the number of queries and of keys.

    It equals `apply_weights` of `attention_weights` (`sft_jax.ops.attention.plain`), up to
    rounding.

    Args:
      query: Queries of `h` heads of size `e`.
      key: Keys.
      value: Values.
      key_mask: False marks a key that gets no weight. Neither the key nor its value has any
        effect, even if it is NaN.
      key_sizes: Number of equal keys that each real key counts as, above 0; None for 1
        everywhere.
      chip: Whether accelerators keep each tile on the chip, if it fits, by kernels of their own
        (`sft_jax.ops.attention.on_chip`).

    Returns:
      The weighted sums of the values, in their type; 0 where an example has no real key.
    """
    key, value = (jnp.where(key_mask[..., None, None], array, 0) for array in (key, value))
    terms = _key_terms(key_mask, key_sizes, query)
    attended, _ = _attend(Inputs(query, key, value, *terms, None), chip)
    return attended


def tiled_self_attention(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    sizes: Float[Array, "b n"] | None = None,
    *,
    chip: bool = False,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n-1"]]:
    """Computes `tiled_attention` of a sequence over itself, CLS first, and the saliency.

    Args:
      query: Queries of `h` heads of size `e`.
      key: Keys.
      value: Values.
      mask: False marks padding.
      sizes: See `tiled_attention`.
      chip: See `tiled_attention`.

    Returns:
      The weighted sums of the values, and the saliency of the tokens after CLS
      (`sft_jax.ops.attention.plain.saliency`), in float32 or, for float64 inputs, float64.
      Gradients pass through both.
    """
    query, key, value = (
        jnp.where(mask[..., None, None], array, 0) for array in (query, key, value)
    )
    real, bias = _key_terms(mask, sizes, query)
    queries = mask.at[:, 0].set(False).astype(real.dtype)
    count = jnp.maximum(queries.sum(axis=-1, keepdims=True), 1) * query.shape[2]
    inputs = Inputs(query, key, value, real, bias, queries / count)
    attended, received = _attend(inputs, chip)
    assert received is not None  # For mypy: it is None only if `query_weight` is.
    return attended, received[:, 1:]


def _key_terms(
    mask: Bool[Array, "b n"], sizes: Float[Array, "b n"] | None, query: Array
) -> tuple[Array, Array | None]:
    """Returns 1 at real keys and 0 elsewhere, and the terms added to base-2 logits, if any."""
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    bias = None
    if sizes is not None:
        bias = jnp.log2(jnp.where(mask, sizes, 1).astype(dtype))
    return mask.astype(dtype), bias


def _attend(inputs: Inputs, chip: bool) -> tuple[Array, Array | None]:
    """Computes the weighted sums and, if queries have weights, the weight each key receives.

    A key receives `sum_i query_weight_i w_ij`, where `w_ij` are the attention weights summed over
    the heads.
    """
    platforms = on_chip.platforms(inputs.query, inputs.key) if chip else ()
    query, key, value = (reverse_only(array, _NO_FORWARD_MODE) for array in inputs[:3])
    inputs = varying_alike(inputs._replace(query=query, key=key, value=value))
    return _attend_in_reverse(platforms, inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_in_reverse(platforms: tuple[str, ...], inputs: Inputs) -> tuple[Array, Array | None]:
    return _forward(platforms, inputs)[0]


def _forward(platforms: tuple[str, ...], inputs: Inputs) -> tuple[tuple[Array, Array | None], Any]:
    heads = _by_head(inputs)
    own = {
        name: functools.partial(on_chip.forward, name, inputs.query.shape[2]) for name in platforms
    }
    out, lse, received = for_target(tiles.forward, heads, **own)
    out, lse = (checkpoint_name(array, SAVED) for array in (out, lse))
    if received is not None:
        received = checkpoint_name(_sum_over_heads(received, inputs.query), SAVED)
    return (_from_heads(out, inputs.query), received), (inputs, out, lse)


def _backward(
    platforms: tuple[str, ...], residuals: Any, cotangents: tuple[Array, Array | None]
) -> tuple[Inputs]:
    inputs, out, lse = residuals
    d_out, d_received = cotangents
    if d_received is not None:
        d_received = jnp.repeat(d_received, inputs.query.shape[2], axis=0)
    arrays = (_by_head(inputs), out, lse, _to_heads(d_out), d_received)
    own = {
        name: functools.partial(on_chip.backward, name, inputs.query.shape[2]) for name in platforms
    }
    by_head = for_target(tiles.backward, arrays, **own)
    d_query, d_key, d_value = (_from_heads(array, inputs.query) for array in by_head[:3])
    d_bias = None if by_head[3] is None else _sum_over_heads(by_head[3], inputs.query)
    none: Any = None
    return (Inputs(d_query, d_key, d_value, none, d_bias, none),)


_attend_in_reverse.defvjp(_forward, _backward)


def _by_head(inputs: Inputs) -> Inputs:
    """Moves examples and heads to one leading axis."""
    query, key, value = (_to_heads(array) for array in inputs[:3])
    per_head: Any = jax.tree.map(
        lambda array: jnp.repeat(array, inputs.query.shape[2], axis=0), inputs[3:]
    )
    return Inputs(query, key, value, *per_head)


def _to_heads(array: Float[Array, "b n h e"]) -> Float[Array, "g n e"]:
    batch, length, heads, size = array.shape
    return array.swapaxes(1, 2).reshape(batch * heads, length, size)


def _from_heads(array: Float[Array, "g n e"], like: Array) -> Float[Array, "b n h e"]:
    return array.reshape(like.shape[0], like.shape[2], *array.shape[1:]).swapaxes(1, 2)


def _sum_over_heads(
    array: Float[Array, "g n"], query: Float[Array, "b q h e"]
) -> Float[Array, "b n"]:
    heads = query.shape[2]
    return array.reshape(query.shape[0], heads, array.shape[1]).sum(axis=1)
