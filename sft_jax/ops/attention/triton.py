"""Kernels of Triton for attention on NVIDIA GPUs.

A program computes a block of queries, or of keys, and passes over all blocks of the others
(Dao et al. 2022, arXiv 2205.14135). What the keys receive takes one more pass, since the
log-sum-exp of each query has to be known. Features are padded with 0 to a power of two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from sft_jax.ops.attention.tiles import MASKED

_BLOCK = 64
"""Number of queries, and of keys, of a block."""
_LEAST, _MOST = 16, 128
"""Least number of features of a product of Triton, and the largest number that was tried."""


def takes(size: int, num_keys: int) -> bool:
    """Returns whether the kernels take heads of a size, and this number of keys."""
    del num_keys
    return size <= _MOST


def forward(*arrays: Array) -> list[Array]:
    """Computes the forward pass of `sft_jax.ops.attention.on_chip.Kernels`."""
    query, key, value, addend, *query_weight = arrays
    size, num_queries, num_keys = query.shape[-1], query.shape[2], key.shape[2]
    query, key, value = map(_rows, (query, key, value))
    addend = _padded(addend, 1, MASKED)
    per_query = jax.ShapeDtypeStruct(query.shape[:3], np.float32)
    out, lse = _call(
        _forward_block,
        [_part(query), _whole(key), _whole(value), _whole(addend)],
        [_part(jax.ShapeDtypeStruct(query.shape, value.dtype)), _part(per_query)],
    )
    results = [out[:, :, :num_queries, :size], lse[:, :, :num_queries]]
    if query_weight:
        weight = _padded(query_weight[0], 1)
        inputs = [_part(key), _part(addend), _whole(query), _whole(lse), _whole(weight)]
        per_key = jax.ShapeDtypeStruct(key.shape[:3], np.float32)
        (received,) = _call(_received_block, inputs, [_part(per_key)])
        results.append(received[:, :, :num_keys])
    return results


def backward(*arrays: Array, with_terms: bool) -> list[Array]:
    """Computes the backward pass of `sft_jax.ops.attention.on_chip.Kernels`."""
    query, key, value, addend, lse, inner, d_out, *salient = arrays
    size, num_queries, num_keys = query.shape[-1], query.shape[2], key.shape[2]
    query, key, value, d_out = map(_rows, (query, key, value, d_out))
    addend = _padded(addend, 1, MASKED)
    lse, inner = (_padded(array, 2) for array in (lse, inner))
    weight, d_received = (_padded(array, 1) for array in salient) if salient else (None, None)
    own = [_part(weight), _whole(d_received)] if salient else []
    d_query, inner = _call(
        _query_block,
        [*map(_part, (query, lse, inner, d_out)), *map(_whole, (key, value, addend)), *own],
        [_part(query), _part(inner)],
    )
    own = [_part(d_received), _whole(weight)] if salient else []
    per_key = jax.ShapeDtypeStruct(key.shape[:3], np.float32)
    d_key, d_value, *d_terms = _call(
        _key_block,
        [*map(_part, (key, value, addend)), *map(_whole, (query, lse, inner, d_out)), *own],
        [_part(key), _part(value), *[_part(per_key)] * with_terms],
    )
    return [
        d_query[:, :, :num_queries, :size],
        *(array[:, :, :num_keys, :size] for array in (d_key, d_value)),
        *(array[:, :, :num_keys] for array in d_terms),
    ]


def _rows(array: Array) -> Array:
    """Pads tokens to whole blocks, and features."""
    size = max(_LEAST, 1 << (array.shape[-1] - 1).bit_length())
    features = [(0, 0)] * 3 + [(0, size - array.shape[-1])]
    return jnp.pad(_padded(array, 2), features)


def _padded(array: Array, axis: int, fill: float = 0.0) -> Array:
    """Pads tokens to whole blocks."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % _BLOCK)
    return jnp.pad(array, widths, constant_values=fill)


class _Argument(NamedTuple):
    """Array or its shape, and the part of it that a program gets."""

    array: Any
    spec: pl.BlockSpec


def _part(array: Any) -> _Argument:
    """Argument `[b, h, n, ...]` or `[b, n]`; a program gets the tokens of its block."""
    return _argument(array, _BLOCK, divided=True)


def _whole(array: Any) -> _Argument:
    """Argument `[b, h, n, ...]` or `[b, n]`; a program gets all tokens."""
    return _argument(array, array.shape[min(array.ndim - 1, 2)], divided=False)


def _argument(array: Any, tokens: int, *, divided: bool) -> _Argument:
    count = 1 if array.ndim == 2 else 2
    features = array.shape[count + 1 :]

    def index(*program: Any) -> Any:
        return *program[:count], program[2] if divided else 0, *[0] * len(features)

    return _Argument(array, pl.BlockSpec((*[None] * count, tokens, *features), index))


