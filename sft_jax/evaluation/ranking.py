"""Ranking metrics of classes and examples, as reported on VGGSound and AudioSet."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import metrics

from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.scores import check_scores, softmax


def ranking_of_predictions(predictions: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """Computes the family `ranking`: `ranking_metrics` of the predictions of a split."""
    return ranking_metrics(predictions.logits, predictions.labels, class_names)


def ranking_metrics(
    logits: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str],
    *,
    faithful: bool = False,
) -> dict[str, Any]:
    """Computes top-k accuracy, and ranking metrics of each class against the rest.

    For each class the examples are sorted by its probability. Average precision and the area
    under the ROC curve (AUC) measure how high the examples of the class rank. Both means are
    over the classes whose value is defined. An average precision needs an example of the class.
    An AUC also needs an example of another class.

    `d' = sqrt(2) Phi^-1(AUC)`, where Phi is the standard normal distribution function. It is the
    distance, in standard deviations, between two normal distributions of scores with that AUC.

    Args:
      logits: Logits of each example and class.
      labels: True class of each example.
      class_names: Names of the classes, in the order of the labels.
      faithful: Whether to reproduce the code of Ding et al. 2021. It sorts the examples by logit
        instead of probability, although logits of different examples are not comparable. A class
        without examples enters the mean average precision as 0. If the AUC of one class is
        undefined, the mean AUC is undefined too.

    Returns:
      JSON values, fractions of 1:

      * `top1`, and `top5` if there are five classes or more;
      * `mAP`, the mean average precision; `mAUC`, the mean AUC; `d_prime`, d' of the mean AUC;
      * `absent_classes`, the names of the classes without examples, which the means leave out;
      * `per_class`, class name to `average_precision`, `roc_auc` and `d_prime`.

      Undefined values are None. An AUC of 0 or 1, whose d' is infinite, also gives None.

    Raises:
      ValueError: If there is no example, shapes do not match, a logit is not finite, or a label
        is out of range.
    """
    logits, labels = check_scores(logits, labels)
    if len(class_names) != logits.shape[1]:
        raise ValueError(f"{len(class_names)} class names for logits of {logits.shape[1]} classes")
    scores = logits if faithful else softmax(logits)
    per_class = {
        name: _one_against_rest(labels == i, scores[:, i]) for i, name in enumerate(class_names)
    }
    precisions = [values["average_precision"] for values in per_class.values()]
    areas = [values["roc_auc"] for values in per_class.values()]
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
    """Computes the share of examples whose true class has one of the k largest logits.

    Among equal logits the first classes count as larger, as in `argmax`. Scikit-learn breaks
    ties the other way.

    Raises:
      ValueError: If `k` is not from 1 to the number of classes.
    """
    classes = logits.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"k={k} of top-k accuracy must be from 1 to {classes}, the classes")
    largest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((largest == labels[:, None]).any(axis=1).mean())


def d_prime(area: float | None) -> float | None:
    """Computes `sqrt(2) Phi^-1(area)` of an area under the ROC curve; None unless finite."""
    if area is None or not 0 < area < 1:
        return None
    return 2**0.5 * statistics.NormalDist().inv_cdf(area)


def _one_against_rest(
    positive: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> dict[str, Any]:
    precision = area = None
    if positive.any():
        precision = float(metrics.average_precision_score(positive, score))
        if not positive.all():
            area = float(metrics.roc_auc_score(positive, score))
    return {"average_precision": precision, "roc_auc": area, "d_prime": d_prime(area)}


def _mean(values: Sequence[float | None]) -> float | None:
    """Computes the mean of the defined values; None without any."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
