"""Metrics against numbers worked out by hand."""

import json

import numpy as np
import pytest

from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import classification_metrics

NAMES = ("a", "b", "c", "d")


def _metrics(labels, predicted, loss=None):
    labels = np.array(labels)
    return classification_metrics(
        Predictions(
            ids=np.array([str(i) for i in range(len(labels))]),
            labels=labels,
            logits=np.eye(len(NAMES), dtype=np.float32)[predicted],
            loss=np.array(loss if loss is not None else [0.0] * len(labels), np.float32),
        ),
        NAMES,
    )


def test_metrics_by_hand():
    # Of a: 2 of 3 found; of b: 1 of 1; of c: none of 2. The class d has no examples.
    found = _metrics([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 1, 3], loss=[1, 2, 3, 4, 5, 9])
    assert found["n_examples"] == 6
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 0) / 3)
    assert found["loss"] == pytest.approx(4)
    assert found["per_class"] == {
        "a": {
            "precision": pytest.approx(1),
            "recall": pytest.approx(2 / 3),
            "f1": pytest.approx(4 / 5),
            "n_examples": 3,
        },
        "b": {
            "precision": pytest.approx(1 / 3),
            "recall": pytest.approx(1),
            "f1": pytest.approx(1 / 2),
            "n_examples": 1,
        },
        "c": {"precision": 0, "recall": 0, "f1": 0, "n_examples": 2},
        "d": {"precision": None, "recall": None, "f1": None, "n_examples": 0},
    }
    assert found["confusion_matrix"] == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_a_constant_prediction():
    found = _metrics([0, 1, 2, 3], [2, 2, 2, 2])
    assert found["accuracy"] == found["balanced_accuracy"] == pytest.approx(1 / 4)
    assert found["macro_f1"] == pytest.approx(2 / 5 / 4)
    assert [of["recall"] for of in found["per_class"].values()] == [0, 0, 1, 0]


def test_a_single_class():
    found = _metrics([1, 1], [1, 1])
    assert found["accuracy"] == found["balanced_accuracy"] == found["macro_f1"] == 1


def test_metrics_are_json():
    found = _metrics([0, 1, 2], [0, 2, 1])
    assert json.loads(json.dumps(found)) == found
