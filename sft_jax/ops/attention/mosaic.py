"""Attention for TPU by kernels of Mosaic, which keep the weights on the chip.

A step of a kernel computes the weights of a tile of queries in vector memory, uses them and
discards them. No array of queries times keys is written to main memory. Heads whose features fill
the 128 lanes of a register are read as they are. Of others, tokens lie on the lanes and features on
the 8 sublanes, so that small heads need no padding.
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
    grid = _Grid(query, key)
    inputs = [grid.queries(query), grid.keys(key), grid.keys(value)]
    inputs += [grid.key_rows(addend[:, None])]
    inputs += [grid.query_rows(row[:, None]) for row in query_weight]
    outputs = [
        grid.queries(jax.ShapeDtypeStruct(query.shape, value.dtype)),
        grid.query_rows(grid.rows(1, grid.num_queries)),
        *(grid.key_rows(grid.rows(_SUBLANES, grid.num_keys)) for _ in query_weight),
    ]
    out, lse, *received = grid.call(_forward_tile, inputs, outputs)
    return [grid.turned(out), lse[:, :, 0], *(array[:, :, 0] for array in received)]


def backward(*arrays: Array, with_terms: bool) -> list[Array]:
    """Computes the backward pass of `sft_jax.ops.attention.on_chip.Kernels`."""
    query, key, value, addend, lse, inner, d_out, *salient = arrays
    grid = _Grid(query, key)
    inputs = [grid.queries(query), grid.keys(key), grid.keys(value)]
    inputs += [grid.key_rows(addend[:, None])]
    inputs += [grid.query_rows(row[:, :, None]) for row in (lse, inner)]
    inputs += [grid.queries(d_out)]
    if salient:
        query_weight, d_received = (array[:, None] for array in salient)
        inputs += [grid.query_rows(query_weight), grid.key_rows(d_received)]
    sums = jax.ShapeDtypeStruct(key.shape, np.float32)
    terms = [grid.key_rows(grid.rows(_SUBLANES, grid.num_keys))] * with_terms
    outputs = [grid.queries(query), grid.keys(sums), grid.keys(sums), *terms]
    d_query, d_key, d_value, *d_terms = grid.call(_backward_tile, inputs, outputs)
    gradients = (d_query, d_key.astype(key.dtype), d_value.astype(value.dtype))
    return [*map(grid.turned, gradients), *(array[:, :, 0] for array in d_terms)]


class _Block(NamedTuple):
    """Array or its shape, and the part of it that a step of a kernel takes."""

    array: Any
    spec: pl.BlockSpec


class _Grid:
    """Steps of a kernel: examples, heads, and tiles of queries, in this order.

    Attributes:
      wide: True if features lie on the lanes of a register, False if tokens do.
    """

    def __init__(self, query: Array, key: Array) -> None:
        """Chooses the tiles for queries `[b, h, q, e]` and keys `[b, h, n, e]`."""
        self.batch, self.heads, self.num_queries, size = query.shape
        self.num_keys, self.wide = key.shape[2], size % _LANES == 0
        most = _MOST_WEIGHTS // _padded(self.num_keys)
        self.tile = min(*(_TILE, most // _LANES * _LANES, _padded(self.num_queries)))

    def queries(self, array: Any) -> _Block:
        """Array `[b, h, q, e]` by tiles of queries."""
        return self._block(self.turned(array), 2 if self.wide else 3, self.tile)

    def keys(self, array: Any) -> _Block:
        """Array `[b, h, n, e]` with all keys of a head."""
        return self._block(self.turned(array))

    def query_rows(self, array: Any) -> _Block:
        """Array `[b, h, rows, q]` or `[b, rows, q]` by tiles of queries."""
        return self._block(array, len(array.shape) - 1, self.tile)

    def key_rows(self, array: Any) -> _Block:
        """Array `[b, h, rows, n]` or `[b, rows, n]` with all keys of a head or an example."""
        return self._block(array)

    def _block(self, array: Any, tiled: int | None = None, size: int = 0) -> _Block:
        """Part of an array, whose axis `tiled` is cut into tiles of a size."""
        leading = len(array.shape) - 2
        shape = [*[None] * leading, *array.shape[-2:]]
        if tiled is not None:
            shape[tiled] = size
        steps = [2 if axis == tiled else None for axis in (leading, leading + 1)]

        def place(*step: Any) -> tuple[Any, ...]:
            return (*step[:leading], *(0 if axis is None else step[axis] for axis in steps))

        return _Block(array, pl.BlockSpec(tuple(shape), place))

    def turned(self, array: Any) -> Any:
        """Swaps tokens and features of an array or a shape, unless features lie on the lanes."""
        if self.wide:
            return array
        if isinstance(array, jax.ShapeDtypeStruct):
            *leading, rows, columns = array.shape
            return jax.ShapeDtypeStruct((*leading, columns, rows), array.dtype)
        return array.swapaxes(2, 3)

    def rows(self, number: int, length: int) -> jax.ShapeDtypeStruct:
        """Shape of a number of rows for each head, in float32."""
        return jax.ShapeDtypeStruct((self.batch, self.heads, number, length), np.float32)

    def call(self, kernel: Any, inputs: Sequence[_Block], outputs: Sequence[_Block]) -> Any:
        """Runs a kernel on references of all blocks."""
        tiles = -(-self.num_queries // self.tile)
        last = self.num_queries - (tiles - 1) * self.tile
        return pl.pallas_call(
            functools.partial(kernel, num_inputs=len(inputs), last=last, wide=self.wide),
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


def _forward_tile(*refs: Any, num_inputs: int, last: int, wide: bool) -> None:
    """Computes a tile of queries of one head: queries are rows and keys are columns."""
    query, key, value, addend, *query_weight = refs[:num_inputs]
    out, lse, *received = refs[num_inputs:]
    features = 1 if wide else 0
    logits = _dot(_real(query, last, 1 - features), key[...], features, features) + addend[...]
    most = logits.max(axis=1, keepdims=True)
    weights = jnp.exp2(logits - most)
    total = weights.sum(axis=1, keepdims=True)
    row = _row(total)
    sums = _by_token(weights.astype(value.dtype), value[...], 1, wide)
    out[...] = (sums / (total if wide else row)).astype(out.dtype)
    lse[...] = _row(most) + jnp.log2(row)
    if received:
        share = _eight(_real(query_weight[0], last, 1) / row)
        _add(received[0], _dot(share, weights, 1, 0))


def _backward_tile(*refs: Any, num_inputs: int, last: int, wide: bool) -> None:
    """Computes the gradients of a tile of queries, and adds those of the keys."""
    query, key, value, addend, lse, inner, d_out, *salient = refs[:num_inputs]
    d_query, d_key, d_value, *d_addend = refs[num_inputs:]
    features = 1 if wide else 0
    query, d_out = (_real(tokens, last, 1 - features) for tokens in (query, d_out))
    lse, inner = (_real(rows, last, 1) for rows in (lse, inner))
    logits = _dot(query, key[...], features, features) + addend[...]
    weights = jnp.exp2(logits - _column(lse))
    own, values, d_sums = _column(inner), value[...], d_out
    shared: Any = 0
    if salient:
        query_weight, d_received = _real(salient[0], last, 1), salient[1][...]
        own += _column(query_weight) * (weights * d_received).sum(axis=1, keepdims=True)
        if wide:
            shared = _column(query_weight) * d_received
        else:  # As one more feature, whose product takes no more time.
            values = jnp.concatenate([values, _eight(d_received).astype(values.dtype)])
            first = jax.lax.broadcasted_iota(jnp.int32, (_SUBLANES, query_weight.shape[1]), 0) == 0
            own_rows = jnp.where(first, query_weight, 0).astype(d_sums.dtype)
            d_sums = jnp.concatenate([d_sums, own_rows])
    d_weights = _dot(d_sums, values, features, features) + shared
    d_logits = weights * (d_weights - own)
    d_query[...] = _by_token(d_logits.astype(key.dtype), key[...], 1, wide).astype(d_query.dtype)
    _add(d_key, _by_token(d_logits.astype(query.dtype), query, 0, wide))
    _add(d_value, _by_token(weights.astype(d_out.dtype), d_out, 0, wide))
    if d_addend:
        _add(d_addend[0], _dot(jnp.ones((_SUBLANES, d_logits.shape[0])), d_logits, 1, 0))


def _by_token(weights: Array, tokens: Array, axis: int, wide: bool) -> Array:
    """Sums tokens with weights over an axis of these: 0 for queries, 1 for keys."""
    if wide:
        return _dot(weights, tokens, axis, 0)
    return _dot(tokens, weights, 1, axis)


def _real(tokens: Any, last: int, axis: int) -> Array:
    """Reads a tile of queries along an axis, with 0 for those beyond the end in the last tile."""
    if last == tokens.shape[axis]:
        return tokens[...]
    end = jnp.where(pl.program_id(2) == pl.num_programs(2) - 1, last, tokens.shape[axis])
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, tokens.shape, axis) < end, tokens[...], 0)


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
