"""Attention for TPU by kernels of Mosaic, which keep the weights on the chip.

A step of a kernel computes the weights of a tile of queries in vector memory, uses them and
discards them. No array of queries times keys is written to main memory. Tokens lie on the 128
lanes of a register and features on its 8 sublanes, so that small heads need no padding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

_LANES, _SUBLANES = 128, 8
_TILE = 256
"""Number of queries of a tile, if its weights are not too many."""
_MOST_WEIGHTS = 2**19
"""Largest number of weights of a tile; the backward kernel takes about 16 bytes for each."""


def takes(size: int, num_keys: int) -> bool:
    """Returns whether the kernels take heads of a size, and this number of keys."""
    return size <= _LANES and _padded(num_keys) * _LANES <= _MOST_WEIGHTS


def forward(*arrays: Array) -> list[Array]:
    """Computes the forward pass of `sft_jax.ops.attention.on_chip.Kernels`."""
    query, key, value, addend, *query_weight = arrays
    query, key, value = (array.swapaxes(2, 3) for array in (query, key, value))
    grid = _Grid(query, key)
    inputs = [grid.query_block(query), *map(grid.key_block, [key, value, addend[:, None]])]
    inputs += [grid.query_block(row[:, None]) for row in query_weight]
    outputs = [
        grid.query_block(jax.ShapeDtypeStruct(query.shape, value.dtype)),
        grid.query_block(grid.rows(1, query)),
        *(grid.key_block(grid.rows(_SUBLANES, key)) for _ in query_weight),
    ]
    out, lse, *received = grid.call(_forward_tile, inputs, outputs)
    return [out.swapaxes(2, 3), lse[:, :, 0], *(array[:, :, 0] for array in received)]


def backward(*arrays: Array, with_terms: bool) -> list[Array]:
    """Computes the backward pass of `sft_jax.ops.attention.on_chip.Kernels`."""
    query, key, value, addend, lse, inner, d_out, *salient = arrays
    query, key, value, d_out = (array.swapaxes(2, 3) for array in (query, key, value, d_out))
    grid = _Grid(query, key)
    inputs = [grid.query_block(query), *map(grid.key_block, [key, value, addend[:, None]])]
    inputs += map(grid.query_block, [lse[:, :, None], inner[:, :, None], d_out])
    if salient:
        query_weight, d_received = (array[:, None] for array in salient)
        inputs += [grid.query_block(query_weight), grid.key_block(d_received)]
    rows = (grid.size, grid.size, *[_SUBLANES] * with_terms)
    sums = [grid.rows(number, key) for number in rows]
    outputs = [grid.query_block(query), *map(grid.key_block, sums)]
    d_query, d_key, d_value, *d_terms = grid.call(_backward_tile, inputs, outputs)
    gradients = (d_query, d_key.astype(key.dtype), d_value.astype(value.dtype))
    return [
        *(array.swapaxes(2, 3) for array in gradients),
        *(array[:, :, 0] for array in d_terms),
    ]


class _Block(NamedTuple):
    """Array or its shape, and the part of it that a step of a kernel takes."""

    array: Any
    spec: pl.BlockSpec


class _Grid:
    """Steps of a kernel: examples, heads, and tiles of queries, in this order."""

    def __init__(self, query: Array, key: Array) -> None:
        self.batch, self.heads, self.size, self.num_queries = query.shape
        most = _MOST_WEIGHTS // _padded(key.shape[-1])
        self.tile = min(*(_TILE, most // _LANES * _LANES, _padded(self.num_queries)))

    def query_block(self, array: Any) -> _Block:
        """Array `[b, h, rows, q]` or `[b, rows, q]`, by tiles."""
        return self._block(array, self.tile, by_tile=True)

    def key_block(self, array: Any) -> _Block:
        """Array `[b, h, rows, n]` or `[b, rows, n]`, with all keys of a head or an example."""
        return self._block(array, array.shape[-1], by_tile=False)

    def _block(self, array: Any, size: int, *, by_tile: bool) -> _Block:
        *leading, rows, _ = array.shape
        count = len(leading)
        return _Block(
            array,
            pl.BlockSpec(
                (*[None] * count, rows, size),
                lambda *step: (*step[:count], 0, step[2] if by_tile else 0),
            ),
        )

    def rows(self, number: int, like: Array) -> jax.ShapeDtypeStruct:
        """Shape of a number of rows for each head, in float32."""
        shape = (self.batch, self.heads, number, like.shape[-1])
        return jax.ShapeDtypeStruct(shape, np.float32)

    def call(self, kernel: Any, inputs: Sequence[_Block], outputs: Sequence[_Block]) -> Any:
        """Runs a kernel on references of all blocks."""
        tiles = -(-self.num_queries // self.tile)
        last = self.num_queries - (tiles - 1) * self.tile
        return pl.pallas_call(
            functools.partial(kernel, num_inputs=len(inputs), last=last),
            name=f"attention{kernel.__name__}",
            grid=(self.batch, self.heads, tiles),
            in_specs=[block.spec for block in inputs],
            out_specs=[block.spec for block in outputs],
            # Within `jax.shard_map` a `ShapeDtypeStruct` would need the type of a manual axis.
            out_shape=[ShapedArray(block.array.shape, block.array.dtype) for block in outputs],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary")
            ),
        )(*(block.array for block in inputs))


def _padded(length: int) -> int:
    return -(-length // _LANES) * _LANES


def _forward_tile(*refs: Any, num_inputs: int, last: int) -> None:
    """Computes a tile of queries of one head: queries are rows and keys are columns."""
    query, key, value, addend, *query_weight = refs[:num_inputs]
    out, lse, *received = refs[num_inputs:]
    logits = _dot(_real(query, last), key[...], 0, 0) + addend[...]
    most = logits.max(axis=1, keepdims=True)
    weights = jnp.exp2(logits - most)
    total = weights.sum(axis=1, keepdims=True)
    sums = _dot(value[...], weights.astype(value.dtype), 1, 1)
    row = _row(total)
    out[...] = (sums / row).astype(out.dtype)
    lse[...] = _row(most) + jnp.log2(row)
    if received:
        share = _eight(_real(query_weight[0], last) / row)
        _add(received[0], _dot(share, weights, 1, 0))


def _backward_tile(*refs: Any, num_inputs: int, last: int) -> None:
    """Computes the gradients of a tile of queries, and adds those of the keys."""
    query, key, value, addend, lse, inner, d_out, *salient = refs[:num_inputs]
    d_query, d_key, d_value, *d_addend = refs[num_inputs:]
    query, lse, inner, d_out = (_real(rows, last) for rows in (query, lse, inner, d_out))
    logits = _dot(query, key[...], 0, 0) + addend[...]
    weights = jnp.exp2(logits - _column(lse))
    own, values, d_sums = _column(inner), value[...], d_out
    if salient:
        query_weight, d_received = _real(salient[0], last), _eight(salient[1][...])
        own += _column(query_weight) * (weights * salient[1][...]).sum(axis=1, keepdims=True)
        values = jnp.concatenate([values, d_received.astype(values.dtype)])
        first = jax.lax.broadcasted_iota(jnp.int32, (_SUBLANES, query_weight.shape[1]), 0) == 0
        d_sums = jnp.concatenate([d_sums, jnp.where(first, query_weight, 0).astype(d_sums.dtype)])
    d_weights = _dot(d_sums, values, 0, 0)
    d_logits = weights * (d_weights - own)
    d_query[...] = _dot(key[...], d_logits.astype(key.dtype), 1, 1).astype(d_query.dtype)
    _add(d_key, _dot(query, d_logits.astype(query.dtype), 1, 0))
    _add(d_value, _dot(d_out, weights.astype(d_out.dtype), 1, 0))
    if d_addend:
        _add(d_addend[0], _dot(jnp.ones((_SUBLANES, d_logits.shape[0])), d_logits, 1, 0))


def _real(rows: Any, last: int) -> Array:
    """Reads rows of a tile of queries, with 0 for those beyond the end in the last tile."""
    if last == rows.shape[1]:
        return rows[...]
    end = jnp.where(pl.program_id(2) == pl.num_programs(2) - 1, last, rows.shape[1])
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, rows.shape, 1) < end, rows[...], 0)


def _dot(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    """Multiplies matrices over the given axes, and accumulates in float32."""
    axes = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


def _eight(row: Array) -> Array:
    return jnp.broadcast_to(row, (_SUBLANES, row.shape[1]))


def _column(row: Array) -> Array:
    return _eight(row).T[:, :1]


def _row(column: Array) -> Array:
    return jnp.broadcast_to(column, (column.shape[0], _LANES)).T[:1]


def _add(total: Any, tile: Array) -> None:
    """Adds what a tile of queries gives to the total of a head."""

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        total[...] = jnp.zeros_like(total)

    total[...] += tile
