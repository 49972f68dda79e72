"""Metrics that may select the best checkpoint, each with the direction in which it is better.

`train.best_metric` names one of them: a metric of the task, or `FAMILY.METRIC`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sft_jax import plugins
from sft_jax.data.metric_families import Better, check_family, load_family
from sft_jax.structs import CLASS_TASKS, Task

_CLASSES: Mapping[str, Better] = {
    "loss": "lower",
    "accuracy": "higher",
    "balanced_accuracy": "higher",
    "macro_f1": "higher",
}

TASK_METRICS: Mapping[Task, Mapping[str, Better]] = {
    "single_label": _CLASSES,
    "ordinal": {**_CLASSES, "mae": "lower", "quadratic_weighted_kappa": "higher"},
    "multi_label": {
        "loss": "lower",
        "accuracy": "higher",
        "exact_match": "higher",
        "macro_average_precision": "higher",
        "macro_roc_auc": "higher",
        "macro_f1": "higher",
        "micro_f1": "higher",
    },
    "regression": {
        "loss": "lower",
        "mae": "lower",
        "rmse": "lower",
        "pearson_r": "higher",
        "r2": "higher",
    },
}
"""Metrics of each task by name."""

BINARY_METRICS: Mapping[str, Better] = {
    "roc_auc": "higher",
    "average_precision": "higher",
    "brier": "lower",
    "sensitivity_at_95_specificity": "higher",
}
"""Further metrics of single_label and ordinal with two classes."""

SHORT_NAMES: Mapping[str, tuple[str, ...]] = {
    "auroc": ("roc_auc", "macro_roc_auc"),
    "auprc": ("average_precision", "macro_average_precision"),
    "average_precision": ("macro_average_precision",),
    "kappa": ("quadratic_weighted_kappa",),
}
"""Other names, each with the metrics that it may stand for; the task decides."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Metric that selects the best checkpoint.

    Attributes:
      name: Name of the metric; of one in a family `FAMILY.METRIC`.
      better: Direction in which the metric is better.
      family: Name of its family, empty for a metric of the task.
    """

    name: str
    better: Better
    family: str = ""


def find_metric(task: Task, name: str, count: int | None = None) -> Selection:
    """Finds the metric that `train.best_metric` names.

    Args:
      task: Task of the model.
      name: Name of a metric of the task, or `FAMILY.METRIC` with a family of
        `sft_jax.data.metric_families.load_family`.
      count: Number of classes, labels or targets; None if it is not known yet.

    Raises:
      ValueError: If there is no such metric, or it is not for such labels.
    """
    family, _, metric = name.rpartition(".")
    if family:
        return _find_in_family(task, family, metric, count)
    allowed = dict(TASK_METRICS[task])
    if task in CLASS_TASKS and count in (None, 2):
        allowed |= BINARY_METRICS
    for full in (name, *SHORT_NAMES.get(name, ())):
        if full in allowed:
            return Selection(full, allowed[full])
    binary = task in CLASS_TASKS and any(
        full in BINARY_METRICS for full in (name, *SHORT_NAMES.get(name, ()))
    )
    others = [other for other, metrics in TASK_METRICS.items() if name in metrics]
    reason = (
        f" needs 2 classes; there are {count}"
        if binary
        else f" is not a metric of model.task={task!r}"
        + (f" but of {', '.join(others)}" if others else "")
    )
    raise ValueError(
        f"train.best_metric={name!r}{reason}; allowed are {', '.join(allowed)}, or a metric of a"
        " family, such as 'ranking.mAP'"
    )


def check_metric(task: Task, name: str) -> None:
    """Raises ValueError as `find_metric` does, without importing families of other packages."""
    if not plugins.is_import_path(name.rpartition(".")[0]):
        find_metric(task, name)


def _find_in_family(task: Task, family: str, metric: str, count: int | None) -> Selection:
    name = f"{family}.{metric}"
    try:
        better = load_family(family).better
        if count is not None:
            check_family(family, task, count)
    except ValueError as error:
        raise ValueError(f"train.best_metric={name!r}: {error}") from None
    if metric not in better:
        raise ValueError(
            f"train.best_metric={name!r}: the family {family!r} has no metric {metric!r} with a"
            f" direction; allowed are {', '.join(better) or 'none'} (`MetricFamily.better`)"
        )
    return Selection(name, better[metric], family)
