"""Metrics of how classes and examples are ranked: top-k accuracy, precision, ROC and d'."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import metrics

from sft_jax.evaluation.scores import check_scores, softmax


def ranking_metrics(
    logits: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    *,
    top_k: Sequence[int] = (1,),
    faithful: bool = False,
) -> dict[str, Any]:
    """Top-k accuracy, and how well each class ranks the examples, one class against the rest.

    For each class, average precision and area under the ROC curve (AUC) tell how far up the
    examples of that class stand when all examples are sorted by its probability. The means
    are over the classes for which a value is defined: an average precision needs an example
    of the class, an AUC one of another class too.

    `d' = sqrt(2) Phi^-1(AUC)`, Phi the standard normal distribution function: how many standard
    deviations apart two normal distributions of scores with that AUC are.

    Args:
      logits: of each example and class.
      labels: true classes.
      top_k: each adds `top{k}`: the share of examples whose class has one of the k largest
        logits, of equal ones those of the first classes.
      faithful: compute what the code of Ding et al. 2021 does: sort the examples by logit
        instead of probability, which compares badly across examples; count the average
        precision of a class without examples as 0 in the mean; and leave the mean AUC
        undefined where the AUC of a class is.

    Returns:
      JSON values, fractions of 1: `top{k}`; `mean_average_precision`; `mean_roc_auc`;
      `d_prime`, that of the mean AUC; `mean_d_prime`, the mean of those of the classes; and
      `per_class`, in the order of the labels: `average_precision`, `roc_auc` and `d_prime`.
      What is undefined is None, and so is an infinite d', that of an AUC of 0 or 1.

    Raises:
      ValueError: if there is no example, shapes do not fit, a logit is not finite, or a label
        or a k is out of range.
    """
    logits, labels = check_scores(logits, labels)
    result: dict[str, Any] = {f"top{k}": top_k_accuracy(logits, labels, k) for k in top_k}
    scores = logits if faithful else softmax(logits)
    per_class = [_of_class(labels == i, scores[:, i]) for i in range(logits.shape[1])]
    precisions = [of["average_precision"] for of in per_class]
    areas = [of["roc_auc"] for of in per_class]
    if faithful:
        mean_area = None if None in areas else _mean(areas)
        precisions = [precision or 0.0 for precision in precisions]
    else:
        mean_area = _mean(areas)
    defined = [of["d_prime"] for of in per_class if of["roc_auc"] is not None]
    return result | {
        "mean_average_precision": _mean(precisions),
        "mean_roc_auc": mean_area,
        "d_prime": d_prime(mean_area),
        "mean_d_prime": None if None in defined else _mean(defined),
        "per_class": per_class,
    }


def top_k_accuracy(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], k: int
) -> float:
    """The share of examples whose class has one of the k largest logits.

    Of equal logits the first classes count as larger, as with `argmax`, unlike in
    scikit-learn.

    Raises:
      ValueError: if `k` is not from 1 to the number of classes.
    """
    classes = logits.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"k={k} of top-k accuracy must be from 1 to {classes}, the classes")
    largest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((largest == labels[:, None]).any(axis=1).mean())


def d_prime(area: float | None) -> float | None:
    """`sqrt(2) Phi^-1(area)` of an area under the ROC curve; None if undefined or infinite."""
    if area is None or not 0 < area < 1:
        return None
    return 2**0.5 * statistics.NormalDist().inv_cdf(area)


def _of_class(positive: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> dict[str, Any]:
    some = positive.any()
    area = float(metrics.roc_auc_score(positive, score)) if some and not positive.all() else None
    return {
        "average_precision": float(metrics.average_precision_score(positive, score))
        if some
        else None,
        "roc_auc": area,
        "d_prime": d_prime(area),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are defined, None without any."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
