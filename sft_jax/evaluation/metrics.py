"""All metrics of predictions: those of the task, and families that the dataset requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sft_jax import plugins
from sft_jax.data.metric_families import FAMILIES, load_family
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.tasks import (
    classification_metrics,
    multi_label_metrics,
    ordinal_metrics,
    regression_metrics,
)
from sft_jax.structs import Task

BREAKDOWN: Mapping[Task, str] = {
    "single_label": "per_class",
    "ordinal": "per_class",
    "multi_label": "per_label",
    "regression": "per_target",
}
"""Key of the metrics of each class, label or target among the metrics of a task."""

_TASKS: Mapping[Task, Callable[[Predictions, Sequence[str]], dict[str, Any]]] = {
    "single_label": classification_metrics,
    "ordinal": ordinal_metrics,
    "multi_label": multi_label_metrics,
    "regression": regression_metrics,
}


def task_metrics(
    predictions: Predictions, names: Sequence[str], families: Sequence[str] = ()
) -> dict[str, Any]:
    """Computes the metrics of the predictions' task and of the requested families, as JSON values.

    Args:
      predictions: Predictions of a split.
      names: Names of the classes, labels or targets, in the order of the labels.
      families: Names of families, as in `sft_jax.data.metric_families.load_family`. The metrics
        of each family are nested under its name.

    Raises:
      NotFiniteError: If an output of the model is NaN or infinite.
      ValueError: If a family is unknown, or its function refuses the predictions.
    """
    return {
        **_TASKS[predictions.task](predictions, names),
        **{family: _family_metrics(family, predictions, names) for family in families},
    }


def _family_metrics(name: str, predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    compute = load_family(name).compute
    if isinstance(compute, str):
        compute = plugins.load(compute, f"metrics: compute of {name}")
    return compute(predictions, names)


def is_family(key: str) -> bool:
    """Returns True if a key of a result is the name of a family of metrics."""
    return key in FAMILIES or plugins.is_import_path(key)
