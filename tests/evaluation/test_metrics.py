"""Metrics against numbers worked out by hand."""

import json

import numpy as np
import pytest

from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import PARTS, classification_metrics, task_metrics
from sft_jax.evaluation.ranking import ranking_metrics
from sft_jax.evaluation.report import write_predictions
from sft_jax.evaluation.sentiment import sentiment_metrics, sentiment_regression_metrics

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


def _of_task(task, labels, outputs, names, families=()):
    labels = np.array(labels)
    return task_metrics(
        Predictions(
            ids=np.array([str(i) for i in range(len(labels))]),
            labels=labels if labels.ndim == 1 else labels.astype(np.float32),
            logits=np.array(outputs, np.float32),
            loss=np.arange(len(labels), dtype=np.float32),
            task=task,
        ),
        names,
        families,
    )


def test_ordinal_metrics_by_hand():
    labels, predicted = [0, 1, 2, 2], [0, 2, 2, 0]
    found = _of_task("ordinal", labels, np.eye(3)[predicted], NAMES[:3])
    assert found["mae"] == pytest.approx((1 + 2) / 4)
    # Squared distances observed: 0 + 1 + 0 + 4. By chance, of any label with any prediction:
    # 0 to 0, 2, 2, 0: 8; 1 to them: 4; 2 to them, twice: 16; over 4.
    assert found["quadratic_weighted_kappa"] == pytest.approx(1 - 5 / (28 / 4))
    single = _of_task("single_label", labels, np.eye(3)[predicted], NAMES[:3])
    assert {name: found[name] for name in single} == single
    assert set(found) - set(single) == {"mae", "quadratic_weighted_kappa"}
    alone = _of_task("ordinal", [1, 1], np.eye(3)[[1, 1]], NAMES[:3])
    assert (alone["mae"], alone["quadratic_weighted_kappa"]) == (0, None)


