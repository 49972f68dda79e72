"""Windowed self-attention: each query sees its surroundings, CLS, and summaries of all tokens."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from sft_jax.ops.attention.tiled import SAVED
from sft_jax.ops.attention.tiles import are_small, base_2
from sft_jax.ops.integers import divided_product
from sft_jax.ops.target import Target, for_target


@dataclasses.dataclass(frozen=True)
class WindowPattern:
    """Pattern in which each query sees the keys around it, CLS, and a few means over all tokens.

    Position 0 is the CLS token, which as a query sees every key. The other positions are cut into
    windows of `w` from position 1 on. A query sees the keys of its window and of the `r` positions
    on either side, the CLS key, and `s` summary keys. Padding counts as positions, not as tokens.

    The real tokens of an example except CLS are divided, in their order, into `s` stretches whose
    lengths differ by 1 at most. The key and the value of a summary are the means over its
    stretch. A summary of `t` tokens counts as `t` keys: `log t` is added to its logits. If the
    tokens of each stretch are equal, the far field thus equals that of dense attention. The
    tokens near a query count twice there: by themselves, and in their summary. With fewer real
    tokens than `s`, each token has a summary of its own and the last summaries are empty.

    Attributes:
      window: Number `w` of queries that see the same keys.
      reach: Number `r` of positions on either side of a window that its queries also see.
      summaries: Number `s` of summary keys.

    Raises:
      ValueError: If an attribute is out of range.
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
        """Number of positions that a window's queries see individually: `w + 2 r`."""
        return self.window + 2 * self.reach

    def num_windows(self, length: int) -> int:
        """Returns the number of windows that the queries after CLS belong to."""
        return max(-(-(length - 1) // self.window), 1)

    def is_dense(self, length: int) -> bool:
        """Returns whether dense attention over `length` tokens, CLS included, costs no more."""
        return self.num_local + self.summaries >= length


def windowed_attention(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    pattern: WindowPattern,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n-1"]]:
    """Scaled dot-product self-attention over the keys that the pattern lets each query see.

    Time and memory grow with `n (w + 2 r + s + 1)`. The weights are not kept for the backward
    pass, which recomputes them from the inputs. The results have the checkpoint name `SAVED` of
    `sft_jax.ops.attention.tiled`, for the policies of `jax.checkpoint`.

    Args:
      query: Queries of `h` heads of size `e`, CLS first.
      key: Keys.
      value: Values.
      mask: False marks padding, which gets no weight and has no effect on real queries.
      pattern: Pattern of the keys that each query sees.

    Returns:
      The weighted sums of the values, in their type, and the saliency of the tokens after CLS
      (`sft_jax.ops.attention.plain.saliency`), in float32 or, for float64 inputs, float64. The
      weight of a summary is spread equally over its tokens. Gradients pass through both.
    """
    query, key, value = (jnp.where(mask[..., None, None], a, 0) for a in (query, key, value))
    share = _share(mask, pattern, jnp.promote_types(query.dtype, jnp.float32))
    num_queries = jnp.maximum(mask[:, 1:].sum(axis=1), 1) * query.shape[2]
    heads = tuple(a.swapaxes(1, 2) for a in (query, key, value))
    # The gradient of either target recomputes its arrays from these inputs.
    attend = jax.checkpoint(functools.partial(for_target, functools.partial(_examples, pattern)))
    attended, salient = attend(heads, mask, share, num_queries)
    attended = checkpoint_name(attended.swapaxes(1, 2), SAVED)
    return attended, checkpoint_name(salient, SAVED)


def _examples(
    pattern: WindowPattern, target: Target, *arrays: Any
) -> tuple[Float[Array, "b h n e"], Float[Array, "b m"]]:
    """Computes the weighted sums and the saliency of each example."""

    def example(arrays: Any) -> tuple[Array, Array]:
        heads, mask, share, num_queries = arrays

        @jax.checkpoint
        def head(arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            return _attend(target, *arrays, mask, share, pattern)

        attended, received = target.each(head, heads)
        return attended, received.sum(axis=0) / num_queries

    return target.each(example, arrays)


def _share(
    mask: Bool[Array, "b n"], pattern: WindowPattern, dtype: np.dtype
) -> Float[Array, "b s m"]:
    """Computes the matrix that averages over each stretch of tokens after CLS."""
    tokens = mask[:, 1:]
    real = tokens.sum(axis=1, keepdims=True, dtype=jnp.int32)
    number = pattern.summaries
    used = jnp.clip(real, 1, number)
    # The stretch of token r, counted from 1, is ceil(r used / real) - 1.
    rank = jnp.cumsum(tokens, axis=1, dtype=jnp.int32)
    whole, rest = divided_product(rank, used, jnp.maximum(real, 1), tokens.shape[1] * number)
    stretch = whole - (rest == 0)
    member = (stretch[:, None] == jnp.arange(number)[None, :, None]) & tokens[:, None]
    size = member.sum(axis=-1, keepdims=True, dtype=dtype)
    return jnp.where(member, 1 / jnp.maximum(size, 1), 0)


def _attend(
    target: Target,
    query: Float[Array, "n e"],
    key: Float[Array, "n e"],
    value: Float[Array, "n e"],
    mask: Bool[Array, " n"],
    share: Float[Array, "s m"],
    pattern: WindowPattern,
) -> tuple[Float[Array, "n e"], Float[Array, " m"]]:
    """Computes the sums, and the weight each token receives from real queries, for one head."""
    kind = jnp.promote_types(query.dtype, jnp.float32)
    real, share = mask.astype(kind), share.astype(kind)
    query = base_2(query)
    sizes = (share > 0).sum(axis=1).astype(kind)
    far_key, far_value = (_means(target, share, sizes, a[1:]) for a in (key, value))
    windows = _queries(query[1:], pattern)
    keys = _seen(key, far_key, pattern)
    counts = _seen(real[:, None], sizes[:, None], pattern)
    weights, total = _weights(target, windows, keys, counts)
    values = _seen(value, far_value, pattern).swapaxes(1, 2)
    # Keys come before queries: see `sft_jax.ops.attention.tiled`.
    sums = target.matmul(values, weights.astype(value.dtype), kind)
    sums = (sums / total[:, None]).swapaxes(1, 2).reshape(-1, value.shape[1])

    query_weight = _queries(real[1:, None], pattern)[..., 0] / total
    received_by_seen = jnp.einsum("wkq,wq->wk", weights, query_weight)
    received = _add_seen(received_by_seen, mask.shape[0] - 1, pattern)
    received += received_by_seen[:, -pattern.summaries :].sum(axis=0) @ share

    weights, total = _weights(target, query[None, :1], key[None], real[None, :, None])
    first = target.matmul(weights[..., 0].astype(value.dtype), value, kind) / total
    return jnp.concatenate([first, sums[: mask.shape[0] - 1]]).astype(value.dtype), received


def _means(
    target: Target,
    share: Float[Array, "s m"],
    sizes: Float[Array, " s"],
    rows: Float[Array, "m e"],
) -> Float[Array, "s e"]:
    """Averages over each stretch, in float32 at least: a share may vanish in float16."""
    member = (share > 0).astype(rows.dtype)
    total = target.matmul(member, rows, sizes.dtype)
    return (total / jnp.maximum(sizes, 1)[:, None]).astype(rows.dtype)


def _weights(
    target: Target,
    query: Float[Array, "w q e"],
    key: Float[Array, "w k e"],
    counts: Float[Array, "w k 1"],
) -> tuple[Float[Array, "w k q"], Float[Array, "w q"]]:
    """Computes unnormalised weights, and their sums; the sum is 1 where there is no key."""
    dtype = counts.dtype
    bias = jnp.log2(jnp.maximum(counts, 1))
    logits = target.matmul(key, query.swapaxes(1, 2), dtype) + bias

    def largest(logits: Array) -> Array:
        return jnp.where(counts > 0, logits, jnp.finfo(dtype).min).max(axis=1)

    fixed = jax.lax.stop_gradient(logits)
    if target.sequential:
        is_small = are_small(query, key, key.dtype, bias[..., 0])
        top = jax.lax.cond(is_small, lambda x: jnp.zeros_like(x[:, 0]), largest, fixed)
    else:
        # Under `vmap` over heads, `lax.cond` would compute both branches.
        top = largest(fixed)
    # A masked logit may far exceed the largest: its exponential must be finite to multiply by 0.
    most = jnp.finfo(dtype).maxexp - 2
    weights = target.exp2(jnp.minimum(logits - top[:, None], most)) * (counts > 0)
    total = weights.sum(axis=1)
    return weights, jnp.where(total > 0, total, 1)


def _queries(rows: Float[Array, "m e"], pattern: WindowPattern) -> Float[Array, "w q e"]:
    """Cuts the positions after CLS into windows, padded with 0."""
    count = pattern.num_windows(len(rows) + 1)
    rows = jnp.pad(rows, ((0, count * pattern.window - len(rows)), (0, 0)))
    return rows.reshape(count, pattern.window, -1)


def _seen(
    rows: Float[Array, "n e"], summaries: Float[Array, "s e"], pattern: WindowPattern
) -> Float[Array, "w k e"]:
    """Gathers the rows that each window sees: positions around it, CLS, and the summaries."""
    local = _unfold(rows[1:], pattern)
    far = jnp.concatenate([rows[:1], summaries]).astype(rows.dtype)
    return jnp.concatenate([local, jnp.broadcast_to(far, (len(local), *far.shape))], axis=1)


def _add_seen(
    received_by_seen: Float[Array, "w k"], length: int, pattern: WindowPattern
) -> Float[Array, " m"]:
    """Sums the contributions of windows to the positions they see: the transpose of `_unfold`."""
    further = -(-2 * pattern.reach // pattern.window)
    fill = (further + 1) * pattern.window - pattern.num_local
    local = jnp.pad(received_by_seen[:, : pattern.num_local], ((0, 0), (0, fill)))
    shifted = local.reshape(-1, further + 1, pattern.window)
    parts = (
        jnp.pad(shifted[:, first], ((first, further - first), (0, 0)))
        for first in range(further + 1)
    )
    added = functools.reduce(jnp.add, parts)
    return added.reshape(-1)[pattern.reach : pattern.reach + length]


def _unfold(rows: Float[Array, "m e"], pattern: WindowPattern) -> Float[Array, "w l e"]:
    """Cuts positions into windows with their reach on either side, padded with 0."""
    count, window, reach = pattern.num_windows(len(rows) + 1), pattern.window, pattern.reach
    further = -(-2 * reach // window)
    after = (count + further) * window - reach - len(rows)
    rows = jnp.pad(rows, ((reach, after), (0, 0)))
    stretches = rows.reshape(count + further, window, -1)
    shifted = [stretches[first : first + count] for first in range(further + 1)]
    return jnp.concatenate(shifted, axis=1)[:, : pattern.num_local]
