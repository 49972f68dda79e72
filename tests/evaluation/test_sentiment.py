"""Metrics of sentiment, by hand, against scikit-learn and what the authors' code returns.

| keys of `metrics.npz` | what they check |
| --- | --- |
| `mosei{0..2}/out/{acc2,f1}` | `acc2_authors` and `f1_authors` of `sentiment_metrics` |
| `mosei{0..2}/corrected/f1_true_first` | the F1 that theirs is with weights of the truth |
| `orig{0..2}/exclude_zero_*/out/{mae,corr,acc5,acc7}` | `sentiment_regression_metrics` |
| `orig{0..2}/exclude_zero_*/out/{acc2,f1}` | the same, of truth and prediction exchanged and, \
with the zeros, negated: theirs weighs by the prediction and compares `> 0` where `has0` compares \
`>= 0` |

The others are in the table of `test_ranking.py`.
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


def _binary(found, convention):
    return {name: found[f"{name}_{convention}"] for name in ("acc2", "f1")}


@functools.cache
def _golden():
    arrays, _ = reference.load("metrics")
    return arrays


@pytest.mark.parametrize("case", CASES)
def test_golden_binary_metrics(case):
    arrays = reference.under(_golden(), f"mosei{case}/")
    logits, labels = arrays["logits"], arrays["labels"]
    found = sentiment_metrics(logits, labels)
    assert found["acc2_authors"] == approx(float(arrays["out/acc2"]))
    assert found["f1_authors"] == approx(float(arrays["out/f1"]))
    counted = labels != 3
    f1 = metrics.f1_score(
        labels[counted] > 3, logits[counted].argmax(axis=1) >= 3, average="weighted"
    )
    assert f1 == approx(float(arrays["corrected/f1_true_first"]))
    assert found["acc7"] == approx(float(arrays["out/top1"]) / 100, rel=2**-23)


@pytest.mark.parametrize("exclude_zero", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_golden_regression_metrics(case, exclude_zero):
    arrays = reference.under(_golden(), f"orig{case}/")
    predictions, truths = arrays["preds"], arrays["truths"]
    found = sentiment_regression_metrics(predictions, truths)
    ours = {name: found[name] for name in ("mae", "corr", "acc7", "acc5")}
    assert found["n_non0"] == np.count_nonzero(truths)
    # What has the sign of the predictions, and is in range as truths must be.
    signs = np.clip(predictions, -3, 3)
    if exclude_zero:
        zero = truths == 0
        exchanged = sentiment_regression_metrics(truths[~zero], signs[~zero])
        ours |= _binary(exchanged, "non0")
        assert found["acc2_non0"] == exchanged["acc2_non0"]
    else:
        ours |= _binary(sentiment_regression_metrics(-truths, -signs), "has0")
    expected = reference.under(arrays, f"exclude_zero_{exclude_zero}/out/")
    assert ours == approx({name: float(value) for name, value in expected.items()})


def test_classes_by_hand():
    # P(4..6) is 0.4 and P(0..2) 0.3, though neutral is the likeliest; then the reverse.
    up = np.array([0.1, 0.1, 0.1, 0.3, 0.1, 0.1, 0.2])
    low = np.array([0.4, 0.2, 0.1, 0.3, 0, 0, 0]) + 1e-300
    found = sentiment_metrics(
        np.log([up, up, up, up[::-1], low]), np.array([4, 6, 0, 5, 3], np.uint8)
    )
    # Expected: 0.1 (-3 -2 -1 +1 +2) + 0.2 (3) = 0.3, and -1.2 - 0.4 - 0.1 = -1.7.
    points, truths = np.array([0.3, 0.3, 0.3, -0.3, -1.7]), np.array([1, 3, -3, 2, 0])
    assert found == {
        "truth": "rounded",
        # Only the last is predicted negative: P(3..6) is 0.6 or more in the others.
        # Not negative: 3 of 4 true, 3 of 4 predicted. Negative: 0 of 1, of 1.
        "acc2_has0": 3 / 5,
        "f1_has0": approx(4 / 5 * 3 / 4),
        # Of 3 positive, 2 found; of 1 negative, none: F1 is 2/3 and 0.
        "acc2_non0": 2 / 4,
        "f1_non0": approx(3 / 4 * 2 / 3),
        # All four have neutral as the likeliest, so are positive: 3 of 4, F1 6/7, weight 1.
        "acc2_authors": 3 / 4,
        "f1_authors": approx(6 / 7),
        # Rounded: 0, 0, 0, 0, -2 against 1, 2, -2, 2, 0.
        "acc5": 0,
        # -3 is the likeliest of the last.
        "acc7": 0,
        "mae": approx(np.abs(points - truths).mean()),
        "corr": approx(np.corrcoef(points, truths)[0, 1]),
        "n_non0": 4,
    }


def test_numbers_by_hand():
    # Halves, zeros on either side, and predictions out of range.
    truths = np.array([-3, -2.5, -1.5, -0.5, 0, 0, 0.5, 1.5, 2.5, 3])
    predictions = np.array([-4, -1.5, -0.5, 0, 0, -0.1, -0.2, 2.5, 2, 7])
    found = sentiment_regression_metrics(predictions, truths)
    errors = [1, 1, 1, 0.5, 0, 0.1, 0.7, 1, 0.5, 4]
    assert found == {
        "truth": "real",
        # Truths not negative: 6, of which 4 are found; negative: 4, of which 3.
        "acc2_has0": 7 / 10,
        "f1_has0": approx(0.6 * 8 / 11 + 0.4 * 6 / 9),
        # Positive: 4, of which 3 are found; negative: 4, all found (0 is not positive).
        "acc2_non0": 7 / 8,
        "f1_non0": approx(0.5 * 6 / 7 + 0.5 * 8 / 9),
        # Truths -3, -2, -2, 2, 2, 3, predictions -3, -2, 0, 2, 2, 3: one of six wrong, four
        # predicted positive.
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


def test_numbers_are_what_scikit_learn_says():
    truths = np.round(3 * RANDOM.uniform(-1, 1, size=400) * 6) / 6
    truths[::5] = 0
    predictions = truths + RANDOM.normal(size=400)
    predictions[::7] = 0
    found = sentiment_regression_metrics(predictions, truths)
    counted = truths != 0
    for convention, truth, predicted in (
        ("has0", truths >= 0, predictions >= 0),
        ("non0", truths[counted] > 0, predictions[counted] > 0),
    ):
        assert _binary(found, convention) == {
            "acc2": metrics.accuracy_score(truth, predicted),
            "f1": approx(metrics.f1_score(truth, predicted, average="weighted")),
        }
    assert found["acc2_has0"] != found["acc2_non0"]


def test_classes_are_what_scikit_learn_says():
    probabilities, truths = scipy.special.softmax(LOGITS, axis=1), LABELS - 3
    expected = probabilities @ np.arange(-3, 4)
    found = sentiment_metrics(LOGITS, LABELS)
    assert found["acc7"] == metrics.accuracy_score(LABELS, LOGITS.argmax(axis=1))
    rounded = np.round(expected).clip(-2, 2)
    assert found["acc5"] == metrics.accuracy_score(truths.clip(-2, 2), rounded)
    assert found["mae"] == approx(metrics.mean_absolute_error(truths, expected))
    assert found["corr"] == approx(np.corrcoef(truths, expected)[0, 1])
    not_negative = probabilities[:, 3:].sum(axis=1) > 0.5
    assert _binary(found, "has0") == {
        "acc2": metrics.accuracy_score(truths >= 0, not_negative),
        "f1": approx(metrics.f1_score(truths >= 0, not_negative, average="weighted")),
    }


def test_certain_classes_are_as_good_as_their_numbers():
    classes = RANDOM.integers(7, size=200)
    of_classes = sentiment_metrics(1e3 * np.eye(7)[classes], LABELS)
    of_numbers = sentiment_regression_metrics(classes - 3.0, LABELS - 3.0)
    # Between positive and negative, neutral is a tie, and so not positive for either.
    assert (of_classes.pop("truth"), of_numbers.pop("truth")) == ("rounded", "real")
    assert of_classes == approx(of_numbers)


@both
def test_20_positive_and_negative_are_treated_alike(convention, right):
    found = _binary(sentiment_metrics(LOGITS, LABELS), convention)
    reversed_ = _binary(sentiment_metrics(LOGITS[:, ::-1], 6 - LABELS), convention)
    assert (found == approx(reversed_)) == right


@both
def test_20_the_neutral_class_does_not_decide(convention, right):
    found = _binary(sentiment_metrics(LOGITS, LABELS), convention)
    for more in (5, 1000):
        likelier = sentiment_metrics(LOGITS + more * np.eye(7)[3], LABELS)
        assert (found == _binary(likelier, convention)) == right


@both
def test_21_f1_is_weighted_by_the_truth(convention, right):
    # All are positive, and of 4 one is predicted negative: the F1 of positive is 6/7.
    logits, labels = np.eye(7)[[4, 5, 6, 0]], np.array([4, 5, 6, 6])
    of_classes = sentiment_metrics(logits, labels)
    of_numbers = sentiment_regression_metrics(np.array([1.0, 2.0, 3.0, -3.0]), labels - 3.0)
    expected = 6 / 7 if right else 3 / 4 * 6 / 7
    assert of_classes[f"f1_{convention}"] == of_numbers[f"f1_{convention}"] == approx(expected)


def test_equal_probabilities_are_negative_and_an_expected_0():
    # Of positive and negative neither is likelier; neutral makes the others not negative.
    logits = np.log([[0.1, 0.3, 0.7, 0.2, 0.7, 0.3, 0.1], [0.1, 0.3, 0.7, 2.0, 0.7, 0.3, 0.1]])
    found = sentiment_metrics(logits, np.array([4, 2]))
    assert (found["acc2_non0"], found["acc2_has0"], found["acc2_authors"]) == (1 / 2, 1 / 2, 0)
    assert (found["mae"], found["corr"]) == (1, None)
    # Of equal classes the first is the likeliest, -1 of the first example.
    assert found["acc7"] == 0
    assert sentiment_metrics(logits, np.array([2, 3]))["acc7"] == 1


@pytest.mark.parametrize("constant", [-1.0, 0.0, 0.4, 2.0])
def test_a_constant_prediction_has_no_correlation(constant):
    truths = LABELS - 3.0
    found = sentiment_regression_metrics(np.full(200, constant), truths)
    assert found["corr"] is None
    assert found["acc2_has0"] == np.mean((truths >= 0) == (constant >= 0))
    assert found["acc2_non0"] == np.mean((truths > 0)[truths != 0] == (constant > 0))
    # Shifted logits differ in the last bits of their probabilities.
    logits = LOGITS[0] + RANDOM.normal(size=(200, 1))
    assert sentiment_metrics(logits, LABELS)["corr"] is None


def test_without_sentiment_what_leaves_neutral_out_is_none():
    expected = {f"{name}_{of}": None for name in ("acc2", "f1") for of in ("non0", "authors")}
    expected |= {"n_non0": 0, "corr": None}
    of_classes = sentiment_metrics(LOGITS, np.full(200, 3))
    of_numbers = sentiment_regression_metrics(LOGITS[:, 0], np.zeros(200))
    assert expected.items() <= of_classes.items()
    assert expected.items() <= of_numbers.items()
    assert of_numbers["acc2_has0"] == (LOGITS[:, 0] >= 0).mean()
    # They round to neutral, yet have a sign.
    found = sentiment_regression_metrics(np.array([1.0, -2.0]), np.array([0.5, 0.2]))
    assert (found["acc2_non0"], found["n_non0"]) == (1 / 2, 2)
    assert found["acc2_authors"] is found["f1_authors"] is None


def test_one_class_alone_is_defined():
    found = sentiment_metrics(LOGITS, np.full(200, 6))
    assert found["corr"] is None
    assert found["n_non0"] == 200
    # Where all are positive, the weighted F1 is that of positive.
    share = found["acc2_non0"]
    assert found["f1_non0"] == approx(2 * share / (1 + share))


@pytest.mark.parametrize(
    "found",
    [
        sentiment_metrics(LOGITS, LABELS),
        sentiment_metrics(LOGITS[:1], LABELS[:1]),
        sentiment_regression_metrics(np.array([1.0]), np.array([2.0])),
        sentiment_regression_metrics(np.array([1e30, -1e30]), np.array([0.0, 3.0])),
    ],
)
def test_metrics_are_json_by_explicit_names(found):
    assert list(found) == NAMES
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
        ([1.0, 2.0, 0.0], [3.5, 3.0, -4.0], r"truths: \[-4.0, 3.5\] are not from -3 to 3"),
    ],
)
def test_wrong_numbers(predictions, truths, message):
    with pytest.raises(ValueError, match=message):
        sentiment_regression_metrics(predictions, truths)
