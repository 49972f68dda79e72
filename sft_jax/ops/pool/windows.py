"""Windows that pools reduce to one token each: adaptive windows, and the authors' fixed windows."""

from __future__ import annotations

import dataclasses
import math

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sft_jax.ops.integers import divided_product


class Windows(flax.struct.PyTreeNode):
    """Members of `k` windows over a sequence.

    Attributes:
      index: `[b, k, w]` positions in the sequence; any valid position where `member` is False.
      member: `[b, k, w]` booleans; False marks an entry that belongs to no window. A window
        without members gives no token.
      kernel: Size of the authors' fixed windows; None for adaptive windows.
    """

    index: Int[Array, "b k w"]
    member: Bool[Array, "b k w"]
    kernel: int | None = flax.struct.field(pytree_node=False, default=None)


def adaptive_windows(mask: Bool[Array, "b n"], k: int) -> Windows:
    """Splits the real tokens of each example into `k` contiguous windows of equal size (±1).

    Window `j` of an example with `v` real tokens holds the real tokens of rank
    `floor(j v / k) .. floor((j + 1) v / k) - 1`, wherever they are in the sequence. Padding is in
    no window, every real token is in exactly one, and no window is empty unless `v < k`. In that
    case each token has a window of its own and the last `k - v` are empty.

    Args:
      mask: False marks padding.
      k: Number of windows, at least 1.

    Returns:
      Windows of `w = ceil(n / k)` entries.
    """
    length = mask.shape[1]
    real = mask.sum(axis=1, dtype=jnp.int32)[:, None]
    used = jnp.clip(real, 1, k)
    edge, _ = divided_product(jnp.minimum(jnp.arange(k + 1)[None], used), real, used, k * length)
    rank = edge[:, :-1, None] + jnp.arange(-(-length // k))[None, None]
    member = rank < edge[:, 1:, None]
    # A stable sort moves the positions of the real tokens to the front, in their order.
    position = jnp.argsort(~mask, axis=1, stable=True)
    index = jnp.take_along_axis(position[:, None], jnp.minimum(rank, length - 1), axis=2)
    return Windows(index=index, member=member)


@dataclasses.dataclass(frozen=True)
class ReferenceWindows:
    """The fixed windows of the authors' code, kept for comparison with it.

    They give `(length + 2 padding - kernel) // stride + 1` tokens, which may differ from `k`. The
    steps after the last whole window are dropped.

    Attributes:
      kernel: Number of tokens in a window.
      stride: Distance from the start of one window to the start of the next.
      padding: Number of empty positions added on each side.
    """

    kernel: int
    stride: int
    padding: int = 0

    @classmethod
    def from_k(cls, length: int, k: int) -> ReferenceWindows:
        """Makes the windows that the authors' code derives from `k`."""
        stride = -(-length // k)
        return cls(stride, stride, min((stride * k - length) // 2, stride // 2))

    def num_windows(self, length: int) -> int:
        """Returns the number of tokens that a sequence of `length` is pooled to."""
        return (length + 2 * self.padding - self.kernel) // self.stride + 1

    def __call__(self, mask: Bool[Array, "b n"]) -> Windows:
        """Makes windows over each sequence of the batch; masked tokens are not members."""
        batch, length = mask.shape
        start = np.arange(self.num_windows(length)) * self.stride - self.padding
        position = start[:, None] + np.arange(self.kernel)
        inside = (position >= 0) & (position < length)
        shape = (batch, *position.shape)
        index = jnp.broadcast_to(np.clip(position, 0, length - 1)[None], shape)
        flat = jnp.take_along_axis(mask, index.reshape(batch, math.prod(shape[1:])), axis=1)
        return Windows(index=index, member=flat.reshape(shape) & inside[None], kernel=self.kernel)
