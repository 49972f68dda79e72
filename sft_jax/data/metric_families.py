"""Labels that each family of metrics can be computed from.

`sft_jax.evaluation.metrics.FAMILIES` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sft_jax.structs import CLASS_TASKS, Task


class LabelRule(NamedTuple):
    """Labels that a family can be computed from.

    Attributes:
      needs: Description of these labels, for error messages.
      fits: Function from the task and the number of class names to whether they are such.
      largest: Largest absolute value that a number to predict may have.
    """

    needs: str
    fits: Callable[[Task, int], bool]
    largest: float = math.inf


LABEL_RULES: Mapping[str, LabelRule] = {
    "ranking": LabelRule("the task single_label", lambda task, count: task == "single_label"),
    "sentiment": LabelRule(
        "7 classes, single_label or ordinal, or a regression of 1 number",
        lambda task, count: count == (7 if task in CLASS_TASKS else 1) and task != "multi_label",
        largest=3.0,
    ),
}


def check_family(family: str, task: Task, count: int) -> None:
    """Raises ValueError unless a family is known and can be computed of such labels.

    Args:
      family: Name of the family.
      task: Kind of the labels.
      count: Number of class names.
    """
    if family not in LABEL_RULES:
        raise ValueError(f"metrics: {family!r} is not one of {', '.join(LABEL_RULES)}")
    rule = LABEL_RULES[family]
    if not rule.fits(task, count):
        raise ValueError(
            f"metrics: {family!r} needs {rule.needs}; the task is {task!r}, of {count} class_names"
        )
