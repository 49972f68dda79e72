"""The exponential of attention kernels against the exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.ops.exponential import exp2


def test_float32_is_exact_to_3e_7():
    x = np.random.default_rng(0).uniform(-126, 127.9, 200_000).astype(np.float32)
    x = np.concatenate([x, np.arange(-126, 128), np.arange(-125.5, 127.5)]).astype(np.float32)
    expected = np.exp2(x.astype(np.float64))
    error = np.abs(np.asarray(jax.jit(exp2)(x), np.float64) / expected - 1)
    assert error.max() <= 3e-7


def test_what_would_be_less_than_normal_is_the_least_normal_number():
    x = jnp.asarray([-126, -126.1, -150, -1e9, jnp.finfo(np.float32).min, -jnp.inf])
    np.testing.assert_array_equal(exp2(x), np.float32(2.0**-126))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_types_are_those_of_xla(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-20, 10, 101).astype(dtype)
        assert exp2(x).dtype == dtype
        np.testing.assert_array_equal(exp2(x), jnp.exp2(x))


def test_on_accelerators_it_is_that_of_xla(monkeypatch):
    x = jnp.asarray([-1e9, 0.3])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(exp2(x), jnp.exp2(x))
