"""Integer arithmetic with products that do not fit 32 bits."""

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
      largest: Upper bound of the product. Up to 2**31 - 1 the product is formed. Above that, the
        division proceeds bit by bit over `factor`, and the quotient must fit 32 bits.

    Returns:
      The quotient, rounded down, and the remainder.
    """
    # A symbolic size is not an int and can't be compared.
    if isinstance(largest, int) and largest < 2**31:
        product = factor * other
        return product // divisor, product % divisor
    step, rest_of_step = other // divisor, other % divisor
    quotient = rest = jnp.zeros_like(factor * divisor)
    for bit in reversed(range(31)):
        has_bit = (factor >> bit) & 1
        # The carries are separate, since three times the divisor may not fit.
        quotient, rest = _carry(2 * quotient, 2 * rest, divisor)
        quotient, rest = _carry(quotient + has_bit * step, rest + has_bit * rest_of_step, divisor)
    return quotient, rest


def _carry(
    quotient: Int[Array, "*a"], rest: Int[Array, "*a"], divisor: Int[Array, "*#a"]
) -> tuple[Int[Array, "*a"], Int[Array, "*a"]]:
    """Carries into the quotient; reduces a remainder below twice the divisor to below it."""
    over = rest >= divisor
    return quotient + over, jnp.where(over, rest - divisor, rest)
