"""The random streams that a training step hands to the model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic

from sft_jax.config import ExperimentConfig, TrainConfig
from sft_jax.structs import Batch
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
