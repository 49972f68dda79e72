"""Learning rates of groups of parameters."""

import functools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic

from sft_jax.config import OptimConfig
from sft_jax.modules.factory import build_model
from sft_jax.training import optim
from sft_jax.training.groups import check_groups, factors, stop_gradients

PARAMS = {
    "tokenizer_a": {"projection": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
    "fused": {"mlp_in": {"kernel": jnp.ones((3, 2, 2))}},
    "head": {"classifier": {"kernel": jnp.ones((2, 2))}},
}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def _flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


@functools.cache
def _shapes(name, **changes):
    changes = {f"model__{field}": value for field, value in changes.items()}
    config = synthetic.config(model__name=name, **changes).model
    model = build_model(config, synthetic.MODALITIES, 3)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), model.example_inputs()))["params"]


def test_the_first_pattern_that_matches_counts():
    groups = {".*/bias": 2.0, "tokenizer_.*": 0.0, "head": 10.0}
    assert _flat(factors(OptimConfig(groups=groups), PARAMS)) == {
        "tokenizer_a/projection/bias": 2.0,
        "tokenizer_a/projection/kernel": 0.0,
        "fused/mlp_in/kernel": None,
        "head/classifier/kernel": 10.0,
    }
    with pytest.raises(ValueError, match=r"'head' has no effect: earlier .*, head/class"):
        check_groups(OptimConfig(groups={".*": 0.5, "head": 10.0}), PARAMS)


@pytest.mark.parametrize("pattern", ["hea", "classifier", "tokenizer_a/proj", "Head"])
def test_a_pattern_without_a_parameter_is_an_error(pattern):
    message = f"pattern '{pattern}' has no effect: it matches no parameter; there are fused/mlp_in"
    with pytest.raises(ValueError, match=message):
        check_groups(OptimConfig(groups={pattern: 1.0}), PARAMS)


def test_something_is_left_to_train():
    with pytest.raises(ValueError, match="freezes all parameters"):
        check_groups(OptimConfig(groups={".*": 0.0}), PARAMS)
    check_groups(OptimConfig(groups={"head": 1.0, ".*": 0.0}), PARAMS)


def test_rates_decay_from_the_head_down():
    found = _flat(
        factors(
            OptimConfig(layer_decay=0.5, groups={"head": 8.0}), _shapes("sft", n_pre=2, n_post=4)
        )
    )
    expected = {
        "head/norm/scale": 8.0,
        "fused_last/mlp_in/kernel": 0.5,
        "pooling_sight/attention/out/bias": 0.5**5,
        "unimodal_sound_1/mlp_in/kernel": 0.5**6,
        "unimodal_sight_0/mlp_in/kernel": 0.5**7,
        "tokenizer_sight/position": 0.5**8,
    }
    assert {name: found[name] for name in expected} == expected
    stack = found["fused/mlp_in/kernel"]
    assert stack.shape == (3, 1, 1)
    np.testing.assert_array_equal(stack[:, 0, 0], [0.5**4, 0.5**3, 0.5**2])


@pytest.mark.parametrize("name", ["late", "concat", "unimodal", "mbt", "mult"])
def test_every_model_has_an_order(name):
    changes = {"modality": "sight"} if name == "unimodal" else {}
    found = _flat(
        factors(OptimConfig(layer_decay=0.5), _shapes(name, n_pre=2, n_post=2, **changes))
    )
    outer = {path.split("/")[0]: factor for path, factor in found.items()}
    assert outer.pop("head") is None
    assert all(factor < 1 for factor in outer.values())
    lowest = {name for name, factor in outer.items() if factor == min(outer.values())}
    assert all(name.startswith(("tokenizer_", "bottleneck")) for name in lowest)
    blocks = ["unimodal_sight_0", "unimodal_sight_1", "cross_sight_with_sound_0"]
    assert len({outer[name] for name in blocks if name in outer}) == len({*blocks} & {*outer})


def test_an_unknown_depth_is_an_error():
    with pytest.raises(ValueError, match="depth of the parameters gate, mixer is not known"):
        check_groups(OptimConfig(layer_decay=0.5), {**PARAMS, "mixer": ZEROS, "gate": ZEROS})


@pytest.mark.parametrize("name", ["adamw", "sgd", "yogi"])
def test_updates_are_scaled_and_frozen_kernels_do_not_decay(name):
    plain = OptimConfig(name=name, weight_decay=0.5)
    grouped = OptimConfig(
        name=name, weight_decay=0.5, layer_decay=0.5, groups={"tokenizer_.*": 0.0, "head": 10.0}
    )

    @jax.jit
    def update():
        updates = []
        for config in (plain, grouped):
            optimizer = optim.make_optimizer(config, optax.constant_schedule(0.1))
            updates.append(optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)[0])
        return updates

    before, after = map(_flat, update())
    assert not any(np.any(after[n]) for n in after if n.startswith("tokenizer"))
    stack = "fused/mlp_in/kernel"
    scale = np.reshape([0.5**3, 0.5**2, 0.5], (3, 1, 1))
    np.testing.assert_allclose(after[stack], scale * before[stack], rtol=1e-6)
    head = "head/classifier/kernel"
    np.testing.assert_allclose(after[head], 10 * before[head], rtol=1e-6)
    assert np.all(before[head] < 0)


def test_groups_add_no_state():
    def arrays(config):
        optimizer = optim.make_optimizer(config, optax.constant_schedule(0.1))
        return _flat(jax.eval_shape(optimizer.init, PARAMS))

    plain = OptimConfig()
    expected = optax.chain(optax.clip_by_global_norm(0.8), optax.adamw(lambda step: 0.1))
    assert arrays(plain) == _flat(jax.eval_shape(expected.init, PARAMS))
    with_groups = arrays(OptimConfig(groups={"head": 2.0}, layer_decay=0.5))
    assert with_groups.keys() == arrays(plain).keys()


def test_frozen_parameters_have_no_gradient():
    config = OptimConfig(groups={"head": 0.0, "fused": 2.0})

    def loss(params):
        return sum(jnp.sum(array) for array in jax.tree.leaves(stop_gradients(config, params)))

    gradient = jax.grad(loss)(PARAMS)
    expected = jax.tree.map(jnp.ones_like, PARAMS)
    chex.assert_trees_all_equal(gradient, {**expected, "head": ZEROS["head"]})
    assert stop_gradients(OptimConfig(), PARAMS) is PARAMS


@pytest.mark.process
def test_a_run_with_groups_goes_on_bit_for_bit(tmp_path):
    config = synthetic.config(
        model__n_post=3,
        optim__groups={"tokenizer_.*": 0.0, "head": 3.0},
        optim__layer_decay=0.8,
        optim__weight_decay=0.1,
        train__ema_decay=0.9,
    )
    whole, _ = synthetic.run(tmp_path, config)
    for kind, step in (("latest", "13"), ("best", "13"), ("best", "7")):
        shutil.rmtree(tmp_path / "checkpoints" / kind / step, ignore_errors=True)
    resumed, _ = synthetic.run(tmp_path, config)
    assert (tmp_path / "checkpoints" / "latest" / "13").is_dir()
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
    _, _, assembled, _ = synthetic._prepare(config, None, jax.devices()[:1])
    equal = jax.tree.map(np.array_equal, assembled.new_state(0).params, whole.state.params)
    for name, tree in equal.items():
        same = jax.tree.leaves(tree)
        assert all(same) if name.startswith("tokenizer_") else not any(same), name
