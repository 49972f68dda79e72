"""Metrics of sentiment, from -3 (strongly negative) to 3, as reported on CMU-MOSI and MOSEI.

Binary accuracy and F1 follow three conventions. A number has no meaning without its convention:

| suffix | examples | positive means |
| --- | --- | --- |
| `has0` | all | not negative: truth and prediction of 0 or more; as in the code of MISA (arXiv \
2005.03545) and, under this name, of Self-MM (arXiv 2102.04830) and MMSA |
| `non0` | those whose truth is not 0 | truth and prediction above 0; as in the code of MulT \
(arXiv 1906.00295) and, under this name, of Self-MM and MMSA |
| `authors` | those whose true class is not neutral | a truth above neutral, and a prediction \
whose likeliest class is neutral or above; as in the code of Ding et al. 2021 (arXiv 2111.11992), \
which favours positive |

F1 is the mean over both signs, weighted by the number of true examples of each, as in MMSA since
2021. The code of MISA, MulT, Self-MM and Ding et al. weights by the number of predictions of each.
Here only `f1_authors` does so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int, Real
from sklearn import metrics

from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.scores import NotFiniteError, check_scores, softmax

CLASSES = 7
NEUTRAL = 3


def sentiment_of_predictions(predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """Computes the family `sentiment` for the predictions of a split, classes or one number."""
    del names  # The order of the classes is fixed.
    if predictions.task == "regression":
        return sentiment_regression_metrics(
            predictions.logits.squeeze(axis=1), predictions.labels.squeeze(axis=1)
        )
    return sentiment_metrics(predictions.logits, predictions.labels)


def sentiment_metrics(
    logits: Float[np.ndarray, "n 7"], labels: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """Computes metrics of a classifier of seven classes, where class `i` is sentiment `i - 3`.

    The truth is the class: a sentiment rounded to an integer. `P` are the probabilities:

    * `acc2_has0` and `f1_has0` predict not negative if `P(3..6) > P(0..2)`;
    * `acc2_non0` and `f1_non0` predict positive if `P(4..6) > P(0..2)`: the neutral class does
      not decide;
    * `acc7` and the metrics of the authors take the likeliest class, the first of equals;
    * `acc5`, `mae` and `corr` take the expected sentiment, the sum of `P(i) (i - 3)`; `acc5`
      clips it and the truth to ±2 and rounds both, halves to the even number.

    Args:
      logits: Logits of each example and class.
      labels: True class of each example.

    Returns:
      JSON values:

      * `truth`, "rounded";
      * `acc2_has0`, `f1_has0`, `acc2_non0`, `f1_non0`, `acc2_authors`, `f1_authors`, `acc5` and
        `acc7`, fractions of 1 (the module's docstring defines the suffixes);
      * `mae`, the mean absolute error, and `corr`, Pearson's correlation;
      * `n_non0`, the number of examples whose truth is not 0.

      Undefined values are None: `non0` and `authors` without such an example, and `corr` if
      truth or prediction is constant.

    Raises:
      ValueError: If there is no example, the classes are not seven, or shapes do not match. Also
        if a logit is not finite or a label is out of range.
    """
    logits, labels = check_scores(logits, labels)
    if logits.shape[1] != CLASSES:
        raise ValueError(f"logits: expected {CLASSES} classes of sentiment, got {logits.shape[1]}")
    probabilities = softmax(logits)
    # A softmax without the neutral class, so that not even rounding lets that class decide.
    polar = softmax(np.delete(logits, NEUTRAL, axis=1))
    positive, negative = probabilities[:, NEUTRAL:], probabilities[:, :NEUTRAL]
    shared = _metrics(
        truths=labels.astype(np.int64) - NEUTRAL,
        numbers=(_against_opposite(probabilities) * [3, 2, 1]).sum(axis=1),
        classes=logits.argmax(axis=1) - NEUTRAL,
        not_negative=positive.sum(axis=1) > negative.sum(axis=1),
        positive=_against_opposite(polar).sum(axis=1) > 0,
    )
    return {"truth": "rounded", **shared}


def sentiment_regression_metrics(
    predictions: Float[np.ndarray, " n"], truths: Float[np.ndarray, " n"]
) -> dict[str, Any]:
    """Computes metrics of sentiment predicted as a real number.

    * `acc2_has0` and `f1_has0` compare `truth >= 0` with `prediction >= 0`;
    * `acc2_non0` and `f1_non0` compare `truth > 0` with `prediction > 0`;
    * `acc7` and `acc5` clip truth and prediction to ±3 and ±2 and round them, halves to the
      even number;
    * `acc2_authors` and `f1_authors` round truth and prediction to the seven classes, because
      the authors' code knows only classes. They leave out truths that round to 0, so they use at
      most `n_non0` examples.

    Args:
      predictions: Predicted number of each example, in any range.
      truths: True sentiment of each example, from -3 to 3.

    Returns:
      The JSON values of `sentiment_metrics`, with "real" as `truth`.

    Raises:
      ValueError: If there is no example, shapes do not match, a number is not finite, or a
        truth is out of range.
    """
    predictions, truths = (np.asarray(a, np.float64) for a in (predictions, truths))
    if predictions.ndim != 1 or not len(predictions) or predictions.shape != truths.shape:
        raise ValueError(
            "predictions and truths: expected [n] and [n], n not 0, got"
            f" {[*predictions.shape]} and {[*truths.shape]}"
        )
    for name, values in (("predictions", predictions), ("truths", truths)):
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{name}: {(~np.isfinite(values)).sum()} are NaN or infinite")
    if wrong := sorted({float(truth) for truth in truths if abs(truth) > NEUTRAL}):
        raise ValueError(f"truths: {wrong} are not from -{NEUTRAL} to {NEUTRAL}")
    shared = _metrics(
        truths=truths,
        numbers=predictions,
        classes=_rounded(predictions, NEUTRAL),
        not_negative=predictions >= 0,
        positive=predictions > 0,
    )
    return {"truth": "real", **shared}


def _metrics(
    *,
    truths: Real[np.ndarray, " n"],
    numbers: Float[np.ndarray, " n"],
    classes: Int[np.ndarray, " n"],
    not_negative: Bool[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
) -> dict[str, Any]:
    """Computes metrics of predictions as numbers, as classes from -3 to 3, and by sign."""
    non0, true_classes = truths != 0, _rounded(truths, NEUTRAL)
    decided = true_classes != 0
    # Accuracy is symmetric in truth and prediction. F1 is weighted by the first of a pair.
    pairs = {
        "has0": (truths >= 0, not_negative),
        "non0": (truths[non0] > 0, positive[non0]),
        "authors": (classes[decided] >= 0, true_classes[decided] > 0),
    }
    binary: dict[str, Any] = {}
    for suffix, (first, second) in pairs.items():
        binary[f"acc2_{suffix}"] = _accuracy(first, second)
        binary[f"f1_{suffix}"] = _weighted_f1(first, second)
    return {
        **binary,
        "acc5": _accuracy(_rounded(truths, 2), _rounded(numbers, 2)),
        "acc7": _accuracy(true_classes, classes),
        "mae": float(metrics.mean_absolute_error(truths, numbers)),
        "corr": _correlation(truths, numbers),
        "n_non0": int(non0.sum()),
    }


def _against_opposite(probabilities: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n 3"]:
    """Computes `P(s) - P(-s)` for the sentiments `s` = 3, 2, 1; equal probabilities give 0."""
    return (probabilities[:, ::-1] - probabilities)[:, :NEUTRAL]


def _rounded(values: Real[np.ndarray, " n"], limit: int) -> Int[np.ndarray, " n"]:
    return np.round(np.clip(values, -limit, limit)).astype(np.int64)


def _accuracy(truth: np.ndarray, prediction: np.ndarray) -> float | None:
    return float(metrics.accuracy_score(truth, prediction)) if len(truth) else None


def _weighted_f1(truth: Bool[np.ndarray, " n"], prediction: Bool[np.ndarray, " n"]) -> float | None:
    if not len(truth):
        return None
    return float(metrics.f1_score(truth, prediction, average="weighted", zero_division=0.0))


def _correlation(truths: Real[np.ndarray, " n"], numbers: Float[np.ndarray, " n"]) -> float | None:
    # Values that differ only by rounding count as constant: otherwise their errors would correlate.
    for values in (truths, numbers):
        if np.ptp(values) <= 1e-12 * max(1.0, np.abs(values).max()):
            return None
    return float(scipy.stats.pearsonr(truths, numbers).statistic)
