"""Windowed self-attention: each query sees its surroundings, CLS, and summaries of all tokens."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
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
    summaries: int = 16

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
    the keys, also by way of `log_sum_exp`; nothing but the arguments is kept for them.

    Args:
      query: queries of `h` heads of size `e`, CLS first.
      key: keys.
      mask: False marks padding, whose saliency is 0.
      log_sum_exp: what `windowed_attention` returns for them.
      pattern: which keys each query sees.

    Returns:
      The saliency of the tokens after CLS.
    """
    received = jax.checkpoint(functools.partial(_received, pattern))
    return received(query, key, mask, log_sum_exp)


_BLOCK_BYTES = 2**21
"""Size of the logits that are held at once: what stays in a CPU's cache."""


def _clean(values: Float[Array, "b n h e"], mask: Bool[Array, "b n"]) -> Float[Array, "b n h e"]:
    """The values with 0 at padding, where anything may stand."""
    return jnp.where(mask[..., None, None], values, 0)


def _scale(query: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    return query * query.shape[-1] ** -0.5


def _einsum(subscripts: str, left: Array, right: Array) -> Array:
    """A product that is summed, and returned, in float32 at least."""
    dtype = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(subscripts, left, right, preferred_element_type=dtype)


def _unfold(values: Shaped[Array, "b m *s"], window: int, reach: int) -> Shaped[Array, "b w k *s"]:
    """Cuts `m = w window + 2 reach` positions into windows with their reach on either side."""
    batch, length, *shape = values.shape
    count, further = (length - 2 * reach) // window, -(-2 * reach // window)
    short = (count + further) * window - length
    values = jnp.pad(values, ((0, 0), (0, short), *[(0, 0)] * len(shape)))
    windows = values.reshape(batch, count + further, window, *shape)
    shifted = [windows[:, start : start + count] for start in range(further + 1)]
    return jnp.concatenate(shifted, axis=2)[:, :, : window + 2 * reach]


def _windows_per_block(pattern: WindowPattern, query: Float[Array, "b n h e"]) -> int:
    """How many windows to compute at once."""
    batch, length, heads, _ = query.shape
    seen = pattern.num_local + 1 + pattern.summaries
    itemsize = jnp.promote_types(query.dtype, jnp.float32).itemsize
    windows = -(-(length - 1) // pattern.window)
    most = max(_BLOCK_BYTES // (batch * heads * pattern.window * seen * itemsize), 1)
    # As equal as can be, so that few windows are added to fill up the last block.
    return -(-windows // max(-(-windows // most), 1))


def _blocks(
    values: Shaped[Array, "b n *s"], pattern: WindowPattern, per_block: int, reach: int
) -> Shaped[Array, "t b m *s"]:
    """Cuts the positions after the first into blocks of windows, with their reach.

    Positions before the first, CLS among them, and after the last are 0.
    """
    _, length, *shape = values.shape
    size = max(per_block, 1) * pattern.window
    short = -(length - 1) % size if length > 1 else size
    widths = ((0, 0), (reach, short + reach), *[(0, 0)] * len(shape))
    return jnp.moveaxis(_unfold(jnp.pad(values[:, 1:], widths), size, reach), 1, 0)


def _unblock(
    first: Float[Array, "b h *e"], blocks: Float[Array, "t b w q h *e"], length: int
) -> Float[Array, "b n h *e"]:
    """The row of CLS, and those of the blocks without what fills them up."""
    blocks = jnp.moveaxis(blocks, 0, 1)
    rows = blocks.reshape(len(first), -1, *first.shape[1:])
    return jnp.concatenate([first[:, None], rows[:, : length - 1]], axis=1)


def _membership(
    mask: Bool[Array, "b n"], summaries: int
) -> tuple[Int[Array, "b n-1"], Int[Array, "b s"]]:
    """The stretch that each token after CLS belongs to, `s` at padding, and their sizes."""
    tokens = mask[:, 1:]
    real = tokens.sum(axis=1, keepdims=True, dtype=jnp.int32)
    used = jnp.clip(real, 1, summaries)
    # The inverse of the edges of `adaptive_windows`, by the rank among the real tokens.
    stretch = (jnp.cumsum(tokens, axis=1, dtype=jnp.int32) * used - 1) // jnp.maximum(real, 1)
    edge = jnp.minimum(jnp.arange(summaries + 1), used) * real // used
    return jnp.where(tokens, stretch, summaries), jnp.diff(edge, axis=1)


def _far(
    values: Float[Array, "b n h e"], mask: Bool[Array, "b n"], pattern: WindowPattern
) -> Float[Array, "b f h e"]:
    """What every query sees: CLS, and the mean of each stretch of tokens."""
    stretch, size = _membership(mask, pattern.summaries)
    one_hot = (stretch[:, None] == jnp.arange(pattern.summaries)[:, None]).astype(values.dtype)
    total = _einsum("bsn,bnhe->bshe", one_hot, values[:, 1:])
    mean = total / jnp.maximum(size, 1).astype(total.dtype)[..., None, None]
    return jnp.concatenate([values[:, :1], mean.astype(values.dtype)], axis=1)


def _far_size(mask: Bool[Array, "b n"], pattern: WindowPattern) -> Int[Array, "b f"]:
    """How many keys each of them counts as."""
    _, size = _membership(mask, pattern.summaries)
    return jnp.concatenate([mask[:, :1].astype(size.dtype), size], axis=1)


def _seen(
    rows: Shaped[Array, "b m *s"], far: Shaped[Array, "b f *s"], pattern: WindowPattern
) -> Shaped[Array, "b w k *s"]:
    """What the queries of each window of a block see: first the far keys, then the local."""
    local = _unfold(rows, pattern.window, pattern.reach)
    far = jnp.broadcast_to(far[:, None], (*local.shape[:2], *far.shape[1:]))
    return jnp.concatenate([far, local], axis=2)


def _heads_first(values: Float[Array, "b w k h *e"]) -> Float[Array, "b h w k *e"]:
    return jnp.moveaxis(values, 3, 1)


def _heads_last(values: Float[Array, "b h w k *e"]) -> Float[Array, "b w k h *e"]:
    return jnp.moveaxis(values, 1, 3)


def _logits(
    query: Float[Array, "b h w q e"],
    key: Float[Array, "b h w k e"],
    size: Int[Array, "b w k"],
) -> Float[Array, "b h w q k"]:
    """Scaled products, and the logarithm of the number of keys that each key counts as."""
    logits = _einsum("bhwqe,bhwek->bhwqk", _scale(query), key.swapaxes(-1, -2))
    # Not -inf, as in `masked_softmax`; and half of the lowest number, so that the sum with a
    # logit is finite too.
    lowest = jnp.finfo(logits.dtype).min / 2
    bias = jnp.where(size > 0, jnp.log(jnp.maximum(size, 1).astype(logits.dtype)), lowest)
    return logits + bias[:, None, :, None]


def _cls(
    query: Float[Array, "b h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
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
    residuals = (query, key, value, mask)
    query, key, value = (_clean(values, mask) for values in (query, key, value))
    far_key, far_value = _far(key, mask, pattern), _far(value, mask, pattern)
    far_size = _far_size(mask, pattern)
    blocks = functools.partial(
        _blocks, pattern=pattern, per_block=_windows_per_block(pattern, query)
    )

    def attend(block: tuple[Array, ...]) -> tuple[Array, Array]:
        query, key, value, size = block
        query = _heads_first(_unfold(query, pattern.window, 0))
        key = _heads_first(_seen(key, far_key, pattern))
        value = _heads_first(_seen(value, far_value, pattern))
        logits = _logits(query, key, _seen(size, far_size, pattern))
        top = logits.max(axis=-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = weights.sum(axis=-1, keepdims=True)
        attended = _einsum("bhwqk,bhwke->bhwqe", weights.astype(value.dtype), value) / total
        log_sum_exp = jnp.log(total) + top
        return _heads_last(attended.astype(value.dtype)), _heads_last(log_sum_exp[..., 0])

    rows = (
        blocks(query, reach=0),
        blocks(key, reach=pattern.reach),
        blocks(value, reach=pattern.reach),
        blocks(mask.astype(far_size.dtype), reach=pattern.reach),
    )
    attended, log_sum_exp = jax.lax.map(attend, rows)
    first, first_log_sum_exp = _cls(query[:, 0], key, value, mask)
    length = mask.shape[1]
    attended = _clean(_unblock(first, attended, length), mask)
    log_sum_exp = _unblock(first_log_sum_exp, log_sum_exp, length)
    log_sum_exp = jnp.where(mask[..., None], log_sum_exp, 0).swapaxes(1, 2)
    attended = checkpoint_name(attended, "attention")
    log_sum_exp = checkpoint_name(log_sum_exp, "attention")
    return (attended, log_sum_exp), (*residuals, attended, log_sum_exp)


def _backward(
    pattern: WindowPattern, residuals: tuple[Array, ...], cotangents: tuple[Array, Array]
) -> tuple[Array | None, ...]:
    """The weights once more, and what they and the cotangents make of the inputs'."""
    query, key, value, mask, attended, log_sum_exp = residuals
    query, key, value = (_clean(values, mask) for values in (query, key, value))
    outer, to_lse = _clean(cotangents[0], mask), cotangents[1].swapaxes(1, 2)
    to_lse = jnp.where(mask[..., None], to_lse, 0)
    log_sum_exp = log_sum_exp.swapaxes(1, 2)
    inner = (outer.astype(to_lse.dtype) * attended).sum(axis=-1) - to_lse
    far_size = _far_size(mask, pattern)
    per_block, reach = _windows_per_block(pattern, query), pattern.reach

    def far(key: Array, value: Array) -> tuple[Array, Array]:
        return _far(key, mask, pattern), _far(value, mask, pattern)

    def to_blocks(query: Array, key: Array, value: Array) -> tuple[Array, ...]:
        return (
            _blocks(query, pattern, per_block, 0),
            _blocks(key, pattern, per_block, reach),
            _blocks(value, pattern, per_block, reach),
        )

    (far_key, far_value), from_far = jax.vjp(far, key, value)
    rows, from_rows = jax.vjp(to_blocks, query, key, value)
    constants = (
        _blocks(mask.astype(far_size.dtype), pattern, per_block, reach),
        *(_blocks(x, pattern, per_block, 0) for x in (outer, log_sum_exp, inner)),
    )

    def differentiate(
        of_far: tuple[Array, Array], block: tuple[tuple[Array, ...], tuple[Array, ...]]
    ) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        (query, key, value), (size, *of_queries) = block
        outer, log_sum_exp, inner = (
            _heads_first(_unfold(rows, pattern.window, 0)) for rows in of_queries
        )
        query = _heads_first(_unfold(query, pattern.window, 0))

        def seen(key: Array, value: Array, far_key: Array, far_value: Array) -> tuple[Array, Array]:
            return (
                _heads_first(_seen(key, far_key, pattern)),
                _heads_first(_seen(value, far_value, pattern)),
            )

        (key, value), from_seen = jax.vjp(seen, key, value, far_key, far_value)
        logits = _logits(query, key, _seen(size, far_size, pattern))
        weights = jnp.exp(logits - log_sum_exp[..., None])
        change = _einsum("bhwqe,bhwek->bhwqk", outer, value.swapaxes(-1, -2)) - inner[..., None]
        change = (weights * change).astype(key.dtype)
        weights = weights.astype(value.dtype)
        to_query = _scale(_einsum("bhwqk,bhwke->bhwqe", change, key))
        to_key = _einsum("bhweq,bhwqk->bhwek", _scale(query).swapaxes(-1, -2), change)
        to_value = _einsum("bhweq,bhwqk->bhwek", outer.swapaxes(-1, -2), weights)
        to_key, to_value, *to_far = from_seen(
            (
                to_key.swapaxes(-1, -2).astype(key.dtype),
                to_value.swapaxes(-1, -2).astype(value.dtype),
            )
        )
        to_query = _heads_last(to_query.astype(query.dtype))
        of_far = jax.tree.map(jnp.add, of_far, tuple(to_far))
        return of_far, (to_query.reshape(block[0][0].shape), to_key, to_value)

    zeros = jax.tree.map(jnp.zeros_like, (far_key, far_value))
    to_far, to_rows = jax.lax.scan(differentiate, zeros, (rows, constants))
    to_query, to_key, to_value = from_rows(to_rows)
    _, from_first = jax.vjp(functools.partial(_cls, mask=mask), query[:, 0], key, value)
    first, first_key, first_value = from_first((outer[:, 0], to_lse[:, 0]))
    far_key, far_value = from_far(to_far)
    gradients = (
        to_query.at[:, 0].set(first),
        to_key + first_key + far_key,
        to_value + first_value + far_value,
    )
    return *(_clean(gradient, mask) for gradient in gradients), None


_attention.defvjp(_forward, _backward)


def _received(
    pattern: WindowPattern,
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    log_sum_exp: Float[Array, "b h n"],
) -> Float[Array, "b n-1"]:
    """`windowed_saliency`."""
    query, key = _clean(query, mask), _clean(key, mask)
    far_key, far_size = _far(key, mask, pattern), _far_size(mask, pattern)
    per_block, reach = _windows_per_block(pattern, query), pattern.reach

    @jax.checkpoint
    def receive(block: tuple[Array, ...]) -> tuple[Array, Array]:
        query, real, log_sum_exp, key, size = block
        query, real, log_sum_exp = (
            _unfold(rows, pattern.window, 0) for rows in (query, real, log_sum_exp)
        )
        key = _heads_first(_seen(key, far_key, pattern))
        logits = _logits(_heads_first(query), key, _seen(size, far_size, pattern))
        weights = jnp.exp(logits - _heads_first(log_sum_exp)[..., None])
        by_window = jnp.where(real[:, None, ..., None], weights, 0).sum(axis=(1, 3))
        far, local = jnp.split(by_window, [1 + pattern.summaries], axis=-1)
        # Back to where each local key stands, by what its reading does with the positions.
        fold = jax.linear_transpose(
            lambda rows: _unfold(rows, pattern.window, reach),
            jax.ShapeDtypeStruct(size.shape, local.dtype),
        )
        return far[..., 1:].sum(axis=1), fold(local)[0]

    blocks = (
        *(_blocks(x, pattern, per_block, 0) for x in (query, mask, log_sum_exp.swapaxes(1, 2))),
        *(_blocks(x, pattern, per_block, reach) for x in (key, mask.astype(far_size.dtype))),
    )
    far, rows = jax.lax.map(receive, blocks)
    fold = jax.linear_transpose(
        lambda tokens: _blocks(tokens, pattern, per_block, reach),
        jax.ShapeDtypeStruct(mask.shape, rows.dtype),
    )
    (local,) = fold(rows)
    stretch, size = _membership(mask, pattern.summaries)
    share = far.sum(axis=0) / jnp.maximum(size, 1)
    spread = jnp.take_along_axis(jnp.pad(share, ((0, 0), (0, 1))), stretch, axis=1)
    count = jnp.maximum(mask[:, 1:].sum(axis=1, keepdims=True), 1) * query.shape[2]
    return jnp.where(mask[:, 1:], (local[:, 1:] + spread) / count, 0)
