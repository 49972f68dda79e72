"""Metrics of sentiment, by hand and against what the authors' code returns.

| keys of `metrics.npz` | what they check |
| --- | --- |
| `mosei{0..2}/out/{acc2,f1}` | `sentiment_metrics(neutral_is_positive=True, \
f1_weights="prediction")` |
| `mosei{0..2}/corrected/f1_true_first` | the same with weights of the truth |
| `orig{0..2}/exclude_zero_{True,False}/out/*` | \
`sentiment_regression_metrics(f1_weights="prediction")` |

The others are in the table of `test_ranking.py`.
"""

import functools
import json

import numpy as np
import pytest
import reference

from sft_jax.evaluation.sentiment import sentiment_metrics, sentiment_regression_metrics

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(200, 7))
LABELS = RANDOM.integers(7, size=200)
CASES = ("0", "1", "2")

both = pytest.mark.parametrize(
    ("faithful", "right"),
    [pytest.param(False, True, id="ours"), pytest.param(True, False, id="theirs")],
)
approx = functools.partial(pytest.approx, rel=1e-9)


@functools.cache
def _golden():
    arrays, _ = reference.load("metrics")
    return arrays


@pytest.mark.parametrize("case", CASES)
def test_golden_binary_metrics(case):
    arrays = reference.under(_golden(), f"mosei{case}/")
    theirs = functools.partial(
        sentiment_metrics, arrays["logits"], arrays["labels"], neutral_is_positive=True
    )
    found = theirs(f1_weights="prediction")
    assert found["binary_accuracy"] == approx(float(arrays["out/acc2"]))
    assert found["binary_f1"] == approx(float(arrays["out/f1"]))
    assert theirs()["binary_f1"] == approx(float(arrays["corrected/f1_true_first"]))


@pytest.mark.parametrize("exclude_zero", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_golden_regression_metrics(case, exclude_zero):
    arrays = reference.under(_golden(), f"orig{case}/")
    found = sentiment_regression_metrics(
        arrays["preds"], arrays["truths"], exclude_zero=exclude_zero, f1_weights="prediction"
    )
    count = found.pop("n_binary")
    assert count == (np.count_nonzero(arrays["truths"]) if exclude_zero else 250)
    names = {
        "mean_absolute_error": "mae",
        "correlation": "corr",
        "accuracy7": "acc7",
        "accuracy5": "acc5",
        "binary_accuracy": "acc2",
        "binary_f1": "f1",
    }
    expected = reference.under(arrays, f"exclude_zero_{exclude_zero}/out/")
    expected = {name: float(value) for name, value in expected.items()}
    assert {names[name]: value for name, value in found.items()} == approx(expected)


def test_binary_metrics_by_hand():
    # Positive has 0.4 and negative 0.3, though neutral is the likeliest; then the reverse.
    up = np.log([0.1, 0.1, 0.1, 0.3, 0.1, 0.1, 0.2])
    down = up[::-1]
    found = sentiment_metrics(np.stack([up, up, up, down, up]), np.array([4, 6, 0, 5, 3]))
    # Of 3 positive, 2 found; of 1 negative, none: F1 is 2/3 and 0.
    assert found == {"binary_accuracy": 2 / 4, "binary_f1": approx(3 / 4 * 2 / 3), "n_binary": 4}


@both
def test_20_positive_and_negative_are_treated_alike(faithful, right):
    found = sentiment_metrics(LOGITS, LABELS, neutral_is_positive=faithful)
    reversed_ = sentiment_metrics(LOGITS[:, ::-1], 6 - LABELS, neutral_is_positive=faithful)
    assert (found == approx(reversed_)) == right


@both
def test_20_the_neutral_class_does_not_decide(faithful, right):
    found = sentiment_metrics(LOGITS, LABELS, neutral_is_positive=faithful)
    likelier = LOGITS + 5 * np.eye(7)[3]
    assert (found == approx(sentiment_metrics(likelier, LABELS, neutral_is_positive=faithful))) == (
        right
    )


@both
def test_21_f1_is_weighted_by_the_truth(faithful, right):
    weights = {"f1_weights": "prediction"} if faithful else {}
    # All are positive, and of 4 one is predicted negative: the F1 of positive is 6/7.
    logits, labels = np.eye(7)[[4, 5, 6, 0]], np.array([4, 5, 6, 6])
    of_classes = sentiment_metrics(logits, labels, **weights)
    of_numbers = sentiment_regression_metrics([1.0, 2.0, 3.0, -3.0], labels - 3.0, **weights)
    expected = 6 / 7 if right else 3 / 4 * 6 / 7
    assert of_classes["binary_f1"] == of_numbers["binary_f1"] == approx(expected)


def test_without_sentiment_binary_metrics_are_none():
    expected = {"binary_accuracy": None, "binary_f1": None, "n_binary": 0}
    assert sentiment_metrics(LOGITS, np.full(200, 3)) == expected
    found = sentiment_regression_metrics(LOGITS[:, 0], np.zeros(200))
    assert found["correlation"] is None
    assert expected.items() <= found.items()


def test_metrics_are_json():
    found = sentiment_metrics(LOGITS, LABELS) | sentiment_regression_metrics([1.0], [2.0])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (LOGITS[:, :6], np.minimum(LABELS, 5), "expected 7 classes of sentiment, got 6"),
        (LOGITS, LABELS - 3, r"labels: \[-3, -2, -1\] are not from 0 to 6"),
        (LOGITS[:0], LABELS[:0], r"logits: expected \[n, c\], .* got \[0, 7\]"),
    ],
)
def test_wrong_arrays(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        sentiment_metrics(logits, labels)


@pytest.mark.parametrize(
    ("predictions", "truths", "message"),
    [
        ([], [], r"expected \[n\] and \[n\], n not 0, got \[0\] and \[0\]"),
        ([1.0], [1.0, 2.0], r"got \[1\] and \[2\]"),
        ([[1.0]], [[1.0]], r"got \[1, 1\] and \[1, 1\]"),
        ([np.nan, 1.0], [1.0, 2.0], "predictions: 1 are NaN or infinite"),
        ([1.0, 2.0], [1.0, np.inf], "truths: 1 are NaN or infinite"),
    ],
)
def test_wrong_numbers(predictions, truths, message):
    with pytest.raises(ValueError, match=message):
        sentiment_regression_metrics(predictions, truths)


def test_wrong_weights():
    with pytest.raises(ValueError, match="f1_weights='both' is not one of truth, prediction"):
        sentiment_metrics(LOGITS, LABELS, f1_weights="both")
