"""Metrics of two classes against numbers worked out by hand."""

import numpy as np
import pytest

from sft_jax.evaluation.binary import binary_metrics, log_odds
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.tasks import classification_metrics


def test_binary_metrics_by_hand():
    # Sorted by odds: positive, negative, positive, negative.
    positive, odds = np.array([True, False, True, False]), np.log([9, 4, 1, 1 / 4])
    assert binary_metrics(positive, odds) == {
        "roc_auc": pytest.approx(3 / 4),
        "average_precision": pytest.approx((1 + 2 / 3) / 2),
        "brier": pytest.approx((0.1**2 + 0.8**2 + 0.5**2 + 0.2**2) / 4),
        "sensitivity_at_95_specificity": pytest.approx(1 / 2),
    }


def test_one_of_twenty_negatives_may_be_above_the_threshold():
    odds = np.array([3.0, 1.0, 2.0, *np.linspace(-1, 0, 19)])
    positive = np.arange(22) < 2
    assert binary_metrics(positive, odds)["sensitivity_at_95_specificity"] == 1
    assert binary_metrics(positive[:-1], odds[:-1])["sensitivity_at_95_specificity"] == 1 / 2


def test_the_second_class_is_positive_and_large_logits_keep_their_order():
    logits = np.array([[0, 40], [0, 50], [0, 60], [0, 70]], np.float32)
    labels = np.array([0, 0, 1, 1])
    result = classification_metrics(
        Predictions(np.arange(4), labels, logits, np.ones(4)), ["no", "yes"]
    )
    assert (result["roc_auc"], result["brier"]) == (1, pytest.approx(1 / 2))
    assert log_odds(logits).dtype == np.float64


@pytest.mark.parametrize("value", [False, True])
def test_one_class_alone_has_only_a_brier_score(value):
    result = binary_metrics(np.full(3, value), np.zeros(3))
    assert result.pop("brier") == 1 / 4
    assert set(result.values()) == {None}