def _call(
    kernel: Callable[..., None], inputs: Sequence[_Argument], outputs: Sequence[_Argument]
) -> Sequence[Array]:
    """Runs a kernel for each example, head and block of the first output."""
    batch, heads, tokens = outputs[0].array.shape[:3]
    return pl.pallas_call(
        functools.partial(kernel, len(inputs)),
        name=f"attention{kernel.__name__}",
        grid=(batch, heads, tokens // _BLOCK),
        in_specs=[argument.spec for argument in inputs],
        out_specs=[argument.spec for argument in outputs],
        # Within `jax.shard_map` a `ShapeDtypeStruct` would need the type of a manual axis.
        out_shape=[ShapedArray(one.array.shape, one.array.dtype) for one in outputs],
        compiler_params=plt.CompilerParams(num_warps=4, num_stages=2),
    )(*(argument.array for argument in inputs))


def _forward_block(num_inputs: int, *refs: Any) -> None:
    """Computes the weighted sums of a block of queries, in one pass over the keys."""
    (query, key, value, addend), (out, lse) = refs[:num_inputs], refs[num_inputs:]
    own = query[...]

    def step(j: Any, carry: Any) -> Any:
        most, total, sums = carry
        keys = _block(j)
        logits = _dot(own, key[keys, :].T) + addend[keys][None]
        new = jnp.maximum(most, logits.max(axis=1))
        weights, scale = jnp.exp2(logits - new[:, None]), jnp.exp2(most - new)
        values = value[keys, :]
        sums = sums * scale[:, None] + _dot(weights.astype(values.dtype), values)
        return new, total * scale + weights.sum(axis=1), sums

    zeros = jnp.zeros(own.shape[:1], np.float32)
    start = (zeros + MASKED, zeros, jnp.zeros(own.shape, np.float32))
    most, total, sums = jax.lax.fori_loop(0, key.shape[0] // _BLOCK, step, start)
    out[...] = (sums / total[:, None]).astype(out.dtype)
    lse[...] = most + jnp.log2(total)


def _received_block(num_inputs: int, *refs: Any) -> None:
    """Computes what a block of keys receives, in one pass over the queries."""
    (key, addend, query, lse, weight), (received,) = refs[:num_inputs], refs[num_inputs:]
    own, term = key[...], addend[...][:, None]

    def step(i: Any, total: Array) -> Array:
        queries = _block(i)
        logits = _dot(own, query[queries, :].T) + term
        weights = jnp.exp2(logits - lse[queries][None])
        return total + (weights * weight[queries][None]).sum(axis=1)

    start = jnp.zeros(own.shape[:1], np.float32)
    received[...] = jax.lax.fori_loop(0, query.shape[0] // _BLOCK, step, start)


def _query_block(num_inputs: int, *refs: Any) -> None:
    """Computes the gradients of a block of queries, in one pass over the keys, or two.

    With gradients of what the keys receive, the first pass completes `inner`.
    """
    query, lse, inner, d_out, key, value, addend, *salient = refs[:num_inputs]
    d_query, complete = refs[num_inputs:]
    own, d_sums, shift = query[...], d_out[...], lse[...][:, None]
    count = key.shape[0] // _BLOCK
    total = inner[...]

    def weights_of(keys: Any) -> Array:
        return jnp.exp2(_dot(own, key[keys, :].T) + addend[keys][None] - shift)

    if salient:
        weight, d_received = salient[0][...], salient[1]

        def first(j: Any, sums: Array) -> Array:
            keys = _block(j)
            return sums + (weights_of(keys) * d_received[keys][None]).sum(axis=1)

        total += weight * jax.lax.fori_loop(0, count, first, jnp.zeros_like(total))

    def step(j: Any, sums: Array) -> Array:
        keys = _block(j)
        d_weights = _dot(d_sums, value[keys, :].T)
        if salient:
            d_weights += weight[:, None] * d_received[keys][None]
        d_logits = weights_of(keys) * (d_weights - total[:, None])
        return sums + _dot(d_logits.astype(own.dtype), key[keys, :])

    sums = jax.lax.fori_loop(0, count, step, jnp.zeros(own.shape, np.float32))
    d_query[...] = sums.astype(d_query.dtype)
    complete[...] = total


def _key_block(num_inputs: int, *refs: Any) -> None:
    """Computes the gradients of a block of keys, in one pass over the queries."""
    key, value, addend, query, lse, inner, d_out, *salient = refs[:num_inputs]
    outputs = refs[num_inputs:]
    own, values, term = key[...], value[...], addend[...][:, None]

    def step(i: Any, sums: Any) -> Any:
        queries = _block(i)
        rows, d_sums = query[queries, :], d_out[queries, :]
        weights = jnp.exp2(_dot(own, rows.T) + term - lse[queries][None])
        d_weights = _dot(values, d_sums.T)
        if salient:
            d_weights += salient[0][...][:, None] * salient[1][queries][None]
        d_logits = weights * (d_weights - inner[queries][None])
        added = (
            _dot(d_logits.astype(rows.dtype), rows),
            _dot(weights.astype(d_sums.dtype), d_sums),
            d_logits.sum(axis=1),
        )
        return [total + part for total, part in zip(sums, added, strict=False)]

    start = [jnp.zeros(output.shape, np.float32) for output in outputs]
    sums = jax.lax.fori_loop(0, query.shape[0] // _BLOCK, step, start)
    for gradient, total in zip(outputs, sums, strict=True):
        gradient[...] = total.astype(gradient.dtype)


def _block(i: Any) -> Any:
    return pl.ds(i * _BLOCK, _BLOCK)


def _dot(left: Array, right: Array) -> Array:
    return jnp.dot(left, right, preferred_element_type=np.float32)
