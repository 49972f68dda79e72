"""Ranking metrics, by hand and against the values of the authors' code.

| keys of `metrics.npz` | checked function |
| --- | --- |
| `{mosei0..2,vgg4,vgg10,vgg100,vgg_missing_class}/out/top{1,3,5}` | `top_k_accuracy`; theirs \
are percent in float32, and for 4 classes their top5 is a top2 |
| the same, `/out/{mAP,mAUC,dprime}`, `/out/{AP,auc}_per_class` | \
`ranking_metrics(faithful=True)`; theirs are NaN where ours are None |
| `mosei*/corrected/dprime_mean_of_classes` | the mean of its `d_prime` over the classes |
| `mosei*/corrected/{mAP,mAUC}_softmax` | `ranking_metrics()` |
| `mosei*/{out/{acc2,f1},corrected/f1_true_first}`, `orig*` | in `test_sentiment.py` |

`sklearn_version` is the version of scikit-learn that computed them.
"""

import functools
import json
import math

import numpy as np
import pytest
import reference
import scipy.special
from sklearn import metrics

from sft_jax.evaluation.ranking import d_prime, ranking_metrics, top_k_accuracy

FILES = ("mosei0", "mosei1", "mosei2", "vgg4", "vgg10", "vgg100", "vgg_missing_class")
NAMES = ("a", "b", "c")
LABELS = np.array([0, 0, 1, 1, 2, 2])
LOGITS = np.random.default_rng(0).normal(size=(6, 3))

UNDEFINED = {"average_precision": None, "roc_auc": None, "d_prime": None}

both = pytest.mark.parametrize(
    ("faithful", "right"),
    [pytest.param(False, True, id="ours"), pytest.param(True, False, id="theirs")],
)
approx = functools.partial(pytest.approx, rel=1e-9)


def _numbered(count):
    return [f"class{i}" for i in range(count)]


@functools.cache
def _golden():
    arrays, _ = reference.load("metrics")
    return arrays


def _case(name):
    """Logits, labels, and the remaining arrays of a case."""
    arrays = reference.under(_golden(), f"{name}/")
    return arrays.pop("logits"), arrays.pop("labels"), arrays


@pytest.mark.parametrize("name", FILES)
def test_golden_top_k(name):
    logits, labels, expected = _case(name)
    expected = reference.under(expected, "out/top")
    assert sorted(expected) == (["1", "3"] if name.startswith("mosei") else ["1", "5"])
    for k, percent in expected.items():
        accuracy = top_k_accuracy(logits, labels, 2 if name == "vgg4" and k == "5" else int(k))
        assert 100 * accuracy == pytest.approx(float(percent), rel=2**-23)


@pytest.mark.parametrize("name", FILES)
def test_golden_ranking(name):
    logits, labels, expected = _case(name)
    names = _numbered(logits.shape[1])
    result = ranking_metrics(logits, labels, names, faithful=True)
    per_class = [result["per_class"][name] for name in names]
    ours = {
        "out/mAP": result["mAP"],
        "out/mAUC": result["mAUC"],
        "out/dprime": result["d_prime"],
        "out/AP_per_class": [values["average_precision"] for values in per_class],
        "out/auc_per_class": [values["roc_auc"] for values in per_class],
    }
    if name.startswith("mosei"):
        ours["corrected/dprime_mean_of_classes"] = np.mean(
            [values["d_prime"] for values in per_class]
        )
    corrected = ranking_metrics(logits, labels, names)
    ours["corrected/mAP_softmax"] = corrected["mAP"]
    ours["corrected/mAUC_softmax"] = corrected["mAUC"]
    compared = [key for key in ours if key in expected]
    assert len(compared) == (8 if name.startswith("mosei") else 3)
    for key in compared:
        # None becomes NaN.
        np.testing.assert_allclose(
            np.array(ours[key], float), expected[key], rtol=1e-9, atol=0, err_msg=key
        )


def test_golden_missing_class_leaves_our_metrics_defined():
    logits, labels, _ = _case("vgg_missing_class")
    result = ranking_metrics(logits, labels, _numbered(10))
    assert 9 not in labels
    assert result["absent_classes"] == ["class9"]
    assert result["per_class"]["class9"] == UNDEFINED
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    areas = [metrics.roc_auc_score(labels == i, probabilities[:, i]) for i in range(9)]
    precisions = [
        metrics.average_precision_score(labels == i, probabilities[:, i]) for i in range(9)
    ]
    assert result["mAUC"] == approx(np.mean(areas))
    assert result["mAP"] == approx(np.mean(precisions))


def test_ranking_by_hand():
    # Sorted by the probability of class 1, the examples have classes 1, 0, 1, 0.
    logits = np.log([[0.1, 0.9], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2]])
    result = ranking_metrics(logits, np.array([1, 0, 1, 0]), ("no", "yes"))
    # Precision is 1 at the first example of the class and 2/3 at the second. The other class
    # has the same values, from below. 3 of 4 pairs are in order, and Phi(0.674490) = 3/4.
    expected = {
        "average_precision": approx((1 + 2 / 3) / 2),
        "roc_auc": approx(3 / 4),
        "d_prime": approx(math.sqrt(2) * 0.6744897501960817),
    }
    assert result == {
        "top1": 1 / 2,
        "mAP": expected["average_precision"],
        "mAUC": expected["roc_auc"],
        "d_prime": expected["d_prime"],
        "absent_classes": [],
        "per_class": {"no": expected, "yes": expected},
    }