def test_multi_label_metrics_by_hand():
    # Of c there is no example, and d is of all.
    labels = [[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1]]
    logits = [[2, -3, -1, 1], [-1, 4, 1, 1], [-2, -2, -1, 1], [-3, -4, -1, -1]]
    found = _of_task("multi_label", labels, logits, NAMES)
    assert found["per_label"] == {
        # By logit: yes, no, yes, no.
        "a": {
            "average_precision": pytest.approx((1 + 2 / 3) / 2),
            "roc_auc": pytest.approx(3 / 4),
            "f1": pytest.approx(2 / 3),
            "n_examples": 2,
        },
        # By logit: yes, yes, no, no.
        "b": {"average_precision": 1, "roc_auc": 1, "f1": pytest.approx(2 / 3), "n_examples": 2},
        "c": {"average_precision": None, "roc_auc": None, "f1": None, "n_examples": 0},
        "d": {"average_precision": None, "roc_auc": None, "f1": None, "n_examples": 4},
    }
    assert found["macro_average_precision"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["macro_roc_auc"] == pytest.approx(7 / 8)
    assert found["macro_f1"] == pytest.approx(2 / 3)
    # 5 rightly, 1 wrongly predicted, 3 missed.
    assert found["micro_f1"] == pytest.approx(10 / (10 + 1 + 3))
    assert found["accuracy"] == pytest.approx(12 / 16)
    assert found["exact_match"] == pytest.approx(1 / 4)
    assert (found["n_examples"], found["loss"]) == (4, 1.5)


def test_without_a_label_to_tell_apart_there_is_no_macro_mean():
    found = _of_task("multi_label", [[0], [0]], [[-1], [-1]], ["a"])
    assert found["macro_f1"] is found["macro_roc_auc"] is found["macro_average_precision"] is None
    assert (found["accuracy"], found["micro_f1"]) == (1, 0)


def test_regression_metrics_by_hand():
    labels = [[1, 5, 0], [2, 5, 1], [3, 5, 2]]
    outputs = [[1, 4, 1], [4, 6, 1], [4, 5, 1]]
    found = _of_task("regression", labels, outputs, NAMES[:3])
    assert found["per_target"] == {
        "a": {
            "mae": pytest.approx(1),
            "rmse": pytest.approx((5 / 3) ** 0.5),
            # Deviations -1, 0, 1 and -2, 1, 1.
            "pearson_r": pytest.approx(3 / (2 * 6) ** 0.5),
            "r2": pytest.approx(1 - 5 / 2),
        },
        "b": {"mae": pytest.approx(2 / 3), "rmse": pytest.approx((2 / 3) ** 0.5)}
        | {"pearson_r": None, "r2": None},
        "c": {"mae": pytest.approx(2 / 3), "rmse": pytest.approx((2 / 3) ** 0.5)}
        | {"pearson_r": None, "r2": pytest.approx(0)},
    }
    assert found["mae"] == pytest.approx(7 / 9)
    assert found["r2"] == pytest.approx(-1.5 / 2)
    assert found["pearson_r"] == found["per_target"]["a"]["pearson_r"]
    assert (found["n_examples"], found["loss"]) == (3, 1)


def test_families_stand_beside_the_metrics_of_the_task_by_their_names():
    names = [f"class{i}" for i in range(7)]
    labels, logits = [0, 2, 3, 6], np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    for task in ("single_label", "ordinal"):
        plain = _of_task(task, labels, logits, names)
        found = _of_task(task, labels, logits, names, ("sentiment", "ranking"))
        assert found == {
            **plain,
            "sentiment": sentiment_metrics(logits, np.array(labels)),
            "ranking": ranking_metrics(logits, np.array(labels), names),
        }
        assert found["ranking"]["top1"] == found["sentiment"]["acc7"] == found["accuracy"]
        assert not {"sentiment", "ranking"} & set(plain)
        assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_sentiment_of_a_regression_is_that_of_its_number():
    labels, outputs = [[-3], [0], [1.5]], [[-3.5], [0.25], [-0.25]]
    found = _of_task("regression", labels, outputs, ["sentiment"], ["sentiment"])
    assert found["sentiment"] == sentiment_regression_metrics(
        np.array([-3.5, 0.25, -0.25]), np.array([-3.0, 0.0, 1.5])
    )
    assert found["sentiment"]["truth"] == "real"
    assert found["sentiment"]["mae"] == found["mae"]
    assert found["sentiment"]["corr"] == pytest.approx(found["pearson_r"])


@pytest.mark.parametrize("task", PARTS)
def test_metrics_are_json(task):
    one_class = task in ("single_label", "ordinal")
    labels = [0, 1, 2] if one_class else np.eye(3)
    found = _of_task(task, labels, np.eye(3)[[0, 2, 1]], NAMES[:3])
    assert json.loads(json.dumps(found)) == found
    assert list(found[PARTS[task]]) == list(NAMES[:3])


TASKS = {
    "single_label": np.array([0, 0, 1, 2]),
    "ordinal": np.array([0, 0, 1, 2]),
    "multi_label": np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]], np.float32),
    "regression": np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0], [2, 1, 1]], np.float32),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("task", TASKS)
def test_what_is_not_finite_is_no_prediction(tmp_path, task, value):
    logits = np.arange(12, dtype=np.float32).reshape(4, 3)
    logits[1:3, 1] = value
    ids, loss = np.array(list("wxyz")), np.ones(4, np.float32)
    predictions = Predictions(ids, TASKS[task], logits, loss, task)
    message = r"^logits: NaN or infinite for 2 of 4 examples \(x, y\)"
    with pytest.raises(ValueError, match=message):
        task_metrics(predictions, ["a", "b", "c"])
    with pytest.raises(ArithmeticError, match=message):
        write_predictions(tmp_path / "p.csv", predictions, ["a", "b", "c"])
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("task", TASKS)
def test_a_loss_that_overflows_is_null(task):
    logits, loss = np.ones((4, 3), np.float32), np.array([1, 1, np.inf, 1], np.float32)
    found = task_metrics(
        Predictions(np.arange(4), TASKS[task], logits, loss, task), ["a", "b", "c"]
    )
    assert found["loss"] is None
    json.dumps(found, allow_nan=False)
