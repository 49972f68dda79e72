"""Block-sparse self-attention: each query sees its window and the summary keys of all windows."""

from __future__ import annotations

import dataclasses
import typing

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sft_jax.ops.attention.plain import saliency, scaled_products


@dataclasses.dataclass(frozen=True)
class BlockSparsePattern:
    """Pattern in which each query sees the keys of its window, and a few keys of every window.

    Window `w` holds the positions `w s .. (w + 1) s`, so that neighbours share one position.
    Query `i > 0` belongs to window `(i - 1) // s`, query 0 to the first window. Every query sees
    the summary keys: the last `c` positions of each stretch of `s` and the position after them.
    Their positions are `j >= s - c` with `j mod s >= s - c` or `j mod s = 0`.

    This is the fixed pattern of the Sparse Transformer (Child et al. 2019, arXiv 1904.10509,
    section 4.3) without its causal mask. It follows the variant in fairseq's
    `SparseMultiheadAttention`, with `s + 1` keys and `c + 1` summary keys per window: one more
    than in the paper. Up to `s + 1` tokens the pattern is dense. Position 0, a CLS token, has no
    special role: only the first window sees it. Padding counts as positions.

    Attributes:
      stride: Distance `s` from the start of one window to the start of the next.
      expressivity: Number `c` from 1 to `stride`; with `c = s` all attention is dense.

    Raises:
      ValueError: If an attribute is out of range.
    """

    stride: int = 32
    expressivity: int = 8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"BlockSparsePattern.{field.name} must be an integer >= 1, got {value!r}"
                )
        if self.expressivity > self.stride:
            raise ValueError(
                f"BlockSparsePattern.expressivity={self.expressivity} exceeds stride={self.stride}"
            )

    @property
    def num_local(self) -> int:
        """Number of positions at the start of each window that are not summary keys: `s - c`."""
        return self.stride - self.expressivity

    def num_windows(self, length: int) -> int:
        """Returns the number of windows that the queries of a sequence belong to."""
        return max(-(-(length - 1) // self.stride), 1)

    def window(self, length: int) -> Int[np.ndarray, " n"]:
        """Returns the index of the window that each query belongs to."""
        return np.maximum(np.arange(length) - 1, 0) // self.stride

    def summary(self, length: int) -> Int[np.ndarray, " g"]:
        """Returns the positions of the summary keys, ascending."""
        key = np.arange(length)
        within = key % self.stride
        late = (within >= self.num_local) | (within == 0)
        return key[(key >= self.num_local) & late]

    def allowed(self, length: int) -> Bool[np.ndarray, "n n"]:
        """Returns a matrix, True where the query (row) sees the key (column), for inspection."""
        start = self.window(length)[:, None] * self.stride
        key = np.arange(length)
        allowed = (start <= key) & (key <= start + self.stride)
        allowed[:, self.summary(length)] = True
        return allowed


# The types are not checked: JAX fills the same class with shapes, shardings or NumPy arrays.
@typing.no_type_check
class BlockSparseWeights(flax.struct.PyTreeNode):
    """Attention weights of the keys that a `BlockSparsePattern` lets each query see.

    Attributes:
      local: `[b, h, n, s - c]` weights of the first `s - c` positions of the query's window.
        Positions that are summary keys or beyond the end have weight 0 here.
      summary: `[b, h, n, g]` weights of the summary keys, in the order of their positions.
      pattern: Pattern of the weights.
    """

    local: Float[Array, "b h n l"]
    summary: Float[Array, "b h n g"]
    pattern: BlockSparsePattern = flax.struct.field(pytree_node=False)


def block_sparse_attention(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    pattern: BlockSparsePattern,
) -> tuple[Float[Array, "b n h e"], BlockSparseWeights]:
    """Scaled dot-product self-attention over the keys that the pattern lets each query see.

    The result equals softmax attention with every other key masked, but is computed from the
    windows and the summary keys alone. Time and memory grow with `n (s - c + g)` for `g` summary
    keys. No `n` by `n` array is formed.

    Args:
      query: Queries of `h` heads of size `e`.
      key: Keys.
      value: Values.
      mask: False marks padding, which gets no weight and has no effect on real queries.
      pattern: Pattern of the keys that each query sees.

    Returns:
      The weighted sums of the values, in their type, and the weights, in float32 or, for
      float64 inputs, float64. A query that sees no real key has weights and sums of 0; it is
      padding itself, since each query sees itself.
    """
    length = mask.shape[1]
    query, key, value = (
        jnp.where(mask[..., None, None], heads, 0).swapaxes(1, 2) for heads in (query, key, value)
    )
    query = query * query.shape[-1] ** -0.5
    summary = pattern.summary(length)
    windows, local_keys = _query_windows(query, pattern), _local_keys(key, pattern)
    to_local = _from_windows(scaled_products("bhwqe,bhwke->bhwqk", windows, local_keys), length)
    to_summary = scaled_products("bhne,bhge->bhng", query, key[:, :, summary])
    # Local and summary keys are disjoint, so one softmax serves both.
    logits = jnp.concatenate([to_local, to_summary], axis=-1)
    weights = _softmax(logits, _visible(mask, pattern)[:, None])
    local, far = jnp.split(weights, [pattern.num_local], axis=-1)

    windows = _query_windows(local.astype(value.dtype), pattern)
    local_values = _local_keys(value, pattern)
    from_local = _from_windows(jnp.einsum("bhwqk,bhwke->bhwqe", windows, local_values), length)
    from_summary = jnp.einsum("bhng,bhge->bhne", far.astype(value.dtype), value[:, :, summary])
    attended = (from_local + from_summary).swapaxes(1, 2)
    return attended, BlockSparseWeights(local, far, pattern)


def received(
    weights: BlockSparseWeights | Float[Array, "b h n n"], mask: Bool[Array, "b n"]
) -> Float[Array, "b n-1"]:
    """Computes the saliency (`sft_jax.ops.attention.plain.saliency`) of dense or sparse weights.

    Args:
      weights: Attention weights of a sequence over itself, CLS first.
      mask: False marks padding, whose saliency is 0.

    Returns:
      The saliency of the tokens after CLS.
    """
    if not isinstance(weights, BlockSparseWeights):
        return saliency(weights, mask)
    pattern, length = weights.pattern, mask.shape[1]
    # CLS is not a query here, and no other query is the first position of its own window.
    queries = mask.at[:, 0].set(False).astype(weights.local.dtype)
    per_window = jnp.einsum(
        "bhwqk,bwq->bwk",
        _query_windows(weights.local, pattern)[..., 1:, :],
        _query_windows(queries[..., None], pattern)[..., 1:, 0],
    )
    spread = jnp.pad(per_window, ((0, 0), (0, 0), (0, pattern.expressivity)))
    # One position is added, which ends the last window if that window is complete.
    in_order = spread.reshape(spread.shape[0], spread.shape[1] * spread.shape[2])
    total = jnp.pad(in_order, ((0, 0), (0, 1)))[:, :length]
    far = jnp.einsum("bhng,bn->bg", weights.summary, queries)
    total = total.at[:, pattern.summary(length)].add(far)
    count = jnp.maximum(queries.sum(axis=-1, keepdims=True), 1)
    heads = weights.local.shape[1]
    return jnp.where(mask[:, 1:], total[:, 1:] / (count * heads), 0)


def to_dense(weights: BlockSparseWeights) -> Float[Array, "b h n n"]:
    """Makes dense weights, with 0 for each key that a query does not see, for inspection."""
    pattern = weights.pattern
    length = weights.local.shape[2]
    query = np.arange(length)[:, None]
    local = pattern.window(length)[:, None] * pattern.stride + np.arange(pattern.num_local)
    dense = jnp.zeros((*weights.local.shape[:2], length, length), weights.local.dtype)
    dense = dense.at[:, :, :, pattern.summary(length)].set(weights.summary)
    # Weights are added: a window's first position can be a summary key, whose local weight is 0.
    return dense.at[:, :, query, local].add(weights.local, mode="drop")


def _softmax(logits: Float[Array, "b h n k"], visible: Bool[Array, "b 1 n k"]) -> Array:
    """Computes a softmax over the visible entries; 0 at the others, also where none is visible."""
    # The fill is the lowest finite number, not -inf: see `masked_softmax`.
    weights = jax.nn.softmax(jnp.where(visible, logits, jnp.finfo(logits.dtype).min), axis=-1)
    return jnp.where(visible, weights, 0)


def _visible(mask: Bool[Array, "b n"], pattern: BlockSparsePattern) -> Bool[Array, "b n k"]:
    """Computes the mask of the real keys among each query's local keys and the summary keys."""
    length = mask.shape[1]
    summary = pattern.summary(length)
    not_summary = np.ones(length, bool)
    not_summary[summary] = False
    local = _local_keys((mask & not_summary[None])[..., None], pattern)[..., 0]
    per_query = local[:, pattern.window(length)]
    everywhere = jnp.broadcast_to(mask[:, None, summary], (mask.shape[0], length, len(summary)))
    return jnp.concatenate([per_query, everywhere], axis=-1)


def _stretches(values: Array, pattern: BlockSparsePattern) -> tuple[Array, Array]:
    """Splits the second-to-last axis into stretches of `s` and their end positions, padded with 0.

    Returns:
      `[..., w, s, e]` and `[..., w, 1, e]`: the first `s` positions of each window, and its
      last position, which the next window shares.
    """
    *batch, length, size = values.shape
    count = pattern.num_windows(length)
    short = count * pattern.stride + 1 - length
    values = jnp.pad(values, (*[(0, 0)] * len(batch), (0, short), (0, 0)))
    last = values[..., pattern.stride :: pattern.stride, None, :]
    return values[..., :-1, :].reshape(*batch, count, pattern.stride, size), last


def _local_keys(
    values: Float[Array, "*b n e"] | Bool[Array, "*b n e"], pattern: BlockSparsePattern
) -> Array:
    """Gathers the positions of each window that are not summary keys, `[..., w, s - c, e]`."""
    return _stretches(values, pattern)[0][..., : pattern.num_local, :]


def _query_windows(values: Float[Array, "*b n e"], pattern: BlockSparsePattern) -> Array:
    """Gathers all positions of each window, `[..., w, s + 1, e]`."""
    return jnp.concatenate(_stretches(values, pattern), axis=-2)


def _from_windows(values: Float[Array, "*b w q e"], length: int) -> Float[Array, "*b n e"]:
    """Restores the rows of the queries from their windows: the inverse of `_query_windows`."""
    *batch, count, slots, size = values.shape
    own = values[..., 1:, :].reshape(*batch, count * (slots - 1), size)
    # Only in the first window is the first slot a query of that window.
    return jnp.concatenate([values[..., 0, :1, :], own], axis=-2)[..., :length, :]
