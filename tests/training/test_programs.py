"""Runs that differ in numbers alone share their programs, and these take the numbers of each."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
import synthetic

from sft_jax.config import OptimConfig
from sft_jax.data import pipeline
from sft_jax.parallel import sharding
from sft_jax.training import assembly, optim
from sft_jax.training.programs import MOST_SHARED, SharedPrograms
from sft_jax.training.step import make_train_step
from sft_jax.training.values import without_values

BASE = {"optim__weight_decay": 0.1, "train__ema_decay": 0.9, "mixup__layers": "any"}


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({"seed": 3, "data": None}, True),
        ({"optim__lr": 0.5, "optim__schedule": "plateau", "optim__warmup_epochs": 0.5}, True),
        ({"optim__weight_decay": 0.3}, True),
        ({"optim__name": "sgd"}, False),
        ({"optim__plateau_factor": 0.5, "optim__plateau_patience": 2}, True),
        ({"train__epochs": 7, "mixup__warmup_epochs": 1.0}, True),
        ({"train__patience": 2, "train__best_metric": "accuracy", "train__init_from": "x"}, True),
        ({"optim__weight_decay": 0.0}, False),
        ({"optim__clip_norm": 2.0}, False),
        ({"train__ema_decay": 0.5}, False),
        ({"optim__options": {"b1": 0.8}}, False),
        ({"optim__groups": (("head", 0.0),)}, False),
        ({"train__label_smoothing": 0.1}, False),
        ({"train__batch_size": 16}, False),
        ({"model__dropout": 0.2}, False),
        ({"mixup__alpha": 0.2}, False),
    ],
)
def test_programs_are_told_apart_by_what_they_depend_on(changes, equal):
    base, other = (synthetic.config(**BASE | more) for more in ({}, changes))
    if "data" in changes:
        other = dataclasses.replace(other, data=dataclasses.replace(other.data, folds=5))
    assert base != other
    general = [without_values(config, fixed_rate=False) for config in (base, other)]
    assert (general[0] == general[1]) == equal


def test_a_rate_that_never_changes_stays_a_constant():
    for name, decay in (("adamw", 1), ("sgd", 0.1)):
        config = synthetic.config(**BASE, optim__name=name, optim__lr=0.3)
        optim = without_values(config, fixed_rate=True).optim
        assert (optim.lr, optim.schedule, optim.weight_decay) == (0.3, "constant", decay)


def test_the_latest_programs_are_kept():
    shared, made = SharedPrograms(), []

    def get(key):
        return shared.get([key], lambda: made.append(key) or key)

    for key in (*range(MOST_SHARED), 0, MOST_SHARED, 0, 1):
        assert get(key) == key
    assert made == [*range(MOST_SHARED + 1), 1]


@pytest.mark.process
def test_shared_steps_equal_those_of_constants():
    config = synthetic.config(**BASE, optim__lr=0.1, mixup__warmup_epochs=0.5)
    data, mesh = synthetic.dataset(train=24), sharding.make_mesh(devices=jax.devices()[:1])
    others = OptimConfig(lr=1.0, weight_decay=7.0)
    first = dataclasses.replace(config, optim=others)
    shared, arguments = SharedPrograms(), (data.info.modalities, 3)
    options = {"num_examples": 24, "mesh": mesh, "shared": shared}
    assembled = [assembly.assemble_model(own, *arguments, **options) for own in (first, config)]
    assert assembled[0].new_state is assembled[1].new_state
    shared_step, plan = assembled[1].step, assembled[1].plan
    assert plan.mixup_from == 2
    optimizer = optim.make_optimizer(config.optim, assembled[1].schedule)
    step = jax.jit(
        make_train_step(
            assembled[1].model,
            optimizer,
            config.train,
            config.mixup,
            np.int32(0),
            mixup_from=plan.mixup_from,
        )
    )
    batches = pipeline.train_iterator(data.source("train"), 8, 0, process_index=0, process_count=1)
    expected, state = (assembled[1].new_state(0) for _ in range(2))
    assembled[0].step(assembled[0].new_state(0), next(batches)[0], np.int32(0))
    for _ in range(4):
        batch, _ = next(batches)
        expected, _ = step(expected, batch)
        state, _ = shared_step(state, batch, np.int32(0))
    chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(expected))
    assert assembled[1].train_compiles == 1
