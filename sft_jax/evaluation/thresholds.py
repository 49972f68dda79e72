"""Thresholds of probabilities, chosen on the validation split and saved with the run.

The task multi_label has a threshold for each label. Two classes have one, for the second class.
A label is predicted where its probability is above the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn import metrics

from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.scores import probabilities
from sft_jax.structs import CLASS_TASKS, Task

CRITERIA = ("f1", "balanced_accuracy")
"""Metrics that a threshold may maximise."""


def check_request(criterion: str, split: str, task: Task, count: int) -> None:
    """Raises ValueError unless thresholds can be chosen.

    Args:
      criterion: One of `CRITERIA`.
      split: Split to choose them on; must be valid, as those of test are not to be tuned for.
      task: Task of the model.
      count: Number of classes or labels.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"thresholds={criterion!r} is not one of {', '.join(CRITERIA)}")
    if split != "valid":
        raise ValueError(f"thresholds={criterion!r}: they are chosen with split=valid, got {split}")
    if task != "multi_label" and not (task in CLASS_TASKS and count == 2):
        raise ValueError(
            f"thresholds={criterion!r} needs model.task='multi_label' or two classes; the task is"
            f" {task!r}, of {count}"
        )


def choose(predictions: Predictions, names: Sequence[str], criterion: str) -> dict[str, float]:
    """Chooses the threshold of each label that maximises a metric.

    A threshold lies in the middle between two probabilities that occur. Of equally good ones it is
    the highest. A label that all or no examples have gets 0.5.

    Args:
      predictions: Predictions of the validation split.
      names: Names of the classes or labels.
      criterion: One of `CRITERIA`.

    Returns:
      Threshold by name; for two classes of the second name alone.
    """
    return {
        name: _best(truth, probability, criterion)
        for name, (truth, probability) in _columns(predictions, names).items()
    }


def threshold_metrics(
    predictions: Predictions, names: Sequence[str], thresholds: dict[str, float]
) -> dict[str, Any]:
    """Computes metrics of the decisions that thresholds make.

    Args:
      predictions: Predictions of a split.
      names: Names of the classes or labels.
      thresholds: Result of `choose`.

    Returns:
      JSON values: the means `f1` and `balanced_accuracy` over the labels that some examples have
      and others lack, null without such a label. `per_label` has the `threshold` of each label,
      with `f1`, `balanced_accuracy`, `sensitivity` and `specificity`, null for other labels.
    """
    per_label = {
        name: {"threshold": thresholds[name], **_decided(truth, probability > thresholds[name])}
        for name, (truth, probability) in _columns(predictions, names).items()
    }
    defined = [values for values in per_label.values() if values["f1"] is not None]
    means = {
        key: float(np.mean([values[key] for values in defined])) if defined else None
        for key in CRITERIA
    }
    return {**means, "per_label": per_label}


def _columns(
    predictions: Predictions, names: Sequence[str]
) -> dict[str, tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """Truth and probability of each label, or of the second of two classes."""
    predicted = probabilities(predictions.task, predictions.logits)
    if predictions.task == "multi_label":
        truth = predictions.labels > 0.5
        return {name: (truth[:, i], predicted[:, i]) for i, name in enumerate(names)}
    return {names[1]: (predictions.labels == 1, predicted[:, 1])}


def _best(
    truth: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"], criterion: str
) -> float:
    if truth.all() or not truth.any():
        return 0.5
    false_positive, sensitivity, lowest = metrics.roc_curve(
        truth, probability, drop_intermediate=False
    )
    if criterion == "f1":
        hits, mistakes = sensitivity * truth.sum(), false_positive * (~truth).sum()
        values = 2 * hits / (hits + mistakes + truth.sum())
    else:
        values = (sensitivity + 1 - false_positive) / 2
    # The first entry predicts no example; its lowest probability is infinite.
    edges = np.array([1.0, *lowest[1:], 0.0])
    best = int(np.argmax(np.round(values, 12)))
    return float((edges[best] + edges[best + 1]) / 2)


def _decided(truth: Bool[np.ndarray, " n"], decision: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    if truth.all() or not truth.any():
        return dict.fromkeys(("f1", "balanced_accuracy", "sensitivity", "specificity"))
    return {
        "f1": float(metrics.f1_score(truth, decision, zero_division=0.0)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(truth, decision)),
        "sensitivity": float(decision[truth].mean()),
        "specificity": float((~decision[~truth]).mean()),
    }
