"""Metrics of sentiment, by hand, against scikit-learn and the values of the authors' code.

| keys of `metrics.npz` | checked value |
| --- | --- |
| `mosei{0..2}/out/{acc2,f1}` | `acc2_authors` and `f1_authors` of `sentiment_metrics` |
| `mosei{0..2}/corrected/f1_true_first` | their F1, weighted by the truth |
| `orig{0..2}/exclude_zero_*/out/{mae,corr,acc5,acc7}` | `sentiment_regression_metrics` |
| `orig{0..2}/exclude_zero_*/out/{acc2,f1}` | the same, with truth and prediction exchanged and, \
if zeros count, negated: theirs weights by the prediction and compares `> 0` where `has0` \
compares `>= 0` |

The table of `test_ranking.py` lists the remaining keys.
"""

import functools
import json

import numpy as np
import pytest
import reference
import scipy.special
from sklearn import metrics

from sft_jax.evaluation.sentiment import sentiment_metrics, sentiment_regression_metrics

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(200, 7))
LABELS = RANDOM.integers(7, size=200)
CASES = ("0", "1", "2")
NAMES = [
    "truth", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc2_authors", "f1_authors",
    "acc5", "acc7", "mae", "corr", "n_non0",
]  # fmt: skip

both = pytest.mark.parametrize(
    ("convention", "right"),
    [pytest.param("non0", True, id="ours"), pytest.param("authors", False, id="theirs")],
)
approx = functools.partial(pytest.approx, rel=1e-9)


def _binary(result, convention):
    return {name: result[f"{name}_{convention}"] for name in ("acc2", "f1")}


@functools.cache
def _golden():
    arrays, _ = reference.load("metrics")
    return arrays


@pytest.mark.parametrize("case", CASES)
def test_golden_binary_metrics(case):
    arrays = reference.under(_golden(), f"mosei{case}/")
    logits, labels = arrays["logits"], arrays["labels"]
    result = sentiment_metrics(logits, labels)
    assert result["acc2_authors"] == approx(float(arrays["out/acc2"]))
    assert result["f1_authors"] == approx(float(arrays["out/f1"]))
    counted = labels != 3
    f1 = metrics.f1_score(
        labels[counted] > 3, logits[counted].argmax(axis=1) >= 3, average="weighted"
    )
    assert f1 == approx(float(arrays["corrected/f1_true_first"]))
    assert result["acc7"] == approx(float(arrays["out/top1"]) / 100, rel=2**-23)


