"""Integer arithmetic whose products would not fit 32 bits."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int


def divided_product(
    factor: Int[Array, "*#a"], other: Int[Array, "*#a"], divisor: Int[Array, "*#a"], largest: int
) -> tuple[Int[Array, "*a"], Int[Array, "*a"]]:
    """Divides `factor * other` by `divisor`, exactly, in 32 bits.

    Args:
      factor: Integers of at least 0.
      other: Integers of at least 0 and below 2**30.
      divisor: Integers of at least 1 and below 2**30.
      largest: Bound of the product. Up to 2**31 - 1 the product is formed; above, the division
        goes over the bits of `factor`, whose quotient must fit 32 bits.

    Returns:
      The quotient, rounded down, and the remainder.
    """
    # A symbolic size can't be compared, and is no int.
    if isinstance(largest, int) and largest < 2**31:
        product = factor * other
        return product // divisor, product % divisor
    step, rest_of_step = other // divisor, other % divisor
    quotient = rest = jnp.zeros_like(factor * divisor)
    for bit in reversed(range(31)):
        has_bit = (factor >> bit) & 1
        # One after the other: three times a divisor may not fit.
        quotient, rest = _carry(2 * quotient, 2 * rest, divisor)
        quotient, rest = _carry(quotient + has_bit * step, rest + has_bit * rest_of_step, divisor)
    return quotient, rest


def _carry(
    quotient: Int[Array, "*a"], rest: Int[Array, "*a"], divisor: Int[Array, "*#a"]
) -> tuple[Int[Array, "*a"], Int[Array, "*a"]]:
    """Carries into the quotient, so that a rest below twice the divisor is below the divisor."""
    over = rest >= divisor
    return quotient + over, jnp.where(over, rest - divisor, rest)
