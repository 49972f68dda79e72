"""A convolutional stem, a tokenizer for raw waveforms and images."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sft_jax.structs import Tokens


class ConvStem(nn.Module):
    """Two strided convolutions in place of patches (Xiao et al. 2021, arXiv 2106.14881).

    A token stands at each patch, and also sees the patches next to it. The strides of the layers
    multiply to the size of a patch. Padding has no effect, since it is 0 before each layer.

    Attributes:
      patch_sizes: Number of positions of a patch along each axis.
      features: Number of features of the first layer; the second has twice as many.
    """

    patch_sizes: tuple[int, ...]
    features: int = 32

    @nn.compact
    def __call__(
        self, values: Float[Array, "b *lengths f"], mask: Bool[Array, " b *lengths"]
    ) -> Tokens:
        """Computes the tokens of values that are 0 at padding."""
        pairs = zip(mask.shape[1:], self.patch_sizes, strict=True)
        fill = [(0, 0), *((0, -length % size) for length, size in pairs)]
        values, mask = jnp.pad(values, [*fill, (0, 0)]), jnp.pad(mask, fill)
        second = tuple(
            next(s for s in range(math.isqrt(size), 0, -1) if size % s == 0)
            for size in self.patch_sizes
        )
        first = tuple(p // s for p, s in zip(self.patch_sizes, second, strict=True))
        for i, strides in enumerate((first, second)):
            # A kernel around the first position of a stride: its place depends on no length.
            values = nn.Conv(
                self.features * (i + 1),
                kernel_size=[2 * s + 1 for s in strides],
                strides=strides,
                padding=[(s, s) for s in strides],
                name=f"conv_{i}",
            )(values)
            mask = _any_of(mask, strides)
            values = jnp.where(mask[..., None], nn.gelu(values), 0)
        batch, *counts, features = values.shape
        count = math.prod(counts)
        return Tokens(values.reshape(batch, count, features), mask.reshape(batch, count))


def _any_of(mask: Bool[Array, " b *lengths"], sizes: tuple[int, ...]) -> Bool[Array, " b *counts"]:
    """Tells for each block of positions whether any of them is real."""
    for axis, size in enumerate(sizes, start=1):
        before, length, after = mask.shape[:axis], mask.shape[axis], mask.shape[axis + 1 :]
        mask = mask.reshape(*before, length // size, size, *after).any(axis=axis + 1)
    return mask
