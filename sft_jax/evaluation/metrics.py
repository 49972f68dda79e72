"""Classification metrics, computed by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics

from sft_jax.evaluation.evaluator import Predictions


def classification_metrics(predictions: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """Metrics of single-label classification.

    The prediction is the class of the largest logit. `macro_f1` and `balanced_accuracy` are
    means over the classes that have examples; a class without any has null in `per_class`.

    Args:
      predictions: of a split.
      class_names: in the order of the labels.

    Returns:
      JSON values: `n_examples`, `accuracy`, `balanced_accuracy`, `macro_f1` and `loss` (the
      mean cross-entropy); `per_class`, class name to `precision`, `recall`, `f1` and
      `n_examples`; and `confusion_matrix`, rows of counts, by true and predicted class.
    """
    labels, predicted = predictions.labels, predictions.logits.argmax(axis=-1)
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
        "loss": float(predictions.loss.mean()),
        "per_class": per_class,
        "confusion_matrix": metrics.confusion_matrix(labels, predicted, labels=classes).tolist(),
    }
