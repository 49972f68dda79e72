"""Layouts of kernels for a CPU and for accelerators, chosen when a program is lowered.

A function never asks which machine traces it: the program may be meant for another platform, or
for several at once (`jax.export`). Both layouts are traced, and lowering keeps the one for the
platform (`jax.lax.platform_dependent`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sft_jax.ops.attention.exp2 import polynomial_exp2

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Target:
    """Kind of machine that a kernel is lowered for, and operations that suit it.

    Attributes:
      sequential: Whether heads are computed one by one, each within the cache of a core, rather
        than all at once.
    """

    sequential: bool

    def each(self, function: Callable[[Any], T], arrays: Any) -> T:
        """Applies a function to every example or head, along the first axis of each array."""
        if self.sequential:
            return jax.lax.map(function, arrays)
        return jax.vmap(function)(arrays)

    def matmul(
        self, left: Float[Array, "*a"], right: Float[Array, "*b"], dtype: np.dtype
    ) -> Float[Array, "*c"]:
        """Multiplies matrices and accumulates in `dtype`, the type of the result.

        On a CPU, XLA may not support operands with fewer bits than the result.
        """
        if self.sequential:
            return jnp.matmul(left.astype(dtype), right.astype(dtype))
        return jnp.matmul(left, right, preferred_element_type=dtype)

    def exp2(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Computes `2 ** x`; see `sft_jax.ops.attention.exp2`."""
        return polynomial_exp2(x) if self.sequential and x.dtype == jnp.float32 else jnp.exp2(x)


CPU = Target(sequential=True)
ACCELERATOR = Target(sequential=False)


def for_target(kernel: Callable[..., T], *arrays: Any, **platforms: Callable[..., T]) -> T:
    """Computes `kernel(target, *arrays)` for the target that the program is lowered for.

    Args:
      kernel: Function of a target and arrays.
      *arrays: PyTrees of arrays.
      **platforms: Functions of the arrays alone, which take its place on a platform of that name.
    """
    return jax.lax.platform_dependent(
        *arrays,
        cpu=functools.partial(kernel, CPU),
        default=functools.partial(kernel, ACCELERATOR),
        **platforms,
    )


def varying_alike(arrays: T) -> T:
    """Returns the arrays of a PyTree unchanged, but of one type within `jax.shard_map`.

    The type of an array says whether it is equal on all devices. A loop over arrays of both types
    would change the type of its state, and the type of a gradient would differ from its array's.
    """
    # A 0 is added to all arrays. It counts as equal on all devices only if all arrays are.
    zeros = (jnp.zeros_like(array, jnp.float32, shape=()) for array in jax.tree.leaves(arrays))
    zero = functools.reduce(jnp.add, zeros)
    return jax.tree.map(lambda array: array + zero.astype(array.dtype), arrays)
