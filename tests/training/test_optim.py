import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.config import OptimConfig
from sft_jax.training import optim

PARAMS = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "position": jnp.ones((1, 2))}
ZEROS = {
    "layer": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)},
    "position": jnp.zeros((1, 2)),
}


def test_the_rate_rises_then_follows_half_a_cosine():
    schedule = optim.make_schedule(OptimConfig(lr=1.0, warmup_epochs=2), 5, 110)
    np.testing.assert_allclose([schedule(i) for i in (0, 5, 10)], [1 / 11, 6 / 11, 1], rtol=1e-6)
    np.testing.assert_allclose([schedule(i) for i in (60, 110)], [0.5, 0], atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_the_rate_stays(schedule):
    config = OptimConfig(lr=1.0, warmup_epochs=0.0, schedule=schedule)
    made = optim.make_schedule(config, 5, 100)
    assert [float(made(i)) for i in (0, 1, 99)] == [1, 1, 1]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lion", "lamb", "adafactor", "rmsprop"])
def test_optimisers_of_optax_step(name):
    optimizer = optim.make_optimizer(OptimConfig(name=name), lambda _: 0.1)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert jnp.all(updates["layer"]["kernel"] < 0)


def test_only_kernels_decay():
    optimizer = optim.make_optimizer(OptimConfig(weight_decay=0.5), lambda _: 0.1)
    updates, _ = optimizer.update(ZEROS, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["layer"]["kernel"], -0.05, rtol=1e-6)
    assert jnp.all(updates["layer"]["bias"] == 0)
    assert jnp.all(updates["position"] == 0)


def test_nothing_decays_unless_asked():
    # optax.adamw's own default is 1e-4.
    optimizer = optim.make_optimizer(OptimConfig(), lambda _: 0.1)
    updates, _ = optimizer.update(ZEROS, optimizer.init(PARAMS), PARAMS)
    assert jnp.all(updates["layer"]["kernel"] == 0)


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimConfig(name="sgd", clip_norm=0.8)
    optimizer = optim.make_optimizer(config, lambda _: 1.0)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["layer"]["kernel"], -0.8 / np.sqrt(8), rtol=1e-6)
