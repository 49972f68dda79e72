"""Windowed self-attention: each query sees its surroundings, CLS, and summaries of all tokens."""

from __future__ import annotations

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Shaped


@dataclasses.dataclass(frozen=True)
class WindowPattern:
    """Which keys each query sees: those around it, CLS, and a few means over all tokens.

    Position 0 is the CLS token, which as a query sees every key. The others are cut into
    windows of `w` from position 1 on. Such a query sees the keys of its window, those of the
    `r` positions on either side of the window, the CLS key, and `s` summary keys. Padding
    counts as positions, not as tokens.

    The real tokens of an example but CLS are divided, in their order, into `s` stretches whose
    lengths differ by 1 at most. The key and the value of a summary are the means over its
    stretch, and a summary of `t` tokens counts as `t` keys: `log t` is added to its logits. So
    where the tokens of each stretch are alike, the far field is that of dense attention. The
    tokens near a query count twice there: for themselves, and in their summary. With fewer
    real tokens than `s`, each has a summary of its own and the last summaries have none.

    Attributes:
      window: `w`, queries that see the same keys.
      reach: `r`, positions on either side of a window that its queries see too.
      summaries: `s`, summary keys.

    Raises:
      ValueError: if an attribute is out of range.
    """

    window: int = 32
    reach: int = 16
    summaries: int = 8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "reach" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"WindowPattern.{field.name} must be an integer >= {least}, got {value!r}"
                )

    @property
    def num_local(self) -> int:
        """Positions that a window's queries see as they are: `w + 2 r`."""
        return self.window + 2 * self.reach

    def num_windows(self, length: int) -> int:
        """Windows that the queries after CLS belong to."""
        return max(-(-(length - 1) // self.window), 1)

    def is_dense(self, length: int) -> bool:
        """Whether dense attention over `length` tokens, CLS among them, costs no more."""
        return self.num_local + self.summaries >= length


def windowed_attention(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    pattern: WindowPattern,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b h n"]]:
    """Scaled dot-product self-attention over the keys that the pattern lets each query see.

    Time and memory grow with `n (w + 2 r + s + 1)`. The weights are not kept for the backward
    pass, which computes them again from the inputs and the results; the results bear the name
    "attention" for policies of `jax.checkpoint`.

    Args:
      query: queries of `h` heads of size `e`, CLS first.
      key: keys.
      value: values.
      mask: False marks padding: it gets no weight, and has no effect on real queries.
      pattern: which keys each query sees.

    Returns:
      The weighted sums of the values, in their type, and the logarithm of the sum of the
      exponentials of each query's logits, in float32 or, for float64 inputs, float64. Both
      are 0 at padding.
    """
    return _attention(pattern, query, key, value, mask)


def windowed_saliency(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    log_sum_exp: Float[Array, "b h n"],
    pattern: WindowPattern,
) -> Float[Array, "b n-1"]:
    """The saliency of `sft_jax.ops.attention.saliency`, of windowed attention.

    The weight of a summary is spread equally over its tokens. Gradients reach the queries and
    the keys, also by way of `log_sum_exp`; nothing but the arguments is kept for them, and the
    weights are computed again.

    Args:
      query: queries of `h` heads of size `e`, CLS first.
      key: keys.
      mask: False marks padding, whose saliency is 0.
      log_sum_exp: what `windowed_attention` returns for them.
      pattern: which keys each query sees.

    Returns:
      The saliency of the tokens after CLS.
    """
    return _saliency(pattern, query, key, mask, log_sum_exp)


_BLOCK_BYTES = 2**21
"""Size of the logits that are held at once, so that they stay in a CPU's cache."""


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Reads and writes the windows of a sequence, a few at a time.

    It works on rows: the positions of a sequence with 0 before and after them, as many as the
    reach of the first window and the last of the last block need.

    Attributes:
      pattern: the windows.
      length: of the sequence, CLS included.
      windows: how many are in a block.
    """

    pattern: WindowPattern
    length: int
    windows: int

    @classmethod
    def of(cls, pattern: WindowPattern, query: Float[Array, "b n h e"]) -> _Blocks:
        """Blocks of as many windows as fit."""
        batch, length, heads, _ = query.shape
        keys = 1 + pattern.summaries + pattern.num_local
        itemsize = jnp.promote_types(query.dtype, jnp.float32).itemsize
        most = max(_BLOCK_BYTES // (batch * heads * pattern.window * keys * itemsize), 1)
        # As equal as can be, so that few windows are added to fill up the last block.
        windows = pattern.num_windows(length)
        return cls(pattern, length, -(-windows // -(-windows // most)))

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return -(-self.pattern.num_windows(self.length) // self.windows)

    @property
    def size(self) -> int:
        """Positions in a block."""
        return self.windows * self.pattern.window

    def rows(self, values: Shaped[Array, "b n *s"]) -> Shaped[Array, "b m *s"]:
        """The positions with what fills them up on both sides."""
        reach = self.pattern.reach
        after = self.count * self.size + 1 - self.length + reach
        return jnp.pad(values, ((0, 0), (reach, after), *[(0, 0)] * (values.ndim - 2)))

    def values(self, rows: Shaped[Array, "b m *s"]) -> Shaped[Array, "b n *s"]:
        """The inverse of `rows`."""
        return rows[:, self.pattern.reach :][:, : self.length]

    def queries(
        self, rows: Shaped[Array, "b m h *s"], block: Int[Array, ""]
    ) -> Shaped[Array, "b h w q *s"]:
        """The windows of a block."""
        start = 1 + self.pattern.reach + block * self.size
        inside = jax.lax.dynamic_slice_in_dim(rows, start, self.size, axis=1)
        shape = (len(rows), self.windows, self.pattern.window, *rows.shape[2:])
        return _heads_first(inside.reshape(shape))

    def set_queries(
        self,
        rows: Shaped[Array, "b m h *s"],
        block: Int[Array, ""],
        windows: Shaped[Array, "b h w q *s"],
    ) -> Shaped[Array, "b m h *s"]:
        """Writes what `queries` reads."""
        start = 1 + self.pattern.reach + block * self.size
        inside = _heads_last(windows).reshape(len(rows), self.size, *rows.shape[2:])
        return jax.lax.dynamic_update_slice_in_dim(rows, inside.astype(rows.dtype), start, axis=1)

    def seen(
        self,
        rows: Shaped[Array, "b m h *s"],
        far: Shaped[Array, "b f h *s"],
        block: Int[Array, ""],
    ) -> Shaped[Array, "b h w k *s"]:
        """What the windows of a block see: first the far keys, then the local."""
        size = self.size + 2 * self.pattern.reach
        local = self._unfold(
            jax.lax.dynamic_slice_in_dim(rows, 1 + block * self.size, size, axis=1)
        )
        far = jnp.broadcast_to(far[:, None], (*local.shape[:2], *far.shape[1:]))
        # Not fused: XLA would search the pieces for each number that it transposes.
        local = jax.lax.optimization_barrier(_heads_first(local))
        return jnp.concatenate([_heads_first(far), local], axis=3)

    def add_seen(
        self,
        rows: Float[Array, "b m h *s"],
        far: Float[Array, "b f h *s"],
        block: Int[Array, ""],
        windows: Float[Array, "b h w k *s"],
    ) -> tuple[Float[Array, "b m h *s"], Float[Array, "b f h *s"]]:
        """Adds to what `seen` reads."""
        to_far, to_local = jnp.split(_heads_last(windows), [far.shape[1]], axis=2)
        size, start = self.size + 2 * self.pattern.reach, 1 + block * self.size
        inside = jax.lax.dynamic_slice_in_dim(rows, start, size, axis=1)
        (added,) = jax.linear_transpose(self._unfold, inside)(to_local.astype(rows.dtype))
        rows = jax.lax.dynamic_update_slice_in_dim(rows, inside + added, start, axis=1)
        return rows, far + to_far.sum(axis=1).astype(far.dtype)

    def _unfold(self, inside: Shaped[Array, "b m *s"]) -> Shaped[Array, "b w l *s"]:
        """Cuts the rows of a block into windows with their reach on either side."""
        window, reach = self.pattern.window, self.pattern.reach
        batch, _, *shape = inside.shape
        further = -(-2 * reach // window)
        short = further * window - 2 * reach
        inside = jnp.pad(inside, ((0, 0), (0, short), *[(0, 0)] * len(shape)))
        stretches = inside.reshape(batch, self.windows + further, window, *shape)
        shifted = [stretches[:, first : first + self.windows] for first in range(further + 1)]
        return jnp.concatenate(shifted, axis=2)[:, :, : self.pattern.num_local]


def _heads_first(values: Shaped[Array, "b w k h *e"]) -> Shaped[Array, "b h w k *e"]:
    return jnp.moveaxis(values, 3, 1)


def _heads_last(values: Shaped[Array, "b h w k *e"]) -> Shaped[Array, "b w k h *e"]:
    return jnp.moveaxis(values, 1, 3)


def _clean(values: Float[Array, "b n *s"], mask: Bool[Array, "b n"]) -> Float[Array, "b n *s"]:
    """The values with 0 at padding, where anything may stand."""
    return jnp.where(mask.reshape(*mask.shape, *[1] * (values.ndim - 2)), values, 0)


def _scale(query: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    return query * query.shape[-1] ** -0.5


def _einsum(subscripts: str, left: Array, right: Array) -> Array:
    """A product that is summed, and returned, in float32 at least."""
    dtype = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(subscripts, left, right, preferred_element_type=dtype)


class _Summaries(typing.NamedTuple):
    """The stretches of tokens that are summed up.

    Attributes:
      member: True where a row belongs to a stretch.
      size: how many tokens each has.
    """

    member: Bool[Array, "b s m"]
    size: Int[Array, "b s"]

    def share(self, dtype: np.dtype) -> Float[Array, "b s m"]:
        """The matrix that takes means."""
        size = jnp.maximum(self.size, 1).astype(dtype)
        return jnp.where(self.member, 1 / size[..., None], 0)


def _summaries(mask: Bool[Array, "b n"], blocks: _Blocks) -> _Summaries:
    """Divides the real tokens after CLS."""
    tokens = mask.at[:, 0].set(False)
    real = tokens.sum(axis=1, keepdims=True, dtype=jnp.int32)
    number = blocks.pattern.summaries
    used = jnp.clip(real, 1, number)
    # The edges of `adaptive_windows`, and their inverse by the rank among the real tokens.
    edge = jnp.minimum(jnp.arange(number + 1), used) * real // used
    stretch = (jnp.cumsum(tokens, axis=1, dtype=jnp.int32) * used - 1) // jnp.maximum(real, 1)
    stretch = blocks.rows(jnp.where(tokens, stretch, -1) + 1) - 1
    member = stretch[:, None] == jnp.arange(number)[:, None]
    return _Summaries(member, jnp.diff(edge, axis=1))


def _far(
    rows: Float[Array, "b m h e"], mask: Bool[Array, "b n"], blocks: _Blocks
) -> Float[Array, "b f h e"]:
    """What every query sees: CLS, and the mean of each stretch of tokens."""
    share = _summaries(mask, blocks).share(rows.dtype)
    mean = _einsum("bsm,bmhe->bshe", share, rows).astype(rows.dtype)
    return jnp.concatenate([rows[:, blocks.pattern.reach][:, None], mean], axis=1)


def _sizes(
    mask: Bool[Array, "b n"], blocks: _Blocks
) -> tuple[Int[Array, "b m 1"], Int[Array, "b f 1"]]:
    """How many keys each row and each far key counts as; CLS is a far key alone."""
    rows = blocks.rows(mask.at[:, 0].set(False).astype(jnp.int32))
    far = jnp.concatenate([mask[:, :1].astype(jnp.int32), _summaries(mask, blocks).size], axis=1)
    return rows[..., None], far[..., None]


def _logits(
    query: Float[Array, "b h w q e"],
    key: Float[Array, "b h w k e"],
    size: Int[Array, "b 1 w k"],
) -> Float[Array, "b h w q k"]:
    """Scaled products, and the logarithm of the number of keys that each key counts as."""
    logits = _einsum("bhwqe,bhwke->bhwqk", _scale(query), key)
    # Not -inf, as in `masked_softmax`; and half of the lowest number, so that the sum with a
    # logit is finite too.
    lowest = jnp.finfo(logits.dtype).min / 2
    bias = jnp.where(size > 0, jnp.log(jnp.maximum(size, 1).astype(logits.dtype)), lowest)
    return logits + bias[..., None, :]


def _cls(
    query: Float[Array, "b h e"],
    key: Float[Array, "b m h e"],
    value: Float[Array, "b m h e"],
    mask: Bool[Array, "b m"],
) -> tuple[Float[Array, "b h e"], Float[Array, "b h"]]:
    """What CLS, which sees all keys, gets, and the logarithm of its sum of exponentials."""
    real = mask[:, None]
    logits = _einsum("bhe,bnhe->bhn", _scale(query), key)
    logits = jnp.where(real, logits, jnp.finfo(logits.dtype).min)
    log_sum_exp = jax.nn.logsumexp(logits, axis=-1)
    weights = jnp.where(real, jnp.exp(logits - log_sum_exp[..., None]), 0).astype(value.dtype)
    return _einsum("bhn,bnhe->bhe", weights, value).astype(value.dtype), log_sum_exp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    pattern: WindowPattern, query: Array, key: Array, value: Array, mask: Array
) -> tuple[Array, Array]:
    """`windowed_attention`."""
    return _forward(pattern, query, key, value, mask)[0]


def _forward(
    pattern: WindowPattern, query: Array, key: Array, value: Array, mask: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    blocks = _Blocks.of(pattern, query)
    queries, keys, values = (blocks.rows(_clean(x, mask)) for x in (query, key, value))
    far_key, far_value = _far(keys, mask, blocks), _far(values, mask, blocks)
    sizes = _sizes(mask, blocks)

    def attend(rows: tuple[Array, Array], block: Array) -> tuple[tuple[Array, Array], None]:
        seen = blocks.seen(values, far_value, block)
        logits = _logits(
            blocks.queries(queries, block),
            blocks.seen(keys, far_key, block),
            blocks.seen(*sizes, block),
        )
        top = logits.max(axis=-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = weights.sum(axis=-1, keepdims=True)
        attended = _einsum("bhwqk,bhwke->bhwqe", weights.astype(seen.dtype), seen) / total
        log_sum_exp = (jnp.log(total) + top)[..., 0]
        return (
            blocks.set_queries(rows[0], block, attended),
            blocks.set_queries(rows[1], block, log_sum_exp),
        ), None

    first, first_log_sum_exp = _cls(queries[:, pattern.reach], keys, values, blocks.rows(mask))
    rows = (jnp.zeros_like(values), jnp.zeros(values.shape[:3], first_log_sum_exp.dtype))
    rows, _ = jax.lax.scan(attend, rows, jnp.arange(blocks.count))
    attended, log_sum_exp = (
        _clean(blocks.values(x).at[:, 0].set(of_first), mask)
        for x, of_first in zip(rows, (first, first_log_sum_exp), strict=True)
    )
    attended = checkpoint_name(attended, "attention")
    log_sum_exp = checkpoint_name(log_sum_exp.swapaxes(1, 2), "attention")
    return (attended, log_sum_exp), (query, key, value, mask, attended, log_sum_exp)


class _Differentials(typing.NamedTuple):
    """Cotangents of the arguments of windowed attention, but for the part of CLS as a query."""

    query: Float[Array, "b n h e"]
    key: Float[Array, "b n h e"]
    value: Float[Array, "b n h f"]
    row_sum: Float[Array, "b n h"]


def _differentiate(
    pattern: WindowPattern,
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h f"],
    mask: Bool[Array, "b n"],
    log_sum_exp: Float[Array, "b n h"],
    outer: Float[Array, "b n h f"],
    inner: Float[Array, "b n h"],
) -> _Differentials:
    """The weights `p` once more, and with `c = p (outer valueᵀ - inner)` the sums over them.

    All must be 0 at padding.

    Returns:
      `c key` and `cᵀ query`, scaled, `pᵀ outer`, and the sums of `c` over the keys.
    """
    blocks = _Blocks.of(pattern, query)
    queries, keys, values, log_sums, outers, inners = (
        blocks.rows(x) for x in (query, key, value, log_sum_exp, outer, inner)
    )
    far_key, far_value = _far(keys, mask, blocks), _far(values, mask, blocks)
    sizes = _sizes(mask, blocks)

    def step(sums: tuple[Array, ...], block: Array) -> tuple[tuple[Array, ...], None]:
        to_query, to_key, to_far_key, to_value, to_far_value, row_sum = sums
        query, outer = blocks.queries(queries, block), blocks.queries(outers, block)
        key = blocks.seen(keys, far_key, block)
        value = blocks.seen(values, far_value, block)
        logits = _logits(query, key, blocks.seen(*sizes, block))
        weights = jnp.exp(logits - blocks.queries(log_sums, block)[..., None])
        change = _einsum("bhwqe,bhwke->bhwqk", outer, value)
        change = weights * (change - blocks.queries(inners, block)[..., None])
        row_sum = blocks.set_queries(row_sum, block, change.sum(axis=-1))
        change, weights = change.astype(key.dtype), weights.astype(value.dtype)
        of_query = _scale(_einsum("bhwqk,bhwke->bhwqe", change, key))
        of_key = _einsum("bhweq,bhwqk->bhwek", _scale(query).swapaxes(-1, -2), change)
        of_value = _einsum("bhweq,bhwqk->bhwek", outer.swapaxes(-1, -2), weights)
        return (
            blocks.set_queries(to_query, block, of_query),
            *blocks.add_seen(to_key, to_far_key, block, of_key.swapaxes(-1, -2)),
            *blocks.add_seen(to_value, to_far_value, block, of_value.swapaxes(-1, -2)),
            row_sum,
        ), None

    sums: tuple[Array, ...] = (queries, keys, far_key, values, far_value, log_sums)
    sums, _ = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, sums), jnp.arange(blocks.count))
    to_query, to_key, to_far_key, to_value, to_far_value, row_sum = sums

    def spread(rows: Array, to_far: Array) -> Array:
        (from_far,) = jax.linear_transpose(lambda rows: _far(rows, mask, blocks), rows)(to_far)
        return _clean(blocks.values(rows + from_far), mask)

    return _Differentials(
        _clean(blocks.values(to_query), mask),
        spread(to_key, to_far_key),
        spread(to_value, to_far_value),
        _clean(blocks.values(row_sum), mask),
    )


def _backward(
    pattern: WindowPattern, residuals: tuple[Array, ...], cotangents: tuple[Array, Array]
) -> tuple[Array | None, ...]:
    *inputs, mask, attended, log_sum_exp = residuals
    query, key, value, outer = (_clean(x, mask) for x in (*inputs, cotangents[0]))
    log_sum_exp, to_log_sum_exp = log_sum_exp.swapaxes(1, 2), cotangents[1].swapaxes(1, 2)
    to_log_sum_exp = _clean(to_log_sum_exp, mask)
    inner = (outer.astype(to_log_sum_exp.dtype) * attended).sum(axis=-1) - to_log_sum_exp
    found = _differentiate(pattern, query, key, value, mask, log_sum_exp, outer, inner)
    _, from_first = jax.vjp(functools.partial(_cls, mask=mask), query[:, 0], key, value)
    first, to_key, to_value = from_first((outer[:, 0], to_log_sum_exp[:, 0]))
    to_query = found.query.at[:, 0].set(first)
    return to_query, found.key + to_key, found.value + to_value, None


_attention.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _saliency(
    pattern: WindowPattern, query: Array, key: Array, mask: Array, log_sum_exp: Array
) -> Array:
    """`windowed_saliency`."""
    return _saliency_forward(pattern, query, key, mask, log_sum_exp)[0]


def _saliency_forward(
    pattern: WindowPattern, query: Array, key: Array, mask: Array, log_sum_exp: Array
) -> tuple[Array, tuple[Array, ...]]:
    # The sum over the queries of the weights is what a value of one number each would get as
    # its cotangent if that of the attended values were 1.
    none = jnp.zeros_like(log_sum_exp).swapaxes(1, 2)
    found = _saliency_differentials(pattern, query, key, mask, log_sum_exp, none[..., None])
    return found.value[:, 1:, :, 0].sum(axis=-1), (query, key, mask, log_sum_exp)


def _saliency_differentials(
    pattern: WindowPattern, query: Array, key: Array, mask: Array, log_sum_exp: Array, value: Array
) -> _Differentials:
    """Those of the saliency's product with `value`."""
    query, key = _clean(query, mask), _clean(key, mask)
    log_sum_exp = _clean(log_sum_exp.swapaxes(1, 2), mask)
    count = jnp.maximum(mask[:, 1:].sum(axis=1), 1) * query.shape[2]
    outer = jnp.broadcast_to(
        (mask / count[:, None]).astype(value.dtype)[..., None, None], value.shape
    )
    none = jnp.zeros_like(log_sum_exp)
    return _differentiate(pattern, query, key, value, mask, log_sum_exp, outer, none)


def _saliency_backward(
    pattern: WindowPattern, residuals: tuple[Array, ...], cotangent: Array
) -> tuple[Array | None, ...]:
    query, key, mask, log_sum_exp = residuals
    value = _clean(jnp.pad(cotangent, ((0, 0), (1, 0))), mask)[..., None, None]
    value = jnp.broadcast_to(value, (*mask.shape, query.shape[2], 1))
    found = _saliency_differentials(pattern, query, key, mask, log_sum_exp, value)
    return found.query, found.key, None, -found.row_sum.swapaxes(1, 2)


_saliency.defvjp(_saliency_forward, _saliency_backward)
