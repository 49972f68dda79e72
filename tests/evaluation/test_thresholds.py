"""Thresholds maximise a metric of the validation split."""

import io

import numpy as np
import pytest
from rich.console import Console
from sklearn import metrics

from sft_jax.evaluation import report
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.evaluation.thresholds import CRITERIA, check_request, choose, threshold_metrics


def _predictions(labels, probabilities, task="multi_label"):
    probabilities = np.array(probabilities)
    labels = np.array(labels)
    logits = np.log(probabilities / (1 - probabilities))
    if task != "multi_label":
        logits = np.stack([np.zeros(len(labels)), logits], axis=1)
    return Predictions(np.arange(len(labels)), labels, logits, np.ones(len(labels)), task)


def test_thresholds_by_hand():
    # Of the five, the first, third and fourth have the label.
    labels = [[1], [0], [1], [1], [0]]
    predictions = _predictions(labels, [[0.9], [0.6], [0.4], [0.3], [0.1]])
    chosen = choose(predictions, ["a"], "f1")
    assert chosen == {"a": pytest.approx(0.2)}  # Three hits, one mistake.
    assert threshold_metrics(predictions, ["a"], chosen) == {
        "f1": pytest.approx(6 / 7),
        "balanced_accuracy": pytest.approx(3 / 4),
        "per_label": {
            "a": {
                "threshold": pytest.approx(0.2),
                "f1": pytest.approx(6 / 7),
                "balanced_accuracy": pytest.approx(3 / 4),
                "sensitivity": 1,
                "specificity": pytest.approx(1 / 2),
            }
        },
    }


@pytest.mark.parametrize("criterion", CRITERIA)
def test_no_other_threshold_is_better(criterion):
    random = np.random.default_rng(3)
    probabilities = random.choice(np.linspace(0.02, 0.98, 25), size=60)
    labels = (random.uniform(size=60) < probabilities**3).astype(int)
    chosen = choose(_predictions(labels, probabilities, "ordinal"), ["no", "yes"], criterion)
    score = {"f1": metrics.f1_score, "balanced_accuracy": metrics.balanced_accuracy_score}
    values = [
        score[criterion](labels, probabilities > threshold)
        for threshold in (chosen["yes"], *np.linspace(0.01, 0.97, 97))
    ]
    assert values[0] == pytest.approx(max(values))
    assert chosen.keys() == {"yes"}


def test_labels_that_never_vary_get_one_half():
    predictions = _predictions([[0, 1], [0, 1]], [[0.1, 0.2], [0.3, 0.4]])
    chosen = choose(predictions, ["a", "b"], "f1")
    assert chosen == {"a": 0.5, "b": 0.5}
    result = threshold_metrics(predictions, ["a", "b"], chosen)
    assert result["f1"] is result["per_label"]["a"]["f1"] is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (("accuracy", "valid", "multi_label", 3), "'accuracy' is not one of f1, balanced_accuracy"),
        (("f1", "test", "multi_label", 3), "are chosen with split=valid, got test"),
        (("f1", "valid", "single_label", 3), "two classes; the task is 'single_label', of 3"),
        (("f1", "valid", "regression", 2), "two classes; the task is 'regression', of 2"),
    ],
)
def test_requests_that_make_no_sense_are_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        check_request(*request_)
    check_request("f1", "valid", "ordinal", 2)


def test_tables_show_the_thresholds():
    predictions = _predictions([[1], [0], [1]], [[0.9], [0.25], [0.35]])
    result = {"split": "valid", "step": 1, "checkpoint": "best"}
    result |= task_metrics(predictions, ["a"])
    result["at_thresholds"] = threshold_metrics(predictions, ["a"], {"a": 0.3})
    console = Console(file=io.StringIO(), width=80)
    report.print_tables(console, result)
    assert "0.300" in console.file.getvalue()
    assert "specificity" in console.file.getvalue()
