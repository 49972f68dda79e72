"""Metrics of sentiment, from -3 (strongly negative) to 3, as reported on CMU-MOSI and MOSEI.

There are three conventions of binary accuracy and F1, and a number means nothing without its:

| suffix | which examples | positive is |
| --- | --- | --- |
| `has0` | all | not negative: 0 or more, for the truth as for the prediction; as in the code of \
MISA (arXiv 2005.03545) and, by this name, of Self-MM (arXiv 2102.04830) and MMSA |
| `non0` | those whose truth is not 0 | above 0, for the truth as for the prediction; as in the \
code of MulT (arXiv 1906.00295), and by this name in that of Self-MM and MMSA |
| `authors` | those whose true class is not neutral | for the prediction, that its likeliest \
class is neutral or above; as in the code of Ding et al. 2021 (arXiv 2111.11992), which favours \
positive |

F1 is the mean over both signs weighted by how often each is true, as in MMSA since 2021. The code
of MISA, MulT, Self-MM and Ding et al. weighs by how often each is predicted; here `f1_authors`
alone does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int, Real
from sklearn import metrics

from sft_jax.evaluation.scores import NotFiniteError, check_scores, softmax

CLASSES = 7
NEUTRAL = 3


def sentiment_metrics(
    logits: Float[np.ndarray, "n 7"], labels: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """Metrics of a classifier into seven classes, of which class `i` is sentiment `i - 3`.

    The truth is the class, so a sentiment rounded to an integer. With `P` the probabilities:

    * `acc2_has0` and `f1_has0` predict not negative if `P(3..6) > P(0..2)`;
    * `acc2_non0` and `f1_non0` predict positive if `P(4..6) > P(0..2)`: the neutral class does
      not decide;
    * `acc7` and the metrics of the authors take the likeliest class, of equal ones the first;
    * `acc5`, `mae` and `corr` take the expected sentiment, the sum of `P(i) (i - 3)`; `acc5`
      clips it and the truth to ±2 and rounds both, halves to the even number.

    Args:
      logits: of each example and class.
      labels: true classes.

    Returns:
      JSON values: `truth`, "rounded"; `acc2_has0`, `f1_has0`, `acc2_non0`, `f1_non0`,
      `acc2_authors`, `f1_authors` (the module says what they are), `acc5` and `acc7`, all
      fractions of 1; `mae`, the mean absolute error; `corr`, Pearson's correlation; and
      `n_non0`, the number of examples whose truth is not 0. What is undefined is None: `non0`
      and `authors` without such an example, and `corr` if either side is constant.

    Raises:
      ValueError: if there is no example, there are not seven classes, shapes do not fit, a
        logit is not finite, or a label is out of range.
    """
    logits, labels = check_scores(logits, labels)
    if logits.shape[1] != CLASSES:
        raise ValueError(f"logits: expected {CLASSES} classes of sentiment, got {logits.shape[1]}")
    probabilities = softmax(logits)
    # By themselves, so that not even rounding lets the neutral class decide.
    polar = softmax(np.delete(logits, NEUTRAL, axis=1))
    positive, negative = probabilities[:, NEUTRAL:], probabilities[:, :NEUTRAL]
    found = _metrics(
        truths=labels.astype(np.int64) - NEUTRAL,
        numbers=(_against_opposite(probabilities) * [3, 2, 1]).sum(axis=1),
        classes=logits.argmax(axis=1) - NEUTRAL,
        not_negative=positive.sum(axis=1) > negative.sum(axis=1),
        positive=_against_opposite(polar).sum(axis=1) > 0,
    )
    return {"truth": "rounded", **found}


def sentiment_regression_metrics(
    predictions: Float[np.ndarray, " n"], truths: Float[np.ndarray, " n"]
) -> dict[str, Any]:
    """Metrics of sentiment predicted as a real number.

    * `acc2_has0` and `f1_has0` compare `truth >= 0` with `prediction >= 0`, `acc2_non0` and
      `f1_non0` compare `truth > 0` with `prediction > 0`;
    * `acc7` and `acc5` clip truth and prediction to ±3 and ±2 and round them, halves to the
      even number;
    * the authors' code knows classes alone: it gives `acc2_authors` and `f1_authors` for the
      seven classes that truth and prediction are rounded to. So their examples are those whose
      truth does not round to 0, at most `n_non0`.

    Args:
      predictions: of each example; any size.
      truths: of each example, from -3 to 3.

    Returns:
      JSON values, those of `sentiment_metrics`, with "real" as `truth`.

    Raises:
      ValueError: if there is no example, shapes do not fit, a number is not finite, or a
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
    found = _metrics(
        truths=truths,
        numbers=predictions,
        classes=_rounded(predictions, NEUTRAL),
        not_negative=predictions >= 0,
        positive=predictions > 0,
    )
    return {"truth": "real", **found}


def _metrics(
    *,
    truths: Real[np.ndarray, " n"],
    numbers: Float[np.ndarray, " n"],
    classes: Int[np.ndarray, " n"],
    not_negative: Bool[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
) -> dict[str, Any]:
    """What both return, of predictions as numbers, as classes from -3 to 3, and by sign."""
    non0, true_classes = truths != 0, _rounded(truths, NEUTRAL)
    decided = true_classes != 0
    # Accuracy is symmetric in truth and prediction; of F1 the weights are those of the first.
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
    """How much likelier 3 is than -3, 2 than -2 and 1 than -1; exactly 0 where they are equal."""
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
    # Equal but for rounding is constant too: the correlation would be that of the errors.
    for values in (truths, numbers):
        if np.ptp(values) <= 1e-12 * max(1.0, np.abs(values).max()):
            return None
    return float(scipy.stats.pearsonr(truths, numbers).statistic)
