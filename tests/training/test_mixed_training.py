"""Mixup and modality dropout in training: when they begin, and what they leave alone."""

import json

import jax
import numpy as np
import pytest
import synthetic

MIXED = {"mixup__layers": "any", "mixup__warmup_epochs": 1.0}


def _losses(workdir, devices=1, **changes):
    experiment = synthetic.config(
        model__name="late", model__dropout=0.0, train__batch_size=16, **changes
    )
    result, _ = synthetic.run(workdir, experiment, devices=jax.devices()[:devices])
    # No layer, and no epoch, needs a program of its own.
    assert result.train_compiles == 1
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_mixup_begins_after_the_warm_up(tmp_path, task):
    plain = _losses(tmp_path / "plain", model__task=task)
    mixed = _losses(tmp_path / "mixed", model__task=task, **MIXED)
    # 50 examples: the epoch ends within the fourth batch of 16.
    np.testing.assert_allclose(mixed[:4], plain[:4], rtol=1e-5)
    assert (abs(np.subtract(mixed, plain))[4:] > 1e-3).all()
    assert np.isfinite(mixed).all()


def test_examples_are_mixed_across_devices(tmp_path):
    one, eight = (
        _losses(tmp_path / str(count), count, **MIXED, train__modality_dropout=0.5)
        for count in (1, 8)
    )
    np.testing.assert_allclose(one, eight, rtol=1e-4)


def test_modality_dropout_changes_training_alone(tmp_path):
    plain = _losses(tmp_path / "plain")
    dropped = _losses(tmp_path / "dropped", train__modality_dropout=0.5)
    assert (abs(np.subtract(dropped, plain)) > 1e-3).all()
