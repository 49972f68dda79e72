"""The loss and the training step, and the random streams that they hand to the model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic

from sft_jax.config import MixupConfig, TrainConfig
from sft_jax.ops.losses import example_losses
from sft_jax.structs import Batch
from sft_jax.training.step import STREAMS, loss_fn, make_train_step


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


BATCH = Batch({"x": jnp.zeros((4, 1, 1))}, {}, jnp.zeros(4, int), jnp.ones(4))
PARAMS = {"scale": jnp.ones(())}


def _step(state, train, stream="dropout", seed=0):
    train_step = make_train_step(Noise(stream), optax.sgd(0.1), train, MixupConfig(), seed)
    return jax.jit(train_step)(state, BATCH)


def _example_losses(stream, step, accumulate=1, seed=0):
    state = synthetic.first_state(PARAMS, optax.sgd(0.1), step=step)
    _, metrics = _step(state, TrainConfig(accumulate=accumulate), stream, seed)
    return np.asarray(metrics.example_loss)


@pytest.mark.parametrize("stream", ["dropout", "pool"])
def test_streams_differ_by_step_seed_and_micro_batch(stream):
    losses = _example_losses(stream, step=3)
    np.testing.assert_array_equal(_example_losses(stream, step=3), losses)
    assert (_example_losses(stream, step=4) != losses).all()
    assert (_example_losses(stream, step=3, seed=1) != losses).all()
    assert len(set(_example_losses(stream, step=3, accumulate=2).tolist())) == 4


def test_streams_are_independent():
    assert (_example_losses("dropout", step=3) != _example_losses("pool", step=3)).all()


def test_training_warms_the_running_mean_up():
    state = synthetic.first_state(PARAMS, optax.sgd(0.1), ema_params={"scale": jnp.float32(5)})
    new, _ = _step(state, TrainConfig(ema_decay=0.999))
    expected = 0.9 * new.params["scale"] + 0.1 * 5
    np.testing.assert_allclose(new.ema_params["scale"], expected, rtol=1e-6)


def test_loss_needs_no_experiment_and_smooths_labels():
    keys = {name: jax.random.key(i) for i, name in enumerate(STREAMS)}
    logits = jax.random.normal(keys["dropout"], (4, 2))
    train = TrainConfig(label_smoothing=0.2)
    loss, score = loss_fn(PARAMS, Noise("dropout"), BATCH, keys, train, MixupConfig())
    expected = example_losses("single_label", logits, BATCH.labels, 0.2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_array_equal(score, logits.argmax(axis=1) == 0)


class Mixed(Noise):
    """The same, which takes mixup and remembers it."""

    mixed_modalities = ("x",)
    n_pre, n_post, joint_from, shared_from = 0, 1, 0, None

    def apply(self, variables, inputs, masks, *, train, mixup, rngs):
        self.mixup = mixup
        return jax.random.normal(rngs[self.stream], (len(inputs["x"]), 2))


def test_mixed_labels_have_the_weights_of_their_classes():
    keys = {name: jax.random.key(i) for i, name in enumerate(STREAMS)}
    labels = jnp.asarray([0, 1, 0, 1])
    batch = BATCH.replace(labels=labels, masks={"x": jnp.ones((4, 1), bool)})
    train, mixup = TrainConfig(class_weights={"no": 2.0}), MixupConfig(layers="fused", alpha=1.0)
    model = Mixed("dropout")
    loss, _ = loss_fn(PARAMS, model, batch, keys, train, mixup, class_weights=(2.0, 5.0))
    logits = jax.random.normal(keys["dropout"], (4, 2))
    share, partners = model.mixup.shares["x"], labels[model.mixup.partner]
    own, other = (example_losses("single_label", logits, each) for each in (labels, partners))
    weights = np.array([2, 5])
    expected = share * weights[labels] * own + (1 - share) * weights[partners] * other
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert 0 < float(share.min()) < float(share.max()) < 1
    with pytest.raises(ValueError, match=r"train.class_weights=.* but no class_weights given"):
        loss_fn(PARAMS, model, batch, keys, train, mixup)
