"""Metrics that a dataset may request in addition to those of its task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sft_jax import plugins
from sft_jax.structs import CLASS_TASKS, Task

Better = Literal["higher", "lower"]
"""Direction in which a metric is better."""


@dataclasses.dataclass(frozen=True)
class MetricFamily:
    """Metrics that are computed together, and the labels that they apply to.

    Attributes:
      compute: Function of the `Predictions` of a split and the names of its classes, labels or
        targets, or its import path. It returns JSON values by name. Floats and None are
        summarised over seeds. Tables show these and lists of names, not nested mappings.
      accepts: Function of a task and its number of classes, labels or targets. It returns True
        if the metrics exist for such labels.
      needs: Description of the labels that `accepts` accepts, for an error message.
      largest: Largest absolute value that a number to predict may have.
      better: Direction in which a metric is better, by name. These metrics alone can be
        `train.best_metric`, as `FAMILY.METRIC`.
    """

    compute: Callable[[Any, Any], dict[str, Any]] | str
    accepts: Callable[[Task, int], bool] = lambda task, count: True
    needs: str = "any labels"
    largest: float = math.inf
    better: Mapping[str, Better] = dataclasses.field(default_factory=dict)


_SENTIMENT = ("has0", "non0", "authors")

FAMILIES: Mapping[str, MetricFamily] = {
    "ranking": MetricFamily(
        # A path, because scikit-learn is not imported where data is only read.
        "sft_jax.evaluation.ranking:ranking_of_predictions",
        accepts=lambda task, count: task == "single_label",
        needs="the task single_label",
        better=dict.fromkeys(("top1", "top5", "mAP", "mAUC", "d_prime"), "higher"),
    ),
    "sentiment": MetricFamily(
        "sft_jax.evaluation.sentiment:sentiment_of_predictions",
        accepts=lambda task, count: (
            (task in CLASS_TASKS and count == 7) or (task == "regression" and count == 1)
        ),
        needs="7 classes, single_label or ordinal, or a regression of 1 number",
        largest=3.0,
        better={
            **dict.fromkeys(
                (
                    *(f"{kind}_{suffix}" for kind in ("acc2", "f1") for suffix in _SENTIMENT),
                    *("acc5", "acc7", "corr"),
                ),
                "higher",
            ),
            "mae": "lower",
        },
    ),
}
"""Families that a dataset may request by name. Others are named by their import path."""


def load_family(name: str) -> MetricFamily:
    """Returns the family with a given name.

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
            " sft_jax.data.metric_families.MetricFamily"
        )
    return family


def check_family(name: str, task: Task, count: int) -> None:
    """Raises ValueError for a family that does not exist or does not fit the labels.

    Args:
      name: Name of the family, as in `load_family`.
      task: Task of the dataset.
      count: Number of classes, labels or targets of the dataset.

    Raises:
      ValueError: With the family, the labels it needs and the labels of the dataset.
    """
    family = load_family(name)
    if not family.accepts(task, count):
        raise ValueError(
            f"metrics: {name!r} needs {family.needs}; the task is {task!r}, of {count} class_names"
        )
