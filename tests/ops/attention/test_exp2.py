"""The exponential of attention kernels against the exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.ops.attention.exp2 import polynomial_exp2
from sft_jax.ops.target import ACCELERATOR, CPU


def test_float32_is_exact_to_3e_7():
    x = np.random.default_rng(0).uniform(-126, 127.9, 200_000).astype(np.float32)
    x = np.concatenate([x, np.arange(-126, 128), np.arange(-125.5, 127.5)]).astype(np.float32)
    expected = np.exp2(x.astype(np.float64))
    error = np.abs(np.asarray(jax.jit(polynomial_exp2)(x), np.float64) / expected - 1)
    assert error.max() <= 3e-7


def test_subnormal_results_become_the_least_normal_number():
    x = jnp.asarray([-126, -126.1, -150, -1e9, jnp.finfo(np.float32).min, -jnp.inf])
    np.testing.assert_array_equal(polynomial_exp2(x), np.float32(2.0**-126))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_only_float32_on_a_cpu_is_not_that_of_xla(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-20, 10, 101).astype(dtype)
        for target in (CPU, ACCELERATOR):
            assert target.exp2(x).dtype == dtype
            exact = np.array_equal(target.exp2(x), jnp.exp2(x))
            assert exact == (target is ACCELERATOR or dtype != "float32")
