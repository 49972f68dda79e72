"""Windowed self-attention: each query sees its surroundings, CLS, and summaries of all tokens."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Shaped


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


def _clean(values: Float[Array, "b n h e"], mask: Bool[Array, "b n"]) -> Float[Array, "b n h e"]:
    """The values with 0 at padding, where anything may stand."""
    return jnp.where(mask[..., None, None], values, 0)


def _precise(values: Array) -> Array:
    """In float32 at least."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _query_windows(values: Shaped[Array, "b n *s"], pattern: WindowPattern) -> Array:
    """`[b, w, q, *s]`: the windows of the positions after the first, filled up with 0."""
    batch, length, *shape = values.shape
    count = pattern.num_windows(length)
    short = count * pattern.window - (length - 1)
    values = jnp.pad(values[:, 1:], ((0, 0), (0, short), *[(0, 0)] * len(shape)))
    return values.reshape(batch, count, pattern.window, *shape)


def _key_windows(values: Shaped[Array, "b n *s"], pattern: WindowPattern) -> Array:
    """`[b, w, l, *s]`: the same windows with what their reach adds on either side."""
    batch, length, *shape = values.shape
    window, reach = pattern.window, pattern.reach
    count, further = pattern.num_windows(length), -(-2 * reach // window)
    short = (count + further) * window - reach - (length - 1)
    values = jnp.pad(values[:, 1:], ((0, 0), (reach, short), *[(0, 0)] * len(shape)))
    blocks = values.reshape(batch, count + further, window, *shape)
    shifted = [blocks[:, start : start + count] for start in range(further + 1)]
    return jnp.concatenate(shifted, axis=2)[:, :, : pattern.num_local]


def _membership(mask: Bool[Array, "b n"], summaries: int) -> tuple[Array, Array]:
    """The stretch that each token after CLS belongs to, and how many tokens each has.

    Returns:
      `[b, n-1]`, `summaries` at padding, and `[b, s]`.
    """
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
    """CLS, and the mean of each stretch of tokens: what every query sees."""
    stretch, size = _membership(mask, pattern.summaries)
    one_hot = (stretch[:, None] == jnp.arange(pattern.summaries)[:, None]).astype(values.dtype)
    total = _einsum("bsn,bnhe->bshe", one_hot, values[:, 1:])
    mean = total / jnp.maximum(size, 1).astype(total.dtype)[..., None, None]
    return jnp.concatenate([values[:, :1], mean.astype(values.dtype)], axis=1)


def _bias(
    mask: Bool[Array, "b n"], pattern: WindowPattern, dtype: np.dtype
) -> Float[Array, "b 1 w 1 k"]:
    """What is added to the logits of the far and the local keys."""
    _, size = _membership(mask, pattern.summaries)
    # CLS, if real, is one key.
    size = jnp.concatenate([mask[:, :1].astype(size.dtype), size], axis=1)
    local = _key_windows(mask.astype(size.dtype), pattern)
    far = jnp.broadcast_to(size[:, None], (*local.shape[:2], size.shape[1]))
    size = jnp.concatenate([far, local], axis=2)
    # Not -inf, as in `masked_softmax`; and half of the lowest number, so that the sum with a
    # logit is finite too.
    bias = jnp.where(
        size > 0, jnp.log(jnp.maximum(size, 1).astype(dtype)), jnp.finfo(dtype).min / 2
    )
    return bias[:, None, :, None]


def _seen(
    values: Float[Array, "b n h e"], mask: Bool[Array, "b n"], pattern: WindowPattern
) -> Float[Array, "b h w k e"]:
    """The far and the local keys of each window, or their values."""
    values = _clean(values, mask)
    far, local = _far(values, mask, pattern), _key_windows(values, pattern)
    far = jnp.broadcast_to(far[:, None], (*local.shape[:2], *far.shape[1:]))
    return jnp.moveaxis(jnp.concatenate([far, local], axis=2), 3, 1)


def _queries(
    values: Float[Array, "b n h e"], mask: Bool[Array, "b n"], pattern: WindowPattern
) -> Float[Array, "b h w q e"]:
    """The queries of each window."""
    return jnp.moveaxis(_query_windows(_clean(values, mask), pattern), 3, 1)


def _einsum(subscripts: str, left: Array, right: Array) -> Array:
    """A product that is summed, and returned, in float32 at least."""
    dtype = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(subscripts, left, right, preferred_element_type=dtype)


def _scale(query: Array) -> Array:
    return query * query.shape[-1] ** -0.5


def _cls(
    query: Float[Array, "b h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
) -> tuple[Float[Array, "b h e"], Float[Array, "b h"]]:
    """What CLS, which sees all keys, gets, and the logarithm of its sum of exponentials."""
    query, key, value = (
        jnp.where(real[..., None, None], x, 0)
        for x, real in ((query, mask[:, 0]), (key, mask), (value, mask))
    )
    real = mask[:, None]
    logits = _einsum("bhe,bnhe->bhn", _scale(query), key)
    logits = jnp.where(real, logits, jnp.finfo(logits.dtype).min)
    log_sum_exp = jax.nn.logsumexp(logits, axis=-1)
    weights = jnp.where(real, jnp.exp(logits - log_sum_exp[..., None]), 0).astype(value.dtype)
    attended = jnp.where(mask[:, :1, None], _einsum("bhn,bnhe->bhe", weights, value), 0)
    return attended.astype(value.dtype), jnp.where(mask[:, :1], log_sum_exp, 0)


def _join(
    first: Float[Array, "b h *e"], windows: Float[Array, "b h w q *e"], length: int
) -> Float[Array, "b n h *e"]:
    """The row of CLS, and those of the windows."""
    windows = jnp.moveaxis(windows, 1, 3)
    rest = windows.reshape(len(windows), -1, *windows.shape[3:])[:, : length - 1]
    return jnp.concatenate([first[:, None], rest], axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    pattern: WindowPattern, query: Array, key: Array, value: Array, mask: Array
) -> tuple[Array, Array]:
    """`windowed_attention`."""
    return _forward(pattern, query, key, value, mask)[0]


def _forward(
    pattern: WindowPattern, query: Array, key: Array, value: Array, mask: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    queries = _scale(_queries(query, mask, pattern))
    keys, values = _seen(key, mask, pattern), _seen(value, mask, pattern)
    logits = _einsum("bhwqe,bhwek->bhwqk", queries, keys.swapaxes(-1, -2))
    logits += _bias(mask, pattern, logits.dtype)
    top = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - top)
    total = weights.sum(axis=-1)
    attended = _einsum("bhwqk,bhwke->bhwqe", weights.astype(values.dtype), values)
    attended = (attended / total[..., None]).astype(value.dtype)
    log_sum_exp = jnp.log(total) + top[..., 0]

    first, first_log_sum_exp = _cls(query[:, 0], key, value, mask)
    length = mask.shape[1]
    attended = _join(first, attended, length)
    attended = _clean(attended, mask)
    log_sum_exp = _join(first_log_sum_exp, log_sum_exp, length)
    log_sum_exp = jnp.where(mask[..., None], log_sum_exp, 0).swapaxes(1, 2)
    attended = checkpoint_name(attended, "attention")
    log_sum_exp = checkpoint_name(log_sum_exp, "attention")
    return (attended, log_sum_exp), (query, key, value, mask, attended, log_sum_exp)


def _backward(
    pattern: WindowPattern, residuals: tuple[Array, ...], cotangents: tuple[Array, Array]
) -> tuple[Array | None, ...]:
    """The weights once more, and what they and the cotangents make of the inputs'."""
    query, key, value, mask, attended, log_sum_exp = residuals
    from_attended, from_log_sum_exp = cotangents
    queries, to_query = jax.vjp(lambda query: _scale(_queries(query, mask, pattern)), query)
    (keys, values), to_seen = jax.vjp(
        lambda key, value: (_seen(key, mask, pattern), _seen(value, mask, pattern)), key, value
    )
    outer = _queries(from_attended, mask, pattern)
    inner = (_precise(from_attended) * attended).sum(axis=-1) - from_log_sum_exp.swapaxes(1, 2)
    of_rows = jnp.stack([log_sum_exp.swapaxes(1, 2), inner], axis=-1)
    log_sums, inners = jnp.moveaxis(_queries(of_rows, mask, pattern), -1, 0)[..., None]

    logits = _einsum("bhwqe,bhwek->bhwqk", queries, keys.swapaxes(-1, -2))
    weights = jnp.exp(logits + _bias(mask, pattern, logits.dtype) - log_sums)
    change = _einsum("bhwqe,bhwek->bhwqk", outer, values.swapaxes(-1, -2))
    change = (weights * (change - inners)).astype(keys.dtype)
    weights = weights.astype(values.dtype)
    of_queries = _einsum("bhwqk,bhwke->bhwqe", change, keys).astype(queries.dtype)
    of_keys = _einsum("bhweq,bhwqk->bhwek", queries.swapaxes(-1, -2), change)
    of_values = _einsum("bhweq,bhwqk->bhwek", outer.swapaxes(-1, -2), weights)
    (of_query,) = to_query(of_queries)
    of_key, of_value = to_seen(
        (
            of_keys.swapaxes(-1, -2).astype(keys.dtype),
            of_values.swapaxes(-1, -2).astype(values.dtype),
        )
    )

    _, to_first = jax.vjp(functools.partial(_cls, mask=mask), query[:, 0], key, value)
    first, first_key, first_value = to_first((from_attended[:, 0], from_log_sum_exp[:, :, 0]))
    return of_query.at[:, 0].set(first), of_key + first_key, of_value + first_value, None


_attention.defvjp(_forward, _backward)


def _received(
    pattern: WindowPattern,
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    log_sum_exp: Float[Array, "b h n"],
) -> Float[Array, "b n-1"]:
    """`windowed_saliency`."""
    queries, keys = _scale(_queries(query, mask, pattern)), _seen(key, mask, pattern)
    log_sums = _queries(log_sum_exp.swapaxes(1, 2)[..., None], mask, pattern)
    logits = _einsum("bhwqe,bhwek->bhwqk", queries, keys.swapaxes(-1, -2))
    weights = jnp.exp(logits + _bias(mask, pattern, logits.dtype) - log_sums)
    real = _query_windows(mask, pattern)[:, None, ..., None]
    by_window = jnp.where(real, weights, 0).sum(axis=(1, 3))
    far, local = jnp.split(by_window, [1 + pattern.summaries], axis=-1)

    # Where each local key stands, by what the windows do with the positions themselves.
    _, to_tokens = jax.vjp(
        lambda tokens: _key_windows(tokens, pattern), jnp.zeros(mask.shape, local.dtype)
    )
    (received,) = to_tokens(local)
    stretch, size = _membership(mask, pattern.summaries)
    share = far.sum(axis=1)[:, 1:] / jnp.maximum(size, 1)
    spread = jnp.take_along_axis(jnp.pad(share, ((0, 0), (0, 1))), stretch, axis=1)
    count = jnp.maximum(mask[:, 1:].sum(axis=1, keepdims=True), 1) * query.shape[2]
    return jnp.where(mask[:, 1:], (received[:, 1:] + spread) / count, 0)
