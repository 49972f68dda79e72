"""Tables of metrics: those of each task, and families that a dataset may ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sft_jax import plugins
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.ranking import ranking_metrics
from sft_jax.evaluation.sentiment import CLASSES, sentiment_metrics, sentiment_regression_metrics
from sft_jax.evaluation.tasks import (
    classification_metrics,
    multi_label_metrics,
    ordinal_metrics,
    regression_metrics,
)
from sft_jax.structs import CLASS_TASKS, Task

BREAKDOWN: Mapping[Task, str] = {
    "single_label": "per_class",
    "ordinal": "per_class",
    "multi_label": "per_label",
    "regression": "per_target",
}
"""Key of the metrics of each class, label or target among the metrics of a task."""

Metrics = Callable[[Predictions, Sequence[str]], dict[str, Any]]
"""Function of predictions and names of classes, labels or targets, to JSON values by name."""


@dataclasses.dataclass(frozen=True)
class MetricFamily:
    """Metrics that a dataset asks for beside those of its task (`DatasetInfo.metrics`).

    Attributes:
      compute: Function of the predictions of a split and the names of its classes, labels or
        targets. Of the JSON values it returns, floats and None are summarised over seeds.
        Tables show these and lists of names, not nested mappings.
      accepts: Function of a task and its number of classes, labels or targets. True if the
        metrics exist for such labels.
      needs: Description, for an error, of the labels that `accepts` accepts.
    """

    compute: Metrics
    accepts: Callable[[Task, int], bool] = lambda task, count: True
    needs: str = "any labels"


def task_metrics(
    predictions: Predictions, names: Sequence[str], families: Sequence[str] = ()
) -> dict[str, Any]:
    """Computes the metrics of the predictions' task and the families asked for, as JSON values.

    Args:
      predictions: Predictions of a split.
      names: Names of the classes, labels or targets, in the order of the labels.
      families: Names of families, as in `load_family`. The metrics of each stand under its name.

    Raises:
      NotFiniteError: If an output of the model is NaN or infinite. All functions here raise it.
      ValueError: If there is no such family, or it is not for these labels.
    """
    check_families(families, predictions.task, len(names))
    return {
        **_TASKS[predictions.task](predictions, names),
        **{family: load_family(family).compute(predictions, names) for family in families},
    }


def check_families(families: Sequence[str], task: Task, count: int) -> None:
    """Refuses families that do not exist or are not for such labels.

    Args:
      families: Names of families, as in `load_family`.
      task: Task of the dataset.
      count: Number of its classes, labels or targets.

    Raises:
      ValueError: Naming the first such family.
    """
    for name in families:
        family = load_family(name)
        if not family.accepts(task, count):
            raise ValueError(
                f"metrics: {name!r} needs {family.needs}; the task is {task!r}, of {count}"
                " class_names"
            )


def load_family(name: str) -> MetricFamily:
    """Returns the family of a name.

    Args:
      name: Key of `FAMILIES`, or import path of a `MetricFamily` such as `package.module:NAME`.

    Raises:
      ValueError: If there is no such family.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if not plugins.is_import_path(name):
        raise ValueError(
            f"metrics: {name!r} is not one of {', '.join(FAMILIES)}, nor an import path such as"
            " 'package.module:FAMILY'"
        )
    family = plugins.load(name, "metrics")
    if not isinstance(family, MetricFamily):
        raise ValueError(
            f"metrics: {name!r} is a {type(family).__name__}; expected a"
            " sft_jax.evaluation.metrics.MetricFamily"
        )
    return family


def is_family(key: str) -> bool:
    """True for a key of a result that is the name of a family of metrics."""
    return key in FAMILIES or plugins.is_import_path(key)


def _ranking(predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    return ranking_metrics(predictions.logits, predictions.labels, names)


def _sentiment(predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    del names
    if predictions.task == "regression":
        return sentiment_regression_metrics(
            predictions.logits.squeeze(axis=1), predictions.labels.squeeze(axis=1)
        )
    return sentiment_metrics(predictions.logits, predictions.labels)


_TASKS: Mapping[Task, Metrics] = {
    "single_label": classification_metrics,
    "ordinal": ordinal_metrics,
    "multi_label": multi_label_metrics,
    "regression": regression_metrics,
}

FAMILIES: Mapping[str, MetricFamily] = {
    "ranking": MetricFamily(
        _ranking,
        accepts=lambda task, count: task == "single_label",
        needs="the task single_label",
    ),
    "sentiment": MetricFamily(
        _sentiment,
        accepts=lambda task, count: (
            (task in CLASS_TASKS and count == CLASSES) or (task == "regression" and count == 1)
        ),
        needs=f"{CLASSES} classes, single_label or ordinal, or a regression of 1 number",
    ),
}
"""Families that a dataset may ask for by name. Others are named by their import path."""
