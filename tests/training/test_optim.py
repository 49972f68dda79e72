from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sft_jax.config import MeshConfig, OptimConfig
from sft_jax.parallel import sharding
from sft_jax.training import optim

PARAMS = {
    "layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "qkv": {"kernel": jnp.full((2, 3, 4), 0.5), "bias": jnp.ones((3, 4))},
    "norm": {"scale": jnp.ones(2)},
    "cls": jnp.ones((1, 1, 2)),
    "position": jnp.ones((1, 3, 2)),
}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)
SCHEDULE = optax.linear_schedule(0.1, 0.05, 10)


def _step(config, gradients, schedule=SCHEDULE):
    optimizer = optim.make_optimizer(config, schedule)
    return optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0]


def test_the_rate_rises_then_follows_half_a_cosine():
    schedule = optim.make_schedule(OptimConfig(lr=1.0, warmup_epochs=2), 5, 110)
    np.testing.assert_allclose([schedule(i) for i in (0, 5, 10)], [1 / 11, 6 / 11, 1], rtol=1e-6)
    np.testing.assert_allclose([schedule(i) for i in (60, 110)], [0.5, 0], atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_the_rate_stays(schedule):
    config = OptimConfig(lr=1.0, warmup_epochs=0.0, schedule=schedule)
    rate = optim.make_schedule(config, 5, 100)
    assert [float(rate(i)) for i in (0, 1, 99)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "steps"),
    # In floats 1.1 * 15 is 16.5 and one bit; to even it is 16 steps.
    [(1.1, Fraction(15), 16), (0.1, Fraction(1000, 24), 4), (2.5, Fraction(1), 2)],
)
def test_steps_of_the_warmup_are_counted_exactly(epochs, per_epoch, steps):
    config = OptimConfig(lr=1.0, warmup_epochs=epochs, schedule="constant")
    schedule = optim.make_schedule(config, per_epoch, 100)
    np.testing.assert_allclose(schedule(0), 1 / (steps + 1), rtol=1e-6)


def test_every_optimiser_takes_a_step_jitted_and_sharded():
    def step(params):
        return {name: step_with(name, params) for name in optim.OPTIMIZERS}

    def step_with(name, params):
        optimizer = optim.make_optimizer(OptimConfig(name=name, weight_decay=0.01), SCHEDULE)
        updates, state = optimizer.update(params, optimizer.init(params), params)
        return optax.apply_updates(params, updates), state

    alone = jax.jit(step)(PARAMS)
    mesh = sharding.make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    places = sharding.place(alone, mesh)
    start = jax.device_put(PARAMS, sharding.place(PARAMS, mesh))
    shared = jax.jit(step, out_shardings=places)(start)
    assert len(shared) > 20
    for name, (params, state) in shared.items():
        assert jnp.all(params["layer"]["kernel"] < 1), name
        assert not params["layer"]["kernel"].sharding.is_fully_replicated
        chex.assert_trees_all_close((params, state), alone[name], rtol=1e-5)


def test_other_names_are_refused():
    for name in (
        "rprop",
        "sm3",
        "optimistic_adam",
        "noisy_sgd",
        "fromage",
        "lbfgs",
        "adamv",
        "softmax",
    ):
        with pytest.raises(ValueError, match=rf"optim.name='{name}' .* adamw, .* sgd, "):
            optim.make_optimizer(OptimConfig(name=name), SCHEDULE)


def test_kernels_alone_decay_and_nothing_unless_asked():
    @jax.jit
    def step():
        return {
            name: [_step(OptimConfig(name=name, weight_decay=d), ZEROS) for d in (0.5, 0.0)]
            for name in optim.OPTIMIZERS
        }

    for name, (decayed, plain) in step().items():
        moved = jax.tree.map(lambda a, b: np.asarray(a - b), decayed, plain)
        for layer in ("layer", "qkv"):
            kernel = moved[layer].pop("kernel")
            # LAMB scales its decay to the length of the kernel, times the rate.
            expected = (-0.1 if name == "lamb" else -0.05) * PARAMS[layer]["kernel"]
            np.testing.assert_allclose(kernel, expected, rtol=1e-5, err_msg=name)
        assert all(np.all(array == 0) for array in jax.tree.leaves(moved)), name
        if name != "yogi":  # At first it moves parameters without a gradient.
            assert all(jnp.all(array == 0) for array in jax.tree.leaves(plain)), name


def test_decay_follows_the_schedule():
    optimizer = optim.make_optimizer(OptimConfig(name="sgd", weight_decay=0.5), SCHEDULE)
    state = optimizer.init(PARAMS)
    for step in range(3):
        updates, state = optimizer.update(ZEROS, state, PARAMS)
        np.testing.assert_allclose(updates["layer"]["kernel"], -0.5 * SCHEDULE(step), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamw", {"weight_decay": 0.1}, "set optim.weight_decay"),
        ("lars", {"weight_decay_mask": True}, "set optim.weight_decay"),
        ("adafactor", {"weight_decay_rate": 0.1}, "set optim.weight_decay"),
        ("adam", {"weight_decay": 0.1}, r"optax.adam takes no \['weight_decay'\]"),
        ("sgd", {"learning_rate": 0.1}, r"takes no \['learning_rate'\]"),
        ("sgd", {"momentun": 0.1}, "it takes .*'momentum'"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        optim.make_optimizer(OptimConfig(name=name, options=options), SCHEDULE)


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimConfig(name="sgd", clip_norm=0.8)
    gradients = {**ZEROS, "layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
    updates = _step(config, gradients, lambda _: 1.0)
    np.testing.assert_allclose(updates["layer"]["kernel"], -0.8 / np.sqrt(4), rtol=1e-6)


def test_only_the_plateau_schedule_follows_the_validation_loss():
    def scales(schedule, losses):
        config = OptimConfig(schedule=schedule, plateau_patience=2, plateau_factor=0.5)
        plateau = optim.init_plateau(PARAMS)
        for loss in losses:
            plateau = optim.observe(config, plateau, loss)
            yield optim.learning_rate(SCHEDULE, 0, plateau) / 0.1

    # A loss that is not finite is no evidence.
    losses = [2.0, 1.0, 1.0, float("nan"), 1.0, 0.5]
    np.testing.assert_allclose([*scales("plateau", losses)], [1, 1, 1, 1, 0.5, 0.5], rtol=1e-6)
    assert [*scales("cosine", losses)] == [*scales("constant", losses)]
    np.testing.assert_allclose([*scales("constant", losses)], [1] * 6, rtol=1e-6)
    plateau = optim.init_plateau(PARAMS)._replace(scale=jnp.float32(0.5))
    updates = optim.scale_updates(PARAMS, plateau)
    np.testing.assert_allclose(updates["cls"], 0.5 * PARAMS["cls"])
