"""Attention for TPU by kernels of Mosaic, which keep the weights on the chip.

A step of a kernel computes the weights of a tile of queries in vector memory, uses them and
discards them. No array of queries times keys is written to main memory. Tokens lie on the 128
lanes of a register and features on its 8 sublanes, so that small heads need no padding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from sft_jax.ops.attention.tiles import Inputs, base_2
from sft_jax.ops.platform_program import platform_program

MASKED = -1e30
"""Term added to the logits of a masked key: it is finite, and its exponential is 0."""

_LANES, _SUBLANES = 128, 8
_TILE = 256
"""Number of queries of a tile, if its weights are not too many."""
_MOST_WEIGHTS = 2**19
"""Largest number of weights of a tile; the backward kernel takes about 16 bytes for each."""


def fits(query: Float[Array, "b q h e"], key: Float[Array, "b n h e"]) -> bool:
    """Returns whether the kernels take these types and sizes, and a tile fits in vector memory."""
    sizes = (*query.shape, *key.shape)
    return (
        query.dtype in (jnp.bfloat16, jnp.float32)
        and all(isinstance(size, int) for size in sizes)
        and _padded(key.shape[1]) * _LANES <= _MOST_WEIGHTS
    )


def forward(num_heads: int, heads: Inputs) -> tuple[Array, Array, Array | None]:
    """Computes what `sft_jax.ops.attention.tiles.forward` does.

    Args:
      num_heads: Number of heads of an example.
      heads: Input arrays, whose first axis is that of the heads of all examples.
    """
    arrays = _arrays(num_heads, heads)
    *examples, num_queries, size = _split(heads.query, num_heads).shape
    num_keys = heads.key.shape[1]
    outputs = [
        jax.ShapeDtypeStruct((*examples, size, num_queries), heads.value.dtype),
        jax.ShapeDtypeStruct((*examples, num_queries), np.float32),
    ]
    axes = "b h e q, b h e n, b h e n, b n"
    if heads.query_weight is None:
        axes += " -> b h e q, b h q"
    else:
        outputs.append(jax.ShapeDtypeStruct((*examples, num_keys), np.float32))
        axes += ", b q -> b h e q, b h q, b h n"
    out, lse, *received = platform_program(_forward_kernel, "tpu", arrays, outputs, axes)
    any_real = heads.real.any(axis=1)
    return (
        jnp.where(any_real[:, None, None], _rows(out), 0),
        _merge(lse),
        _merge(received[0]) * heads.real if received else None,
    )


def backward(num_heads: int, heads: tuple[Any, ...]) -> tuple[Any, ...]:
    """Computes what `sft_jax.ops.attention.tiles.backward` does.

    Args:
      num_heads: Number of heads of an example.
      heads: See there.
    """
    inputs, out, lse, d_out, d_received = heads
    inner = (out.astype(np.float32) * d_out.astype(np.float32)).sum(axis=-1)
    arrays = _arrays(num_heads, inputs)
    query, key, value, addend, *query_weight = arrays
    arrays = [
        *(query, key, value, addend),
        *(_split(array, num_heads) for array in (lse, inner)),
        _columns(d_out, num_heads),
        *query_weight,
    ]
    axes = "b h e q, b h e n, b h e n, b n, b h q, b h q, b h e q"
    if d_received is not None:
        arrays.append(_split(d_received * inputs.real, num_heads)[:, 0])
        axes += ", b q, b n"
    outputs = [*(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (query, key, value))]
    axes += " -> b h e q, b h e n, b h e n"
    kernel = _backward_kernel
    if inputs.bias is not None:
        outputs.append(jax.ShapeDtypeStruct((*key.shape[:2], key.shape[3]), np.float32))
        axes += ", b h n"
        kernel = _backward_kernel_with_addend
    by_head = platform_program(kernel, "tpu", arrays, outputs, axes)
    d_query, d_key, d_value = (_rows(array) for array in by_head[:3])
    scale = jnp.asarray(inputs.query.shape[-1] ** -0.5, d_query.dtype)
    real = inputs.real[..., None].astype(d_key.dtype)
    # The kernel scales queries for logits to base 2.
    log_2 = jnp.asarray(math.log(2), d_key.dtype)
    d_bias = None if inputs.bias is None else _merge(by_head[3]) * inputs.real * math.log(2)
    return d_query * scale, d_key * (real * log_2), d_value * real, d_bias


def _arrays(num_heads: int, heads: Inputs) -> list[Array]:
    """Returns queries, keys, values, terms added to the logits and weights of queries, if any."""
    bias = 0.0 if heads.bias is None else heads.bias
    addend = jnp.where(heads.real > 0, bias, MASKED)
    arrays = [base_2(heads.query), heads.key, heads.value]
    per_example = [addend] if heads.query_weight is None else [addend, heads.query_weight]
    return [
        *(_columns(array, num_heads) for array in arrays),
        *(_split(array, num_heads)[:, 0] for array in per_example),
    ]


def _split(array: Float[Array, "g ..."], num_heads: int) -> Float[Array, "b h ..."]:
    return array.reshape(-1, num_heads, *array.shape[1:])


def _merge(array: Float[Array, "b h ..."]) -> Float[Array, "g ..."]:
    return array.reshape(-1, *array.shape[2:])


def _columns(array: Float[Array, "g n e"], num_heads: int) -> Float[Array, "b h e n"]:
    return _split(array, num_heads).swapaxes(2, 3)


def _rows(array: Float[Array, "b h e n"]) -> Float[Array, "g n e"]:
    return _merge(array.swapaxes(2, 3))


def _forward_kernel(*arrays: Array) -> list[Array]:
    """Computes sums, log-sum-exp and received weights of any number of examples and heads.

    In an example without a real key, and for a masked key, they are finite and have no meaning.
    """
    query, key, value, addend, *query_weight = arrays
    grid = _Grid(query, key)
    inputs = [*map(grid.of_queries, [query]), *map(grid.of_keys, [key, value, addend[:, None]])]
    inputs += [grid.of_queries(row[:, None]) for row in query_weight]
    outputs = [
        grid.of_queries(jax.ShapeDtypeStruct(query.shape, value.dtype)),
        grid.of_queries(grid.rows(1, query)),
        *(grid.of_keys(grid.rows(_SUBLANES, key)) for _ in query_weight),
    ]
    out, lse, *received = grid.call(_forward_tile, inputs, outputs)
    return [out, lse[:, :, 0], *(array[:, :, 0] for array in received)]


def _backward_kernel(*arrays: Array, with_addend: bool = False) -> list[Array]:
    """Computes the gradients of scaled query, key, value and of the terms added to the logits.

    Those by the logits are to base 2: a factor of `log(2)` is missing.
    """
    query, key, value, addend, lse, inner, d_out, *salient = arrays
    grid = _Grid(query, key)
    inputs = [*map(grid.of_queries, [query]), *map(grid.of_keys, [key, value, addend[:, None]])]
    inputs += map(grid.of_queries, [lse[:, :, None], inner[:, :, None], d_out])
    if salient:
        query_weight, d_received = (array[:, None] for array in salient)
        inputs += [grid.of_queries(query_weight), grid.of_keys(d_received)]
    sums = [grid.rows(grid.size, key)] * 2 + [grid.rows(_SUBLANES, key)] * with_addend
    outputs = [grid.of_queries(query), *map(grid.of_keys, sums)]
    d_query, d_key, d_value, *d_addend = grid.call(_backward_tile, inputs, outputs)
    gradients = [d_query, d_key.astype(key.dtype), d_value.astype(value.dtype)]
    return gradients + [array[:, :, 0] for array in d_addend]


_backward_kernel_with_addend = functools.partial(_backward_kernel, with_addend=True)


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

    def of_queries(self, array: Any) -> _Block:
        """Array `[b, h, rows, q]` or `[b, rows, q]`, by tiles."""
        return self._block(array, self.tile, by_tile=True)

    def of_keys(self, array: Any) -> _Block:
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
            out_shape=[jax.ShapeDtypeStruct(b.array.shape, b.array.dtype) for b in outputs],
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
