"""Metrics of sentiment, from -3 (strongly negative) to 3, as reported on CMU-MOSEI."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import metrics

from sft_jax.evaluation.scores import check_scores, softmax

CLASSES = 7
NEUTRAL = 3

Weights = Literal["truth", "prediction"]


def sentiment_metrics(
    logits: Float[np.ndarray, "n 7"],
    labels: Int[np.ndarray, " n"],
    *,
    neutral_is_positive: bool = False,
    f1_weights: Weights = "truth",
) -> dict[str, Any]:
    """Binary accuracy and F1 of a classifier into the seven classes of MOSEI.

    Class `i` is sentiment `i - 3`. Examples whose true class is neutral do not count. The
    others are predicted positive if the positive classes together have a larger probability
    than the negative ones, `P(4) + P(5) + P(6) > P(0) + P(1) + P(2)`, and negative otherwise.

    Args:
      logits: of each example and class.
      labels: true classes.
      neutral_is_positive: predict as the code of Ding et al. 2021 does: positive if the
        class of the largest logit is neutral or positive. This favours positive.
      f1_weights: whose number of positive and negative examples weighs their F1 in the mean;
        that code's are those of the predictions.

    Returns:
      JSON values: `binary_accuracy` and `binary_f1`, fractions of 1 and None if all examples
      are neutral; and `n_binary`, the number of those that are not.

    Raises:
      ValueError: if there is no example, there are not seven classes, shapes do not fit, a
        logit is not finite, a label is out of range, or `f1_weights` is unknown.
    """
    logits, labels = check_scores(logits, labels)
    if logits.shape[1] != CLASSES:
        raise ValueError(f"logits: expected {CLASSES} classes of sentiment, got {logits.shape[1]}")
    if neutral_is_positive:
        positive = logits.argmax(axis=1) >= NEUTRAL
    else:
        probabilities = softmax(logits)
        upper, lower = probabilities[:, NEUTRAL + 1 :], probabilities[:, :NEUTRAL]
        positive = upper.sum(axis=1) > lower.sum(axis=1)
    counted = labels != NEUTRAL
    return _binary_metrics(labels[counted] > NEUTRAL, positive[counted], f1_weights)


def sentiment_regression_metrics(
    predictions: Float[np.ndarray, " n"],
    truths: Float[np.ndarray, " n"],
    *,
    exclude_zero: bool = True,
    f1_weights: Weights = "truth",
) -> dict[str, Any]:
    """Metrics of sentiment predicted as a real number.

    Those of Tsai et al. 2019 (arXiv 1906.00295), and accuracy in five classes. Seven and five
    classes are made by clipping to ±3 and ±2 and rounding, halves to the even number; of two
    classes, above 0 is positive.

    Args:
      predictions: of each example.
      truths: of each example.
      exclude_zero: whether the binary metrics leave out examples whose truth is 0.
      f1_weights: as for `sentiment_metrics`.

    Returns:
      JSON values: `mean_absolute_error`; `correlation` (Pearson's, None if either side is
      constant); `accuracy7` and `accuracy5`, fractions of 1; and what `sentiment_metrics`
      returns.

    Raises:
      ValueError: if there is no example, shapes do not fit, a number is not finite, or
        `f1_weights` is unknown.
    """
    predictions, truths = (np.asarray(a, np.float64) for a in (predictions, truths))
    if predictions.ndim != 1 or not len(predictions) or predictions.shape != truths.shape:
        raise ValueError(
            "predictions and truths: expected [n] and [n], n not 0, got"
            f" {[*predictions.shape]} and {[*truths.shape]}"
        )
    for name, values in (("predictions", predictions), ("truths", truths)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: {(~np.isfinite(values)).sum()} are NaN or infinite")
    varied = np.ptp(predictions) > 0 and np.ptp(truths) > 0
    counted = (truths != 0) | (not exclude_zero)
    return {
        "mean_absolute_error": float(np.abs(predictions - truths).mean()),
        "correlation": float(np.corrcoef(predictions, truths)[0, 1]) if varied else None,
        "accuracy7": _rounded_accuracy(predictions, truths, 3),
        "accuracy5": _rounded_accuracy(predictions, truths, 2),
        **_binary_metrics(truths[counted] > 0, predictions[counted] > 0, f1_weights),
    }


def _rounded_accuracy(
    predictions: Float[np.ndarray, " n"], truths: Float[np.ndarray, " n"], limit: int
) -> float:
    classes = (np.round(np.clip(values, -limit, limit)) for values in (predictions, truths))
    return float(np.equal(*classes).mean())


def _binary_metrics(
    truth: Bool[np.ndarray, " n"], prediction: Bool[np.ndarray, " n"], f1_weights: Weights
) -> dict[str, Any]:
    if f1_weights not in ("truth", "prediction"):
        raise ValueError(f"f1_weights={f1_weights!r} is not one of truth, prediction")
    accuracy = f1 = None
    if len(truth):
        # F1 itself is symmetric in the two; the weights are the counts of the first.
        pair = (truth, prediction) if f1_weights == "truth" else (prediction, truth)
        accuracy = float(metrics.accuracy_score(truth, prediction))
        f1 = float(metrics.f1_score(*pair, average="weighted", zero_division=0.0))
    return {"binary_accuracy": accuracy, "binary_f1": f1, "n_binary": len(truth)}
