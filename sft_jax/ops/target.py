"""Kernels laid out for a CPU and for accelerators, chosen when a program is lowered.

A function does not ask which machine it is traced on: the program may be meant for another, or
for several at once (`jax.export`). Both layouts are traced, and lowering keeps that of the
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
    """Kind of machine that a kernel is lowered for, and its ways to compute.

    Attributes:
      sequential: Whether heads are computed one by one, each within the cache of a core, rather
        than all at once.
    """

    sequential: bool

    def each(self, function: Callable[[Any], T], arrays: Any) -> T:
        """Applies a function to every example or head, the first axis of each array."""
        if self.sequential:
            return jax.lax.map(function, arrays)
        return jax.vmap(function)(arrays)

    def matmul(
        self, left: Float[Array, "*a"], right: Float[Array, "*b"], dtype: np.dtype
    ) -> Float[Array, "*c"]:
        """Multiplies matrices and adds up in `dtype`, the type of the result.

        XLA's products on a CPU need not take operands of fewer bits than the result.
        """
        if self.sequential:
            return jnp.matmul(left.astype(dtype), right.astype(dtype))
        return jnp.matmul(left, right, preferred_element_type=dtype)

    def exp2(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Computes `2 ** x`; see `sft_jax.ops.attention.exp2`."""
        return polynomial_exp2(x) if self.sequential and x.dtype == jnp.float32 else jnp.exp2(x)


CPU = Target(sequential=True)
ACCELERATOR = Target(sequential=False)


def for_target(kernel: Callable[..., T], *arrays: Any) -> T:
    """Computes `kernel(target, *arrays)` for the target that the program is lowered for."""
    return jax.lax.platform_dependent(
        *arrays,
        cpu=functools.partial(kernel, CPU),
        default=functools.partial(kernel, ACCELERATOR),
    )


def varying_alike(arrays: T) -> T:
    """Returns the same arrays, any PyTree of them, of one type within `jax.shard_map`.

    There an array may be known to be equal on all devices. A loop over some such arrays and others
    would change the type of its state, and a gradient would have another type than its array.
    """
    # The number added to them all is 0, and known to be equal only if all of them are.
    zeros = (jnp.zeros_like(array, jnp.float32, shape=()) for array in jax.tree.leaves(arrays))
    zero = functools.reduce(jnp.add, zeros)
    return jax.tree.map(lambda array: array + zero.astype(array.dtype), arrays)