@pytest.mark.parametrize("exclude_zero", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_golden_regression_metrics(case, exclude_zero):
    arrays = reference.under(_golden(), f"orig{case}/")
    predictions, truths = arrays["preds"], arrays["truths"]
    result = sentiment_regression_metrics(predictions, truths)
    ours = {name: result[name] for name in ("mae", "corr", "acc7", "acc5")}
    assert result["n_non0"] == np.count_nonzero(truths)
    # Numbers with the signs of the predictions, in the range of truths.
    signs = np.clip(predictions, -3, 3)
    if exclude_zero:
        zero = truths == 0
        exchanged = sentiment_regression_metrics(truths[~zero], signs[~zero])
        ours |= _binary(exchanged, "non0")
        assert result["acc2_non0"] == exchanged["acc2_non0"]
    else:
        ours |= _binary(sentiment_regression_metrics(-truths, -signs), "has0")
    expected = reference.under(arrays, f"exclude_zero_{exclude_zero}/out/")
    assert ours == approx({name: float(value) for name, value in expected.items()})


def test_classes_by_hand():
    # Neutral is the likeliest class of `up`, yet P(4..6) is 0.4 and P(0..2) 0.3.
    up = np.array([0.1, 0.1, 0.1, 0.3, 0.1, 0.1, 0.2])
    low = np.array([0.4, 0.2, 0.1, 0.3, 0, 0, 0]) + 1e-300
    result = sentiment_metrics(
        np.log([up, up, up, up[::-1], low]), np.array([4, 6, 0, 5, 3], np.uint8)
    )
    # Expected sentiments: 0.1 (-3 -2 -1 +1 +2) + 0.2 (3) = 0.3, and -1.2 - 0.4 - 0.1 = -1.7.
    points, truths = np.array([0.3, 0.3, 0.3, -0.3, -1.7]), np.array([1, 3, -3, 2, 0])
    assert result == {
        "truth": "rounded",
        # Only the last is predicted negative: P(3..6) is 0.6 or more in the others.
        # Recall and precision are 3/4 for not negative, and 0 for negative.
        "acc2_has0": 3 / 5,
        "f1_has0": approx(4 / 5 * 3 / 4),
        # 2 of 3 positive and 0 of 1 negative are correct: F1 is 2/3 and 0.
        "acc2_non0": 2 / 4,
        "f1_non0": approx(3 / 4 * 2 / 3),
        # Neutral is the likeliest class of all four, which makes them positive: 3 of 4 are
        # correct, F1 is 6/7, and its weight 1.
        "acc2_authors": 3 / 4,
        "f1_authors": approx(6 / 7),
        # Rounded: 0, 0, 0, 0, -2 against 1, 2, -2, 2, 0.
        "acc5": 0,
        # The likeliest class of the last is -3.
        "acc7": 0,
        "mae": approx(np.abs(points - truths).mean()),
        "corr": approx(np.corrcoef(points, truths)[0, 1]),
        "n_non0": 4,
    }


def test_numbers_by_hand():
    # Truths and predictions include halves, zeros, and predictions out of range.
    truths = np.array([-3, -2.5, -1.5, -0.5, 0, 0, 0.5, 1.5, 2.5, 3])
    predictions = np.array([-4, -1.5, -0.5, 0, 0, -0.1, -0.2, 2.5, 2, 7])
    result = sentiment_regression_metrics(predictions, truths)
    errors = [1, 1, 1, 0.5, 0, 0.1, 0.7, 1, 0.5, 4]
    assert result == {
        "truth": "real",
        # 4 of 6 not negative and 3 of 4 negative truths are correctly predicted.
        "acc2_has0": 7 / 10,
        "f1_has0": approx(0.6 * 8 / 11 + 0.4 * 6 / 9),
        # 3 of 4 positive and 4 of 4 negative truths are; a prediction of 0 is not positive.
        "acc2_non0": 7 / 8,
        "f1_non0": approx(0.5 * 6 / 7 + 0.5 * 8 / 9),
        # Truths -3, -2, -2, 2, 2, 3 and predictions -3, -2, 0, 2, 2, 3: one of six is wrong,
        # and four are predicted positive.
        "acc2_authors": 5 / 6,
        "f1_authors": approx(4 / 6 * 6 / 7 + 2 / 6 * 4 / 5),
        # Truths -2, -2, -2, 0, 0, 0, 0, 2, 2, 2; predictions -2, -2, 0, 0, 0, 0, 0, 2, 2, 2.
        "acc5": 9 / 10,
        # Truths -3, -2, -2, 0, 0, 0, 0, 2, 2, 3; predictions -3, -2, 0, 0, 0, 0, 0, 2, 2, 3.
        "acc7": 9 / 10,
        "mae": approx(np.mean(errors)),
        "corr": approx(np.corrcoef(predictions, truths)[0, 1]),
        "n_non0": 8,
    }


def test_metrics_of_numbers_agree_with_scikit_learn():
    truths = np.round(3 * RANDOM.uniform(-1, 1, size=400) * 6) / 6
    truths[::5] = 0
    predictions = truths + RANDOM.normal(size=400)
    predictions[::7] = 0
    result = sentiment_regression_metrics(predictions, truths)
    counted = truths != 0
    for convention, truth, predicted in (
        ("has0", truths >= 0, predictions >= 0),
        ("non0", truths[counted] > 0, predictions[counted] > 0),
    ):
        assert _binary(result, convention) == {
            "acc2": metrics.accuracy_score(truth, predicted),
            "f1": approx(metrics.f1_score(truth, predicted, average="weighted")),
        }
    assert result["acc2_has0"] != result["acc2_non0"]


def test_metrics_of_classes_agree_with_scikit_learn():
    probabilities, truths = scipy.special.softmax(LOGITS, axis=1), LABELS - 3
    expected = probabilities @ np.arange(-3, 4)
    result = sentiment_metrics(LOGITS, LABELS)
    assert result["acc7"] == metrics.accuracy_score(LABELS, LOGITS.argmax(axis=1))
    rounded = np.round(expected).clip(-2, 2)
    assert result["acc5"] == metrics.accuracy_score(truths.clip(-2, 2), rounded)
    assert result["mae"] == approx(metrics.mean_absolute_error(truths, expected))
    assert result["corr"] == approx(np.corrcoef(truths, expected)[0, 1])
    not_negative = probabilities[:, 3:].sum(axis=1) > 0.5
    assert _binary(result, "has0") == {
        "acc2": metrics.accuracy_score(truths >= 0, not_negative),
        "f1": approx(metrics.f1_score(truths >= 0, not_negative, average="weighted")),
    }


def test_certain_classes_equal_their_numbers():
    classes = RANDOM.integers(7, size=200)
    by_class = sentiment_metrics(1e3 * np.eye(7)[classes], LABELS)
    by_number = sentiment_regression_metrics(classes - 3.0, LABELS - 3.0)
    # A certain neutral ties positive with negative, so that neither form predicts positive.
    assert (by_class.pop("truth"), by_number.pop("truth")) == ("rounded", "real")
    assert by_class == approx(by_number)


@both
def test_20_positive_and_negative_are_treated_alike(convention, right):
    result = _binary(sentiment_metrics(LOGITS, LABELS), convention)
    reversed_ = _binary(sentiment_metrics(LOGITS[:, ::-1], 6 - LABELS), convention)
    assert (result == approx(reversed_)) == right


@both
def test_20_the_neutral_class_does_not_decide(convention, right):
    result = _binary(sentiment_metrics(LOGITS, LABELS), convention)
    for more in (5, 1000):
        likelier = sentiment_metrics(LOGITS + more * np.eye(7)[3], LABELS)
        assert (result == _binary(likelier, convention)) == right


@both
def test_21_f1_is_weighted_by_the_truth(convention, right):
    # All four are positive, and one is predicted negative: the F1 of positive is 6/7.
    logits, labels = np.eye(7)[[4, 5, 6, 0]], np.array([4, 5, 6, 6])
    by_class = sentiment_metrics(logits, labels)
    by_number = sentiment_regression_metrics(np.array([1.0, 2.0, 3.0, -3.0]), labels - 3.0)
    expected = 6 / 7 if right else 3 / 4 * 6 / 7
    assert by_class[f"f1_{convention}"] == by_number[f"f1_{convention}"] == approx(expected)


def test_equal_probabilities_are_negative_with_expectation_0():
    # Positive and negative are equally likely; with neutral, not negative is likelier.
    logits = np.log([[0.1, 0.3, 0.7, 0.2, 0.7, 0.3, 0.1], [0.1, 0.3, 0.7, 2.0, 0.7, 0.3, 0.1]])
    result = sentiment_metrics(logits, np.array([4, 2]))
    assert (result["acc2_non0"], result["acc2_has0"], result["acc2_authors"]) == (1 / 2, 1 / 2, 0)
    assert (result["mae"], result["corr"]) == (1, None)
    # Among equal classes the first counts as likeliest: -1 in the first example.
    assert result["acc7"] == 0
    assert sentiment_metrics(logits, np.array([2, 3]))["acc7"] == 1


@pytest.mark.parametrize("constant", [-1.0, 0.0, 0.4, 2.0])
def test_a_constant_prediction_has_no_correlation(constant):
    truths = LABELS - 3.0
    result = sentiment_regression_metrics(np.full(200, constant), truths)
    assert result["corr"] is None
    assert result["acc2_has0"] == np.mean((truths >= 0) == (constant >= 0))
    assert result["acc2_non0"] == np.mean((truths > 0)[truths != 0] == (constant > 0))
    # The probabilities of shifted logits differ in their last bits.
    logits = LOGITS[0] + RANDOM.normal(size=(200, 1))
    assert sentiment_metrics(logits, LABELS)["corr"] is None


def test_neutral_truths_leave_some_metrics_undefined():
    expected = dict.fromkeys(("acc2_non0", "f1_non0", "acc2_authors", "f1_authors"))
    expected |= {"n_non0": 0, "corr": None}
    by_class = sentiment_metrics(LOGITS, np.full(200, 3))
    by_number = sentiment_regression_metrics(LOGITS[:, 0], np.zeros(200))
    assert expected.items() <= by_class.items()
    assert expected.items() <= by_number.items()
    assert by_number["acc2_has0"] == (LOGITS[:, 0] >= 0).mean()
    # These truths round to neutral, yet have a sign.
    result = sentiment_regression_metrics(np.array([1.0, -2.0]), np.array([0.5, 0.2]))
    assert (result["acc2_non0"], result["n_non0"]) == (1 / 2, 2)
    assert result["acc2_authors"] is result["f1_authors"] is None


def test_a_single_true_class_has_metrics():
    result = sentiment_metrics(LOGITS, np.full(200, 6))
    assert result["corr"] is None
    assert result["n_non0"] == 200
    # If all truths are positive, the weighted F1 is the F1 of positive.
    share = result["acc2_non0"]
    assert result["f1_non0"] == approx(2 * share / (1 + share))


@pytest.mark.parametrize(
    "result",
    [
        sentiment_metrics(LOGITS, LABELS),
        sentiment_metrics(LOGITS[:1], LABELS[:1]),
        sentiment_regression_metrics(np.array([1.0]), np.array([2.0])),
        sentiment_regression_metrics(np.array([1e30, -1e30]), np.array([0.0, 3.0])),
    ],
)
def test_metrics_are_json_by_explicit_names(result):
    assert list(result) == NAMES
    assert json.loads(json.dumps(result, allow_nan=False)) == result


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
        ([1.0, 2.0, 0.0], [3.5, 3.0, -4.0], r"truths: \[-4.0, 3.5\] are not from -3 to 3"),
    ],
)
def test_wrong_numbers(predictions, truths, message):
    with pytest.raises(ValueError, match=message):
        sentiment_regression_metrics(predictions, truths)
