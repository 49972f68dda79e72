"""Metrics of a decision between two classes; the second class is the positive one."""

from __future__ import annotations

import numpy as np
import scipy.special
from jaxtyping import Bool, Float
from sklearn import metrics

SPECIFICITY = 0.95
"""Specificity at which the sensitivity is reported."""


def log_odds(logits: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """Computes the logarithm of the odds of the second class, in float64."""
    logits = logits.astype(np.float64)
    return logits[:, 1] - logits[:, 0]


def binary_metrics(
    positive: Bool[np.ndarray, " n"], odds: Float[np.ndarray, " n"]
) -> dict[str, float | None]:
    """Computes metrics of the probability of the positive class.

    Args:
      positive: True where the example belongs to the positive class.
      odds: Logarithm of the odds of the positive class, as `log_odds` computes it.

    Returns:
      JSON values; all except `brier` are null if all examples belong to one class:

      * `roc_auc`, the area under the ROC curve;
      * `average_precision`, the area under the steps of the precision-recall curve;
      * `brier`, the mean squared difference of probability and truth (Brier 1950);
      * `sensitivity_at_95_specificity`, the largest share of positive examples above a threshold
        that at most 5 % of the negative examples exceed.
    """
    brier = float(np.mean((scipy.special.expit(odds) - positive) ** 2))
    if positive.all() or not positive.any():
        return {
            "roc_auc": None,
            "average_precision": None,
            "brier": brier,
            "sensitivity_at_95_specificity": None,
        }
    false_positive, sensitivity, _ = metrics.roc_curve(positive, odds, drop_intermediate=False)
    # A share such as 0.05 of 20 is not exact, and neither is 1 - 0.95.
    allowed = false_positive <= 1 - SPECIFICITY + 1e-9
    return {
        "roc_auc": float(metrics.roc_auc_score(positive, odds)),
        "average_precision": float(metrics.average_precision_score(positive, odds)),
        "brier": brier,
        "sensitivity_at_95_specificity": float(sensitivity[allowed].max()),
    }
