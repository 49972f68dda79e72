"""Checks of what is learned: loss, weights and sampling of classes, and the metric that selects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sft_jax.ops.losses import check_class_weights, loss_name
from sft_jax.selection import check_metric
from sft_jax.structs import CLASS_TASKS, Task

if TYPE_CHECKING:
    from sft_jax.config import TrainConfig


def read_weights(value: Any) -> Any:
    """Reads weights of classes from text such as `no=1,yes=6`, for the command line.

    Args:
      value: Value of `train.class_weights`. Names of a mapping that are integers become text.

    Raises:
      ValueError: If it is text of another form, and neither empty nor balanced.
    """
    if isinstance(value, dict):
        return {str(name): weight for name, weight in value.items()}
    if not isinstance(value, str) or value in ("", "balanced"):
        return value
    try:
        pairs = (pair.rpartition("=") for pair in value.split(","))
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError:
        raise ValueError(
            f"{value!r} is neither empty, balanced, nor a weight by class, such as 'no=1,yes=6'"
        ) from None


def check_objective(task: Task, train: TrainConfig) -> None:
    """Raises ValueError if fields of the section `train` do not fit the task or each other."""
    if task == "regression" and train.label_smoothing:
        raise ValueError(
            f"with model.task={task!r} train.label_smoothing={train.label_smoothing} must be 0"
        )
    check_metric(task, train.best_metric)
    loss_name(task, train.loss)
    if train.class_weights:
        check_class_weights(task, train.loss)
    if train.sampling == "balanced" and task not in CLASS_TASKS:
        raise ValueError(
            f"train.sampling='balanced' must be 'shuffled' for model.task={task!r}, whose examples"
            " have no class"
        )
    if train.sampling == train.class_weights == "balanced":
        raise ValueError(
            "train.sampling='balanced' and train.class_weights='balanced' would make up for rare"
            " classes twice; leave one of them out"
        )