def test_equal_probabilities_count_as_ties():
    # A constant prediction of 1, 2 and 3 examples of the classes.
    labels = np.array([0, 1, 1, 2, 2, 2])
    result = ranking_metrics(np.zeros((6, 3)), labels, NAMES)
    assert [values["roc_auc"] for values in result["per_class"].values()] == [1 / 2] * 3
    precisions = [values["average_precision"] for values in result["per_class"].values()]
    assert precisions == approx([1 / 6, 2 / 6, 3 / 6])
    assert (result["mAUC"], result["d_prime"]) == (1 / 2, 0)
    assert result["mAP"] == approx(1 / 3)
    assert result["top1"] == 1 / 6


@pytest.mark.parametrize("ties", [False, True])
def test_ranking_agrees_with_scikit_learn(ties):
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(60, 6)), random.permutation(np.arange(60) % 6)
    if ties:
        logits[::2] = logits[0]
    probabilities = scipy.special.softmax(logits, axis=1)
    result = ranking_metrics(logits, labels, _numbered(6))
    assert result["mAUC"] == approx(
        metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    one_hot = np.eye(6)[labels]
    assert result["mAP"] == approx(
        metrics.average_precision_score(one_hot, probabilities, average="macro")
    )
    for k in (1, 5):
        assert result[f"top{k}"] == approx(metrics.top_k_accuracy_score(labels, probabilities, k=k))


@pytest.mark.parametrize("classes", [2, 4, 5, 6])
def test_top_5_needs_five_classes(classes):
    logits = np.random.default_rng(0).normal(size=(8, classes))
    result = ranking_metrics(logits, np.arange(8) % classes, _numbered(classes))
    assert ("top5" in result) == (classes >= 5)
    if classes == 5:
        assert result["top5"] == 1


def test_among_equal_logits_the_first_classes_count():
    logits = np.zeros((3, 3))
    assert [top_k_accuracy(logits, np.arange(3), k) for k in (1, 2, 3)] == approx([1 / 3, 2 / 3, 1])


@both
def test_22_a_class_without_examples_changes_nothing(faithful, right):
    padded = np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-1000.0)
    expected = ranking_metrics(LOGITS, LABELS, NAMES, faithful=faithful)
    result = ranking_metrics(padded, LABELS, (*NAMES, "d"), faithful=faithful)
    assert (expected["absent_classes"], result["absent_classes"]) == ([], ["d"])
    assert result["per_class"]["d"] == UNDEFINED
    for metric in ("mAP", "mAUC", "d_prime"):
        assert (result[metric] == expected[metric]) == right


@both
def test_23_shifting_the_logits_of_an_example_changes_nothing(faithful, right):
    # Neither probabilities nor loss depend on the shift, so training does not determine it.
    shifted = LOGITS + 10.0 * np.arange(6)[:, None]
    expected = ranking_metrics(LOGITS, LABELS, NAMES, faithful=faithful)
    result = ranking_metrics(shifted, LABELS, NAMES, faithful=faithful)
    for metric in ("mAP", "mAUC", "d_prime"):
        assert (result[metric] == approx(expected[metric])) == right


def test_one_class_has_no_roc_curve():
    result = ranking_metrics(LOGITS, np.ones(6, int), NAMES)
    assert result["mAP"] == result["per_class"]["b"]["average_precision"] == 1
    assert result["mAUC"] is result["d_prime"] is None
    assert result["absent_classes"] == ["a", "c"]


def test_an_infinite_d_prime_is_none():
    result = ranking_metrics(50 * np.eye(3)[LABELS], LABELS, NAMES)
    assert result["mAUC"] == result["mAP"] == 1
    assert result["d_prime"] is None
    assert d_prime(0.0) is None
    assert d_prime(0.5) == 0


@both
def test_metrics_are_json(faithful, right):
    result = ranking_metrics(LOGITS, np.array([0, 0, 1, 1, 1, 0]), NAMES, faithful=faithful)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (LOGITS[:0], LABELS[:0], r"logits: expected \[n, c\], .* got \[0, 3\]"),
        (LOGITS[:, :0], LABELS, r"logits: expected \[n, c\], .* got \[6, 0\]"),
        (LOGITS[0], LABELS, r"logits: expected \[n, c\], .* got \[3\]"),
        (LOGITS, LABELS[:5], r"labels: expected one for each of 6 examples, got \[5\]"),
        (LOGITS, LABELS[:, None], r"labels: expected .*, got \[6, 1\]"),
        (LOGITS, LABELS + 1, r"labels: \[3\] are not from 0 to 2"),
        (LOGITS, LABELS - 1, r"labels: \[-1\] are not from 0 to 2"),
        (LOGITS, LABELS * 1.0, "labels: expected integers, got float64"),
        (LOGITS * np.nan, LABELS, "logits: 18 are NaN or infinite"),
    ],
)
def test_wrong_arrays(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        ranking_metrics(logits, labels, NAMES)


def test_wrong_names():
    with pytest.raises(ValueError, match="2 class names for logits of 3 classes"):
        ranking_metrics(LOGITS, LABELS, NAMES[:2])


@pytest.mark.parametrize("k", [0, 4])
def test_wrong_k(k):
    with pytest.raises(ValueError, match=f"k={k} of top-k accuracy must be from 1 to 3"):
        top_k_accuracy(LOGITS, LABELS, k)
