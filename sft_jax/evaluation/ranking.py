"""Metrics of how classes and examples are ranked, as reported on VGGSound and AudioSet."""

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
    class_names: Sequence[str],
    *,
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
      class_names: in the order of the labels.
      faithful: compute what the code of Ding et al. 2021 does: sort the examples by logit
        instead of probability, which compares badly across examples; count the average
        precision of a class without examples as 0 in the mean; and leave the mean AUC
        undefined where the AUC of a class is.

    Returns:
      JSON values, fractions of 1: `top1`; `top5`, only of five classes or more; `mAP`, the mean
      average precision; `mAUC`, the mean AUC; `d_prime`, that of the mean AUC;
      `absent_classes`, the names of those without examples, which the means leave out; and
      `per_class`, class name to `average_precision`, `roc_auc` and `d_prime`. What is
      undefined is None, and so is an infinite d', that of an AUC of 0 or 1.

    Raises:
      ValueError: if there is no example, shapes do not fit, a logit is not finite, or a label
        is out of range.
    """
    logits, labels = check_scores(logits, labels)
    if len(class_names) != logits.shape[1]:
        raise ValueError(f"{len(class_names)} class names for logits of {logits.shape[1]} classes")
    scores = logits if faithful else softmax(logits)
    per_class = {name: _of_class(labels == i, scores[:, i]) for i, name in enumerate(class_names)}
    precisions = [of["average_precision"] for of in per_class.values()]
    areas = [of["roc_auc"] for of in per_class.values()]
    undefined = faithful and None in areas
    mean_area = None if undefined else _mean(areas)
    return {
        **{f"top{k}": top_k_accuracy(logits, labels, k) for k in (1, 5) if k <= len(class_names)},
        "mAP": _mean([value or 0.0 for value in precisions] if faithful else precisions),
        "mAUC": mean_area,
        "d_prime": d_prime(mean_area),
        "absent_classes": [name for i, name in enumerate(class_names) if i not in labels],
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
