"""Deep ensembles (Lakshminarayanan et al. 2017) of the runs of a row, one for each seed."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from sft_jax.compare.intervals import by_fold, scalars
from sft_jax.compare.rows import Row
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.evaluation.scores import probabilities
from sft_jax.structs import CLASS_TASKS

_LEAST = 1e-30
"""Least probability, so that its logarithm is finite."""


def metric(row: Row, name: str) -> float:
    """Metric of averaged predictions; with folds the mean over them.

    Args:
      row: Runs of at least one seed, with their predictions.
      name: Name of the metric.

    Raises:
      ValueError: If a run lacks its predictions.
    """
    if lacking := [unit for unit in row.units.values() if unit.predictions is None]:
        raise ValueError(f"{row.name}: {lacking[0]} has no predictions: evaluate it again")
    info, values = row.info, []
    for units in by_fold(row.units).values():
        averaged = average([unit.predictions for unit in units])
        values.append(scalars(task_metrics(averaged, info.class_names, info.metrics))[name])
    return statistics.fmean(values)


def average(members: Sequence[Predictions]) -> Predictions:
    """Averages probabilities; for regression the predicted numbers.

    Args:
      members: Predictions of each model for the same examples.

    Returns:
      Predictions whose logits give the averaged probabilities. Losses are means over members.
    """
    first = members[0]
    if first.task == "regression":
        logits = np.mean([one.logits for one in members], 0)
    else:
        each = [probabilities(one.task, one.logits.astype(np.float64)) for one in members]
        own = np.mean(each, 0)
        logits = np.log(np.maximum(own, _LEAST))
        if first.task not in CLASS_TASKS:
            logits -= np.log(np.maximum(1 - own, _LEAST))
    return dataclasses.replace(first, logits=logits, loss=np.mean([one.loss for one in members], 0))
