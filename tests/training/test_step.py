"""The random streams that a training step hands to the model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic

from sft_jax.config import ExperimentConfig, TrainConfig
from sft_jax.structs import Batch
from sft_jax.training.state import update_ema
from sft_jax.training.step import make_train_step


class Noise:
    """A model whose logits are drawn from one of the streams."""

    task = "single_label"

    def __init__(self, stream):
        self.stream = stream

    def apply(self, variables, inputs, masks, *, train, mixup, rngs):
        assert train
        assert mixup is None
        drawn = jax.random.normal(rngs[self.stream], (len(inputs["x"]), 2))
        return variables["params"]["scale"] * drawn


def _example_losses(stream, step, accumulate=1, seed=0):
    params, optimizer = {"scale": jnp.ones(())}, optax.sgd(0.1)
    state = synthetic.first_state(params, optimizer, step=step)
    batch = Batch({"x": jnp.zeros((4, 1, 1))}, {}, jnp.zeros(4, int), jnp.ones(4))
    config = ExperimentConfig(train=TrainConfig(accumulate=accumulate))
    train_step = make_train_step(Noise(stream), optimizer, config, seed)
    _, metrics = jax.jit(train_step)(state, batch)
    return np.asarray(metrics.example_loss)


@pytest.mark.parametrize("stream", ["dropout", "pool"])
def test_a_stream_differs_by_step_seed_and_part_and_can_be_had_again(stream):
    losses = _example_losses(stream, step=3)
    np.testing.assert_array_equal(_example_losses(stream, step=3), losses)
    assert (_example_losses(stream, step=4) != losses).all()
    assert (_example_losses(stream, step=3, seed=1) != losses).all()
    assert len(set(_example_losses(stream, step=3, accumulate=2).tolist())) == 4


def test_the_streams_are_independent():
    assert (_example_losses("dropout", step=3) != _example_losses("pool", step=3)).all()


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_running_mean_forgets_its_start(decay):
    params = {"scale": jnp.float32(2)}
    mean, expected = {"scale": jnp.float32(1000)}, 1000.0
    for step in range(12):
        share = min(decay, (1 + step) / (10 + step))
        mean, expected = (
            update_ema(mean, params, decay, jnp.int32(step)),
            (share * expected + (1 - share) * 2),
        )
        np.testing.assert_allclose(mean["scale"], expected, rtol=1e-5)
    # Without a rule for the start 988 of 1000 would be left of it after 12 steps at 0.999.
    np.testing.assert_allclose(mean["scale"], 2, rtol=0.01)


def test_training_warms_the_running_mean_up():
    params, optimizer = {"scale": jnp.ones(())}, optax.sgd(0.1)
    state = synthetic.first_state(params, optimizer, ema_params={"scale": jnp.float32(5)})
    batch = Batch({"x": jnp.zeros((4, 1, 1))}, {}, jnp.zeros(4, int), jnp.ones(4))
    config = ExperimentConfig(train=TrainConfig(ema_decay=0.999))
    new, _ = jax.jit(make_train_step(Noise("dropout"), optimizer, config, 0))(state, batch)
    expected = 0.9 * new.params["scale"] + 0.1 * 5
    np.testing.assert_allclose(new.ema_params["scale"], expected, rtol=1e-6)
