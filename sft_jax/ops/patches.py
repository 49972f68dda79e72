"""Kernels of patches of several sizes.

A kernel maps a patch to a token. Its rows are the positions of the patch, in row-major order, with
the features of each. `B` enlarges a patch by repeating each position along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from sft_jax.structs import AnyArray, ModalitySpec


def grid(spec: ModalitySpec) -> tuple[int, ...]:
    """Number of patches along each axis."""
    return tuple(-(-n // p) for n, p in zip(spec.lengths, spec.patch_sizes, strict=True))


def axis_strides(spec: ModalitySpec, stride: int) -> tuple[int, ...]:
    """Stride along each axis: an axis with a single patch has no neighbours to join."""
    return tuple(stride if count > 1 else 1 for count in grid(spec))


def enlarged_sizes(spec: ModalitySpec, stride: int) -> tuple[int, ...]:
    """Number of positions of a patch of a stride along each axis."""
    pairs = zip(spec.patch_sizes, axis_strides(spec, stride), strict=True)
    return tuple(size * own for size, own in pairs)


def enlarged_kernel(
    kernel: Float[AnyArray, "i d"], sizes: Sequence[int], factors: Sequence[int]
) -> Float[Array, "o d"]:
    """Computes the kernel `pinv(B^T) w` of larger patches, with which `B x` has the token of `x`.

    It is the shortest such kernel. The weights of each position are repeated, and divided by the
    number of repeats. The token of any larger patch then is that of its averages.

    Args:
      kernel: Kernel `w` of the patches.
      sizes: Number of positions of a patch along each axis.
      factors: Number of repeats along each axis.
    """
    width = kernel.shape[-1]
    values = jnp.asarray(kernel).reshape(*sizes, -1, width)
    for axis, factor in enumerate(factors):
        values = jnp.repeat(values, factor, axis=axis)
    return values.reshape(-1, width) / math.prod(factors)


def reduced_kernel(
    kernel: Float[AnyArray, "i d"], sizes: Sequence[int], factors: Sequence[int]
) -> Float[Array, "o d"]:
    """Computes the kernel `B^T w` of smaller patches: the token of `x` is that of `B x` with `w`.

    The weights of each position are the sums of those of its repeats.

    Args:
      kernel: Kernel `w` of the larger patches.
      sizes: Number of positions of a smaller patch along each axis.
      factors: Number of repeats along each axis.
    """
    width = kernel.shape[-1]
    split = [n for pair in zip(sizes, factors, strict=True) for n in pair]
    values = jnp.asarray(kernel).reshape(*split, -1, width)
    return values.sum(axis=tuple(range(1, len(split), 2))).reshape(-1, width)
