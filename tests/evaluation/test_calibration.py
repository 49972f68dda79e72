"""The temperature is the one with the smallest likelihood loss; the error is that of the bins."""

import dataclasses

import numpy as np
import pytest
import scipy.special

from sft_jax.evaluation import calibration
from sft_jax.evaluation.evaluator import Predictions


def _predictions(labels, logits, task="single_label"):
    return Predictions(np.arange(len(labels)), np.array(labels), np.array(logits), None, task)


def _drawn(task, sharpened, count=3000):
    """Labels drawn from the probabilities of logits, which then are multiplied by a number."""
    random = np.random.default_rng(5)
    logits = random.normal(scale=1.5, size=(count, 3))
    if task == "multi_label":
        labels = (random.uniform(size=logits.shape) < scipy.special.expit(logits)).astype(float)
    else:
        cumulative = scipy.special.softmax(logits, axis=-1).cumsum(axis=-1)
        labels = (random.uniform(size=(count, 1)) > cumulative).sum(axis=-1).clip(0, 2)
    return _predictions(labels, (sharpened * logits).astype(np.float32), task)


@pytest.mark.parametrize("task", ["single_label", "ordinal", "multi_label"])
@pytest.mark.parametrize("sharpened", [2.5, 0.4])
def test_fitted_temperature_undoes_a_sharpening(task, sharpened):
    predictions = _drawn(task, sharpened)
    temperature = calibration.fit_temperature(predictions)
    assert temperature == pytest.approx(sharpened, rel=0.08)
    values = calibration.calibration_metrics(predictions, temperature)
    assert values["calibrated_ece"] < 0.03 < 0.08 < values["ece"]
    for other in np.geomspace(0.1, 10, 41):
        loss = calibration.log_likelihood_loss(predictions, other)
        assert loss >= values["calibrated_nll"] - 1e-9


def test_error_by_hand():
    # Confidences 0.8, 0.8 and 0.55, of two right decisions and a wrong one.
    probabilities = np.array([[0.8, 0.2], [0.2, 0.8], [0.45, 0.55]])
    predictions = _predictions([0, 0, 1], np.log(probabilities))
    bins = calibration.reliability(predictions)
    assert {int(i): int(n) for i, n in enumerate(bins.size) if n} == {8: 1, 12: 2}
    assert bins.frequency[12] == 0.5
    assert bins.error == pytest.approx((2 * 0.3 + 0.45) / 3)
    values = calibration.calibration_metrics(predictions, None)
    assert values == {
        "ece": bins.error,
        "nll": pytest.approx(-np.log([0.8, 0.2, 0.55]).mean()),
    }
    # A probability of 1 belongs to the last interval.
    certain = dataclasses.replace(predictions, logits=np.array([[99.0, 0.0]] * 3))
    assert calibration.reliability(certain).size[-1] == 3


def test_split_without_mistakes_ends_at_the_limit(caplog):
    labels = np.array([0, 1, 2])
    temperature = calibration.fit_temperature(_predictions(labels, np.eye(3)))
    assert temperature == pytest.approx(calibration.LIMITS[0], rel=1e-3)
    assert "the 3 examples of the split valid do not determine it" in caplog.text


def test_requests_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="fitted with split=valid, got test"):
        calibration.check_request("test", "ordinal")
    with pytest.raises(ValueError, match="classes or labels; the task is 'regression'"):
        calibration.check_request("valid", "regression")
    calibration.check_request("valid", "multi_label")
