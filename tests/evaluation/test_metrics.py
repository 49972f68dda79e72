"""Metrics against numbers worked out by hand."""

import json

import numpy as np
import pytest

from sft_jax.data.metric_families import MetricFamily
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import BREAKDOWN, task_metrics
from sft_jax.evaluation.ranking import ranking_metrics
from sft_jax.evaluation.report import write_predictions
from sft_jax.evaluation.sentiment import sentiment_metrics, sentiment_regression_metrics
from sft_jax.evaluation.tasks import classification_metrics

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


def test_classification_metrics_by_hand():
    # Correct are 2 of 3 examples of a, 1 of 1 of b and 0 of 2 of c. Class d has no examples.
    result = _metrics([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 1, 3], loss=[1, 2, 3, 4, 5, 9])
    assert result["n_examples"] == 6
    assert result["accuracy"] == pytest.approx(3 / 6)
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert result["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 0) / 3)
    assert result["loss"] == pytest.approx(4)
    assert result["per_class"] == {
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
    assert result["confusion_matrix"] == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_a_constant_prediction():
    result = _metrics([0, 1, 2, 3], [2, 2, 2, 2])
    assert result["accuracy"] == result["balanced_accuracy"] == pytest.approx(1 / 4)
    assert result["macro_f1"] == pytest.approx(2 / 5 / 4)
    assert [values["recall"] for values in result["per_class"].values()] == [0, 0, 1, 0]


def test_a_single_class():
    result = _metrics([1, 1], [1, 1])
    assert result["accuracy"] == result["balanced_accuracy"] == result["macro_f1"] == 1


def _task_metrics(task, labels, outputs, names, families=()):
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
    result = _task_metrics("ordinal", labels, np.eye(3)[predicted], NAMES[:3])
    assert result["mae"] == pytest.approx((1 + 2) / 4)
    # The observed squared distances are 0 + 1 + 0 + 4. By chance, any label meets any
    # prediction: label 0 with 0, 2, 2, 0 gives 8, label 1 gives 4, label 2 twice 8; over 4.
    assert result["quadratic_weighted_kappa"] == pytest.approx(1 - 5 / (28 / 4))
    single = _task_metrics("single_label", labels, np.eye(3)[predicted], NAMES[:3])
    assert {name: result[name] for name in single} == single
    assert set(result) - set(single) == {"mae", "quadratic_weighted_kappa"}
    constant = _task_metrics("ordinal", [1, 1], np.eye(3)[[1, 1]], NAMES[:3])
    assert (constant["mae"], constant["quadratic_weighted_kappa"]) == (0, None)


def test_multi_label_metrics_by_hand():
    # No example has label c, and all have label d.
    labels = [[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1]]
    logits = [[2, -3, -1, 1], [-1, 4, 1, 1], [-2, -2, -1, 1], [-3, -4, -1, -1]]
    result = _task_metrics("multi_label", labels, logits, NAMES)
    assert result["per_label"] == {
        # Sorted by logit, the examples have it: yes, no, yes, no.
        "a": {
            "average_precision": pytest.approx((1 + 2 / 3) / 2),
            "roc_auc": pytest.approx(3 / 4),
            "f1": pytest.approx(2 / 3),
            "n_examples": 2,
        },
        # Sorted by logit: yes, yes, no, no.
        "b": {"average_precision": 1, "roc_auc": 1, "f1": pytest.approx(2 / 3), "n_examples": 2},
        "c": {"average_precision": None, "roc_auc": None, "f1": None, "n_examples": 0},
        "d": {"average_precision": None, "roc_auc": None, "f1": None, "n_examples": 4},
    }
    assert result["macro_average_precision"] == pytest.approx((5 / 6 + 1) / 2)
    assert result["macro_roc_auc"] == pytest.approx(7 / 8)
    assert result["macro_f1"] == pytest.approx(2 / 3)
    # 5 labels are correctly predicted, 1 wrongly, and 3 are missed.
    assert result["micro_f1"] == pytest.approx(10 / (10 + 1 + 3))
    assert result["accuracy"] == pytest.approx(12 / 16)
    assert result["exact_match"] == pytest.approx(1 / 4)
    assert (result["n_examples"], result["loss"]) == (4, 1.5)


def test_labels_that_never_vary_have_no_macro_mean():
    result = _task_metrics("multi_label", [[0], [0]], [[-1], [-1]], ["a"])
    assert (
        result["macro_f1"] is result["macro_roc_auc"] is result["macro_average_precision"] is None
    )
    assert (result["accuracy"], result["micro_f1"]) == (1, 0)


def test_regression_metrics_by_hand():
    labels = [[1, 5, 0], [2, 5, 1], [3, 5, 2]]
    outputs = [[1, 4, 1], [4, 6, 1], [4, 5, 1]]
    result = _task_metrics("regression", labels, outputs, NAMES[:3])
    assert result["per_target"] == {
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
    assert result["mae"] == pytest.approx(7 / 9)
    assert result["r2"] == pytest.approx(-1.5 / 2)
    assert result["pearson_r"] == result["per_target"]["a"]["pearson_r"]
    assert (result["n_examples"], result["loss"]) == (3, 1)


def test_families_stand_under_their_names():
    names = [f"class{i}" for i in range(7)]
    labels, logits = [0, 2, 3, 6], np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    # The task of the model may be ordinal where the dataset's is single_label.
    for task in ("single_label", "ordinal"):
        plain = _task_metrics(task, labels, logits, names)
        result = _task_metrics(task, labels, logits, names, ("sentiment", "ranking"))
        assert result == {
            **plain,
            "sentiment": sentiment_metrics(logits, np.array(labels)),
            "ranking": ranking_metrics(logits, np.array(labels), names),
        }
        assert result["ranking"]["top1"] == result["sentiment"]["acc7"] == result["accuracy"]
        assert not {"sentiment", "ranking"} & set(plain)
        assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_sentiment_of_a_regression_uses_its_number():
    labels, outputs = [[-3], [0], [1.5]], [[-3.5], [0.25], [-0.25]]
    result = _task_metrics("regression", labels, outputs, ["sentiment"], ["sentiment"])
    assert result["sentiment"] == sentiment_regression_metrics(
        np.array([-3.5, 0.25, -0.25]), np.array([-3.0, 0.0, 1.5])
    )
    assert result["sentiment"]["truth"] == "real"
    assert result["sentiment"]["mae"] == result["mae"]
    assert result["sentiment"]["corr"] == pytest.approx(result["pearson_r"])


@pytest.mark.parametrize("task", BREAKDOWN)
def test_metrics_are_json(task):
    one_class = task in ("single_label", "ordinal")
    labels = [0, 1, 2] if one_class else np.eye(3)
    result = _task_metrics(task, labels, np.eye(3)[[0, 2, 1]], NAMES[:3])
    assert json.loads(json.dumps(result)) == result
    assert list(result[BREAKDOWN[task]]) == list(NAMES[:3])


TASKS = {
    "single_label": np.array([0, 0, 1, 2]),
    "ordinal": np.array([0, 0, 1, 2]),
    "multi_label": np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]], np.float32),
    "regression": np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0], [2, 1, 1]], np.float32),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("task", TASKS)
def test_outputs_that_are_not_finite_are_refused(tmp_path, task, value):
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
    result = task_metrics(
        Predictions(np.arange(4), TASKS[task], logits, loss, task), ["a", "b", "c"]
    )
    assert result["loss"] is None
    json.dumps(result, allow_nan=False)


def _share_of_first_class(predictions, names):
    return {f"share_of_{names[0]}": float((predictions.logits.argmax(axis=1) == 0).mean())}


FIRST = MetricFamily(_share_of_first_class)
FIRST_PATH = f"{__name__}:FIRST"


def test_a_family_is_found_by_its_import_path():
    result = _task_metrics("single_label", [0, 1], np.eye(3)[[0, 2]], NAMES[:3], [FIRST_PATH])
    assert result[FIRST_PATH] == {"share_of_a": 0.5}
