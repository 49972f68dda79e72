"""Mixup and modality dropout in training: when they begin, and what they leave alone."""

import jax
import numpy as np
import pytest
import synthetic

pytestmark = pytest.mark.process

MIXED = {"mixup__layers": "any", "mixup__warmup_epochs": 1.0}


def _losses(workdir, devices=1, **changes):
    experiment = synthetic.config(
        # Labels that are arrays, which mixup has to find the partners of as well.
        model__task="multi_label",
        model__n_post=2,
        model__dropout=0.0,
        train__batch_size=16,
        train__evaluate_every_epochs=2,
        **changes,
    )
    result, _ = synthetic.run(workdir, experiment, devices=jax.devices()[:devices])
    # No layer, and no epoch, needs a program of its own.
    assert result.train_compiles == 1
    return synthetic.training_losses(workdir)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return _losses(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return _losses(tmp_path_factory.mktemp("mixed"), **MIXED)


def test_mixup_begins_after_the_warm_up(plain, mixed):
    # 50 examples: the epoch ends within the fourth batch of 16.
    np.testing.assert_allclose(mixed[:4], plain[:4], rtol=1e-5)
    assert (abs(np.subtract(mixed, plain))[4:] > 1e-4).all()
    assert np.isfinite(mixed).all()


@pytest.mark.slow
def test_examples_are_mixed_across_devices(mixed, tmp_path):
    np.testing.assert_allclose(_losses(tmp_path, 8, **MIXED), mixed, rtol=1e-4)


def test_modality_dropout_changes_training(plain, tmp_path):
    dropped = _losses(tmp_path, train__modality_dropout=0.5)
    assert (abs(np.subtract(dropped, plain)) > 1e-4).all()
