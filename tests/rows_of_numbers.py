"""Rows of a comparison from numbers, without run directories."""

import dataclasses

import numpy as np
import synthetic

from sft_jax.compare.rows import Row, Unit
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.runs.directory import RunDirectory
from sft_jax.runs.storage import as_path

INFO = synthetic.dataset(train=3, valid=1).info


def unit(name, key, right, ids=None, done=True):
    """Result of a run that predicts class 1 for each example, where `right` says if it is true."""
    fold, seed = key
    right = np.asarray(right, bool)
    predictions = Predictions(
        ids=np.array([f"e{i}" for i in range(len(right))] if ids is None else ids),
        labels=np.zeros(len(right), int),
        logits=np.eye(3, dtype=np.float32)[np.where(right, 0, 1)],
        loss=np.where(right, 0.5, 2.0).astype(np.float32),
    )
    run = RunDirectory(as_path(name))
    return Unit(run, fold, seed, task_metrics(predictions, INFO.class_names), predictions, done)


def row(name, units, **changes):
    """Row of units `{(fold, seed): right}`; values that are units stay as they are."""
    units = {
        key: value if isinstance(value, Unit) else unit(name, key, value)
        for key, value in units.items()
    }
    return Row(name, as_path(name), synthetic.config(**changes), INFO, units)


def without_predictions(some):
    """The same row where no example is known."""
    units = {k: dataclasses.replace(unit, predictions=None) for k, unit in some.units.items()}
    return dataclasses.replace(some, units=units)
