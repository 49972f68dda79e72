"""Metrics of each task, computed by scikit-learn and scipy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from sklearn import metrics

from sft_jax.evaluation.binary import binary_metrics, log_odds
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.scores import check_outputs


def predicted_classes(predictions: Predictions) -> np.ndarray:
    """Returns the class of the largest logit of each example, `[n]`; the first of equals.

    Raises:
      NotFiniteError: If a logit is NaN or infinite.
    """
    check_outputs(predictions.logits, predictions.ids)
    return predictions.logits.argmax(axis=-1)


def mean_loss(predictions: Predictions) -> float | None:
    """Computes the mean loss over the examples; None if it overflows."""
    mean = float(predictions.loss.mean())
    return mean if math.isfinite(mean) else None


def classification_metrics(predictions: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """Computes metrics of single-label classification.

    The prediction is the class of the largest logit. `macro_f1` and `balanced_accuracy` are
    means over the classes that have examples. A class without examples has null in `per_class`.

    Args:
      predictions: Predictions of a split.
      class_names: Names of the classes, in the order of the labels.

    Returns:
      JSON values:

      * `n_examples`, `accuracy`, `balanced_accuracy` and `macro_f1`;
      * `loss`, the mean cross-entropy;
      * with two classes those of `binary_metrics`;
      * `per_class`, class name to `precision`, `recall`, `f1` and `n_examples`;
      * `confusion_matrix`, rows of counts, by true and predicted class.
    """
    labels, predicted = predictions.labels, predicted_classes(predictions)
    classes = np.arange(len(class_names))
    scores = metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    per_class = {
        name: {
            "precision": float(precision) if count else None,
            "recall": float(recall) if count else None,
            "f1": float(f1) if count else None,
            "n_examples": int(count),
        }
        for name, precision, recall, f1, count in zip(class_names, *scores, strict=True)
    }
    present = [values for values in per_class.values() if values["n_examples"]]
    return {
        "n_examples": len(labels),
        "accuracy": float(metrics.accuracy_score(labels, predicted)),
        "balanced_accuracy": float(np.mean([values["recall"] for values in present])),
        "macro_f1": float(np.mean([values["f1"] for values in present])),
        "loss": mean_loss(predictions),
        **(binary_metrics(labels == 1, log_odds(predictions.logits)) if len(classes) == 2 else {}),
        "per_class": per_class,
        "confusion_matrix": metrics.confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def ordinal_metrics(predictions: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """Computes metrics of ordered classes.

    Args:
      predictions: Predictions of a split.
      class_names: Names of the classes, in their order.

    Returns:
      The metrics of `classification_metrics`, and `mae`, the mean absolute error in classes.
      Also `quadratic_weighted_kappa` (Cohen 1968), null if all labels and predictions belong to
      one class.
    """
    labels, predicted = predictions.labels, predicted_classes(predictions)
    kappa = None
    if len(np.union1d(labels, predicted)) > 1:
        classes = np.arange(len(class_names))
        kappa = float(
            metrics.cohen_kappa_score(labels, predicted, labels=classes, weights="quadratic")
        )
    return {
        **classification_metrics(predictions, class_names),
        "mae": float(metrics.mean_absolute_error(labels, predicted)),
        "quadratic_weighted_kappa": kappa,
    }


def multi_label_metrics(predictions: Predictions, label_names: Sequence[str]) -> dict[str, Any]:
    """Computes metrics of multi-label classification.

    A label is predicted where its probability is above 0.5. The macro means are over the
    labels that some examples have and others lack. They are null if there is no such label.

    Args:
      predictions: Predictions of a split.
      label_names: Names of the labels, in their order.

    Returns:
      JSON values:

      * `n_examples`;
      * `accuracy`, the share of correct labels among all labels of all examples;
      * `exact_match`, the share of examples without a wrong label;
      * `macro_average_precision`, `macro_roc_auc`, `macro_f1`;
      * `micro_f1`, over all labels of all examples;
      * `loss`, the mean binary cross-entropy;
      * `per_label`, label name to `average_precision`, `roc_auc`, `f1` (null for labels that the
        macro means leave out) and `n_examples`, the number of examples with the label.
    """
    check_outputs(predictions.logits, predictions.ids)
    labels, predicted = predictions.labels > 0.5, predictions.logits > 0
    per_label = {
        name: _label_metrics(labels[:, i], predicted[:, i], predictions.logits[:, i])
        for i, name in enumerate(label_names)
    }
    return {
        "n_examples": len(labels),
        "accuracy": float(np.mean(labels == predicted)),
        "exact_match": float(np.mean((labels == predicted).all(axis=1))),
        "macro_average_precision": _mean(per_label, "average_precision"),
        "macro_roc_auc": _mean(per_label, "roc_auc"),
        "macro_f1": _mean(per_label, "f1"),
        "micro_f1": float(metrics.f1_score(labels.ravel(), predicted.ravel(), zero_division=0.0)),
        "loss": mean_loss(predictions),
        "per_label": per_label,
    }


def regression_metrics(predictions: Predictions, target_names: Sequence[str]) -> dict[str, Any]:
    """Computes metrics of regression.

    `pearson_r` and `r2` are null for a target that is equal in all examples. `pearson_r` is
    also null if the prediction is constant.

    Args:
      predictions: Predictions of a split.
      target_names: Names of the targets, in their order.

    Returns:
      JSON values:

      * `n_examples`;
      * `mae`, `rmse`, `pearson_r` and `r2`, means over the targets whose value is not null;
      * `loss`, the mean squared error;
      * `per_target`, target name to the same four.
    """
    check_outputs(predictions.logits, predictions.ids)
    labels = predictions.labels.astype(np.float64)
    predicted = predictions.logits.astype(np.float64)
    per_target = {
        name: _target_metrics(labels[:, i], predicted[:, i]) for i, name in enumerate(target_names)
    }
    return {
        "n_examples": len(labels),
        **{name: _mean(per_target, name) for name in ("mae", "rmse", "pearson_r", "r2")},
        "loss": mean_loss(predictions),
        "per_target": per_target,
    }


def _label_metrics(
    labels: np.ndarray, predicted: np.ndarray, logits: np.ndarray
) -> dict[str, float | int | None]:
    varied = labels.any() and not labels.all()
    return {
        "average_precision": (
            float(metrics.average_precision_score(labels, logits)) if varied else None
        ),
        "roc_auc": float(metrics.roc_auc_score(labels, logits)) if varied else None,
        "f1": float(metrics.f1_score(labels, predicted, zero_division=0.0)) if varied else None,
        "n_examples": int(labels.sum()),
    }


def _target_metrics(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    varied = np.ptp(labels) > 0
    correlated = varied and np.ptp(predicted) > 0
    return {
        "mae": float(metrics.mean_absolute_error(labels, predicted)),
        "rmse": float(metrics.root_mean_squared_error(labels, predicted)),
        "pearson_r": (
            float(scipy.stats.pearsonr(labels, predicted).statistic) if correlated else None
        ),
        "r2": float(metrics.r2_score(labels, predicted)) if varied else None,
    }


def _mean(breakdown: Mapping[str, Mapping[str, Any]], metric: str) -> float | None:
    """Computes the mean of a metric over the classes, labels or targets where it is not null."""
    defined = [x for values in breakdown.values() if (x := values[metric]) is not None]
    return float(np.mean(defined)) if defined else None
