"""Calibration: temperature scaling, fitted on the validation split, and its error.

The logits of classes or labels are divided by one number, the temperature, before they become
probabilities (Guo et al. 2017). The most probable class stays the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Bool, Float

from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.scores import probabilities
from sft_jax.structs import CLASS_TASKS, Task

BINS = 15
"""Number of intervals of equal width that probabilities are sorted into (Guo et al. 2017)."""
LIMITS = (0.05, 20.0)
"""Smallest and largest temperature."""

_logger = logging.getLogger(__name__)


def check_request(split: str, task: Task) -> None:
    """Raises ValueError unless a temperature can be fitted.

    Args:
      split: Split to fit it on; must be valid, as nothing is fitted to test.
      task: Task of the model.
    """
    if split != "valid":
        raise ValueError(f"calibrate: the temperature is fitted with split=valid, got {split}")
    if task == "regression":
        raise ValueError(
            "calibrate needs probabilities of classes or labels; the task is 'regression'"
        )


def fit_temperature(predictions: Predictions) -> float:
    """Finds the temperature with the smallest negative log-likelihood.

    Args:
      predictions: Predictions of the validation split, of classes or labels.

    Returns:
      Temperature within `LIMITS`. A warning says if it is one of them, such as on a split without
      any mistake.
    """
    low, high = np.log(LIMITS)
    fitted = scipy.optimize.minimize_scalar(
        lambda exponent: log_likelihood_loss(predictions, float(np.exp(exponent))),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    temperature = float(np.exp(fitted.x))
    for limit in LIMITS:
        if np.isclose(temperature, limit, rtol=1e-3):
            _logger.warning(
                "the temperature ends at its limit of %g: the %d examples of the split valid do"
                " not determine it, such as where all are classified without a mistake",
                limit,
                len(predictions.labels),
            )
    return temperature


def log_likelihood_loss(predictions: Predictions, temperature: float = 1.0) -> float:
    """Computes the mean negative log-likelihood, of the labels over all labels of all examples."""
    logits = predictions.logits.astype(np.float64) / temperature
    if predictions.task in CLASS_TASKS:
        logs = scipy.special.log_softmax(logits, axis=-1)
        return float(-logs[np.arange(len(logs)), predictions.labels].mean())
    signs = np.where(predictions.labels > 0.5, 1.0, -1.0)
    return float(-scipy.special.log_expit(signs * logits).mean())


class Bins(NamedTuple):
    """Probabilities sorted into `BINS` intervals of equal width.

    Attributes:
      size: Number of decisions of each interval.
      probability: Their mean probability; NaN in an empty interval.
      frequency: Share of them that are true; NaN in an empty interval.
    """

    size: Float[np.ndarray, " b"]
    probability: Float[np.ndarray, " b"]
    frequency: Float[np.ndarray, " b"]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of probability and frequency, by size."""
        filled = self.size > 0
        distance = np.abs(self.probability - self.frequency)[filled]
        return float((self.size[filled] * distance).sum() / self.size.sum())


def reliability(predictions: Predictions, temperature: float = 1.0) -> Bins:
    """Compares probabilities with the frequencies of what they predict.

    Args:
      predictions: Predictions of classes or labels. For classes the probability is that of the
        most probable class, and it counts whether that class is true. For labels it is the
        probability of each label of each example.
      temperature: Temperature of the probabilities.
    """
    probability, true = _decisions(predictions, temperature)
    number = np.minimum((probability * BINS).astype(int), BINS - 1)
    count, total, hits = (
        np.bincount(number, weights, BINS) for weights in (None, probability, true)
    )
    with np.errstate(invalid="ignore"):
        return Bins(count, total / count, hits / count)


def calibration_metrics(predictions: Predictions, temperature: float | None) -> dict[str, Any]:
    """Computes how well probabilities agree with frequencies.

    Args:
      predictions: Predictions of classes or labels.
      temperature: Temperature that was fitted on the validation split; None without one.

    Returns:
      JSON values: the expected calibration error `ece`, and `nll`, the mean negative
      log-likelihood. With a temperature also `temperature`, `calibrated_ece` and `calibrated_nll`.
    """
    values = {
        "ece": reliability(predictions).error,
        "nll": log_likelihood_loss(predictions),
    }
    if temperature is not None:
        values |= {
            "temperature": temperature,
            "calibrated_ece": reliability(predictions, temperature).error,
            "calibrated_nll": log_likelihood_loss(predictions, temperature),
        }
    return values


def temperature_of_result(result: Mapping[str, Any]) -> float:
    """Reads the temperature of a result of `evaluate_run`; 1 without one."""
    return float(result.get("calibration", {}).get("temperature", 1.0))


def _decisions(
    predictions: Predictions, temperature: float
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Probabilities, and where the class or label they are of is true."""
    logits = predictions.logits.astype(np.float64)
    predicted = probabilities(predictions.task, logits, temperature)
    if predictions.task in CLASS_TASKS:
        return predicted.max(axis=-1), logits.argmax(axis=-1) == predictions.labels
    return predicted.ravel(), (predictions.labels > 0.5).ravel()
