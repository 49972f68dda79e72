"""One config argument switches the model, the pool, k, the readout and the depth of fusion.

Every value is traced through a training step here, and a few are run. Gradients of every pool and
model are those of `modules/test_reducer.py` and `modules/test_baselines.py`. In the slow tests all
combinations run.
"""

import dataclasses
import itertools

import chex
import jax
import numpy as np
import optax
import pytest
import synthetic
import tiny_sft

from configs import watch
from sft_jax import Batch, config_io
from sft_jax.modules.factory import build_model
from sft_jax.modules.sft import READOUTS, SALIENCIES
from sft_jax.ops.pool import POOLS
from sft_jax.training.step import make_train_step

BASELINES = ("late", "concat", "unimodal,modality=sound", "mbt", "mult")
DEPTHS = ("n_pre=1,n_post=1", "n_pre=0,n_post=2")
EVERY = [
    *(f"pool={pool},k={k},{depth}" for pool, k, depth in itertools.product(POOLS, (1, 3), DEPTHS)),
    *(f"readout={readout},k={k}" for readout, k in itertools.product(READOUTS, (0, 3))),
    *(
        f"saliency={saliency},pool={pool},k=3,{DEPTHS[1]}"
        for saliency, pool in itertools.product(SALIENCIES[1:], tiny_sft.SALIENT_POOLS)
    ),
    *(f"model={model},{depth}" for model, depth in itertools.product(BASELINES, DEPTHS)),
]
# Nothing would reach the fusion; no modality would attend to another.
IMPOSSIBLE = ("readout=fresh_cls,k=0", "model=mult,n_pre=0,n_post=2")
EVERY = [argument for argument in EVERY if argument not in IMPOSSIBLE]
# Without blocks where they are not the point: tracing them takes most of the time.
TRACED = [
    *(f"pool={pool},k=1,n_pre=0,n_post=0" for pool in POOLS),
    *(f"readout={readout},k=3,n_pre=0,n_post=1" for readout in READOUTS[1:]),
    *(f"saliency={saliency},k=1,n_pre=0,n_post=1" for saliency in SALIENCIES[1:]),
    "readout=sum_cls,k=0,n_pre=0,n_post=1",
    "mixup=any,readout=modality_cls,pool=joint_topk,k=1,n_pre=0,n_post=1",
    *(f"model={model},{DEPTHS[0]}" for model in BASELINES),
]
RUN = [*DEPTHS, "mixup=any,readout=modality_cls,pool=tome,k=1,n_pre=0,n_post=1"]


def _step(argument):
    """Train step of a config argument, and the state and batch that it takes."""
    config = config_io.from_mapping(watch.get_config(argument))
    model = dataclasses.replace(
        config.model, width=8, num_heads=2, n_post=min(config.model.n_post, 2), dropout=0.0
    )
    config = dataclasses.replace(config, model=model)
    model = build_model(config.model, synthetic.MODALITIES, num_classes=4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: (0.3 * random.normal(size=a.shape)).astype(a.dtype), shapes)
    optimizer = optax.sgd(0.1)
    state = synthetic.first_state(params, optimizer, ema_params=params)
    batch = Batch(tiny_sft.inputs(), tiny_sft.masks(), np.arange(3), np.ones(3, np.float32))
    return make_train_step(model, optimizer, config.train, config.mixup, config.seed), state, batch


def _assert_learns(argument):
    train_step, before, batch = _step(argument)
    after, metrics = jax.jit(train_step)(before, batch)
    assert after.step == 1
    assert np.isfinite(metrics.loss)
    assert metrics.gradient_norm > 0
    assert all(jax.tree.leaves(metrics.finite))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert changed["head"]["classifier"]["kernel"]


@pytest.mark.parametrize("argument", TRACED)
def test_every_choice_is_traced_through_a_step(argument):
    train_step, state, batch = _step(argument)
    after, metrics = jax.eval_shape(train_step, state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert metrics.example_loss.shape == (3,)


@pytest.mark.parametrize("argument", RUN)
def test_every_choice_takes_a_step(argument):
    _assert_learns(argument)


@pytest.mark.slow
@pytest.mark.parametrize("argument", EVERY)
def test_every_combination_takes_a_step(argument):
    _assert_learns(argument)
