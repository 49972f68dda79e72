import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.training.state import stream, update_ema


@pytest.mark.parametrize("other", [(1, "dropout", 3), (0, "params", 3), (0, "dropout", 4)])
def test_streams_differ_by_seed_name_and_step(other):
    draw = jax.random.bits(stream(0, "dropout", 3))
    assert draw == jax.random.bits(stream(0, "dropout", 3))
    assert draw != jax.random.bits(stream(*other))


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_running_mean_forgets_its_start(decay):
    params = {"scale": jnp.float32(2)}
    mean, expected = {"scale": jnp.float32(1000)}, 1000.0
    for step in range(12):
        share = min(decay, (1 + step) / (10 + step))
        mean = update_ema(mean, params, decay, jnp.int32(step))
        expected = share * expected + (1 - share) * 2
        np.testing.assert_allclose(mean["scale"], expected, rtol=1e-5)
    # With a constant decay of 0.999, 988 of 1000 would be left after 12 steps.
    np.testing.assert_allclose(mean["scale"], 2, rtol=0.01)
