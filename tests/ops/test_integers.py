"""Products that would not fit 32 bits against Python's integers."""

import jax.numpy as jnp
import numpy as np

from sft_jax.ops.integers import divided_product


def test_divides_products_beyond_32_bits():
    random = np.random.default_rng(0)
    size, bound = 20_000, 2**30
    divisor = np.where(
        random.random(size) < 0.3, random.integers(1, 50, size), random.integers(1, bound, size)
    )
    other = random.integers(0, bound, size)
    # The quotient fits 32 bits.
    most = np.minimum((2**31 - 1) * divisor // np.maximum(other, 1), 2**31 - 1)
    factor = random.integers(0, most + 1)
    quotient, rest = divided_product(
        *(jnp.asarray(a, jnp.int32) for a in (factor, other, divisor)), 2**61
    )
    product = factor.astype(object) * other.astype(object)
    np.testing.assert_array_equal(quotient, (product // divisor).astype(np.int64))
    np.testing.assert_array_equal(rest, (product % divisor).astype(np.int64))
