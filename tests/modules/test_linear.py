"""Dense layers with all leading axes made one."""

import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.modules.linear import flat_dot


@pytest.mark.parametrize("leading", [(4,), (2, 3), (2, 1, 3)])
def test_flat_dot_is_the_product_over_the_last_axis(leading):
    random = np.random.default_rng(0)
    values = random.normal(size=(*leading, 5)).astype(np.float32)
    kernel = random.normal(size=(5, 2)).astype(np.float32)
    product = flat_dot(jnp.asarray(values), jnp.asarray(kernel))
    np.testing.assert_allclose(product, values @ kernel, rtol=1e-5, atol=1e-6)
