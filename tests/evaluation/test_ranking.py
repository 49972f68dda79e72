"""Ranking metrics, by hand and against what the authors' code returns.

| keys of `metrics.npz` | what they check |
| --- | --- |
| `{mosei0..2,vgg4,vgg10,vgg100,vgg_missing_class}/out/top{1,3,5}` | `top_k_accuracy`; theirs \
are percent in float32, and of 4 classes their top5 is a top2 |
| the same, `/out/{mAP,mAUC,dprime}`, `/out/{AP,auc}_per_class` | \
`ranking_metrics(faithful=True)`; theirs are NaN where ours are None |
| `mosei*/corrected/dprime_mean_of_classes` | the mean of its `d_prime` of classes |
| `mosei*/corrected/{mAP,mAUC}_softmax` | `ranking_metrics()` |
| `mosei*/{out/{acc2,f1},corrected/f1_true_first}`, `orig*` | in `test_sentiment.py` |

`sklearn_version` is that of scikit-learn that computed them.
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
    """Logits, labels, and the other arrays of a case."""
    arrays = reference.under(_golden(), f"{name}/")
    return arrays.pop("logits"), arrays.pop("labels"), arrays


@pytest.mark.parametrize("name", FILES)
def test_golden_top_k(name):
    logits, labels, expected = _case(name)
    expected = reference.under(expected, "out/top")
    assert sorted(expected) == (["1", "3"] if name.startswith("mosei") else ["1", "5"])
    for k, percent in expected.items():
        found = top_k_accuracy(logits, labels, 2 if name == "vgg4" and k == "5" else int(k))
        assert 100 * found == pytest.approx(float(percent), rel=2**-23)


@pytest.mark.parametrize("name", FILES)
def test_golden_ranking(name):
    logits, labels, expected = _case(name)
    names = _numbered(logits.shape[1])
    found = ranking_metrics(logits, labels, names, faithful=True)
    per_class = [found["per_class"][of] for of in names]
    ours = {
        "out/mAP": found["mAP"],
        "out/mAUC": found["mAUC"],
        "out/dprime": found["d_prime"],
        "out/AP_per_class": [of["average_precision"] for of in per_class],
        "out/auc_per_class": [of["roc_auc"] for of in per_class],
    }
    if name.startswith("mosei"):
        ours["corrected/dprime_mean_of_classes"] = np.mean([of["d_prime"] for of in per_class])
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


def test_golden_missing_class_leaves_the_right_metrics_defined():
    logits, labels, _ = _case("vgg_missing_class")
    found = ranking_metrics(logits, labels, _numbered(10))
    assert 9 not in labels
    assert found["absent_classes"] == ["class9"]
    assert found["per_class"]["class9"] == UNDEFINED
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    areas = [metrics.roc_auc_score(labels == i, probabilities[:, i]) for i in range(9)]
    precisions = [
        metrics.average_precision_score(labels == i, probabilities[:, i]) for i in range(9)
    ]
    assert found["mAUC"] == approx(np.mean(areas))
    assert found["mAP"] == approx(np.mean(precisions))


def test_ranking_by_hand():
    # Sorted by the probability of class 1, the examples are of classes 1, 0, 1, 0.
    logits = np.log([[0.1, 0.9], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2]])
    found = ranking_metrics(logits, np.array([1, 0, 1, 0]), ("no", "yes"))
    # Precision 1 at the first of its examples, 2/3 at the second; of the other class the same,
    # from below. 3 of 4 pairs are in order, and Phi(0.6744897501960817) = 3/4.
    of_both = {
        "average_precision": approx((1 + 2 / 3) / 2),
        "roc_auc": approx(3 / 4),
        "d_prime": approx(math.sqrt(2) * 0.6744897501960817),
    }
    assert found == {
        "top1": 1 / 2,
        "mAP": of_both["average_precision"],
        "mAUC": of_both["roc_auc"],
        "d_prime": of_both["d_prime"],
        "absent_classes": [],
        "per_class": {"no": of_both, "yes": of_both},
    }


def test_examples_of_equal_probability_are_neither_above_nor_below():
    # A constant prediction, with the classes as often as 1, 2 and 3 of 6.
    labels = np.array([0, 1, 1, 2, 2, 2])
    found = ranking_metrics(np.zeros((6, 3)), labels, NAMES)
    assert [of["roc_auc"] for of in found["per_class"].values()] == [1 / 2] * 3
    precisions = [of["average_precision"] for of in found["per_class"].values()]
    assert precisions == approx([1 / 6, 2 / 6, 3 / 6])
    assert (found["mAUC"], found["d_prime"]) == (1 / 2, 0)
    assert found["mAP"] == approx(1 / 3)
    assert found["top1"] == 1 / 6


@pytest.mark.parametrize("ties", [False, True])
def test_ranking_is_what_scikit_learn_says_of_the_probabilities(ties):
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(60, 6)), random.permutation(np.arange(60) % 6)
    if ties:
        logits[::2] = logits[0]
    probabilities = scipy.special.softmax(logits, axis=1)
    found = ranking_metrics(logits, labels, _numbered(6))
    assert found["mAUC"] == approx(
        metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    one_hot = np.eye(6)[labels]
    assert found["mAP"] == approx(
        metrics.average_precision_score(one_hot, probabilities, average="macro")
    )
    for k in (1, 5):
        assert found[f"top{k}"] == approx(metrics.top_k_accuracy_score(labels, probabilities, k=k))


@pytest.mark.parametrize("classes", [2, 4, 5, 6])
def test_there_is_no_top_5_of_fewer_classes(classes):
    logits = np.random.default_rng(0).normal(size=(8, classes))
    found = ranking_metrics(logits, np.arange(8) % classes, _numbered(classes))
    assert ("top5" in found) == (classes >= 5)
    if classes == 5:
        assert found["top5"] == 1


def test_of_equal_logits_the_first_classes_count():
    logits = np.zeros((3, 3))
    assert [top_k_accuracy(logits, np.arange(3), k) for k in (1, 2, 3)] == approx([1 / 3, 2 / 3, 1])


@both
def test_22_a_class_without_examples_changes_nothing(faithful, right):
    with_another = np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-1000.0)
    expected = ranking_metrics(LOGITS, LABELS, NAMES, faithful=faithful)
    found = ranking_metrics(with_another, LABELS, (*NAMES, "d"), faithful=faithful)
    assert (expected["absent_classes"], found["absent_classes"]) == ([], ["d"])
    assert found["per_class"]["d"] == UNDEFINED
    for metric in ("mAP", "mAUC", "d_prime"):
        assert (found[metric] == expected[metric]) == right


@both
def test_23_a_constant_added_to_the_logits_of_an_example_changes_nothing(faithful, right):
    # Probabilities do not depend on it, nor does the loss: no training fixes it.
    shifted = LOGITS + 10.0 * np.arange(6)[:, None]
    expected = ranking_metrics(LOGITS, LABELS, NAMES, faithful=faithful)
    found = ranking_metrics(shifted, LABELS, NAMES, faithful=faithful)
    for metric in ("mAP", "mAUC", "d_prime"):
        assert (found[metric] == approx(expected[metric])) == right


def test_one_class_has_no_roc_curve():
    found = ranking_metrics(LOGITS, np.ones(6, int), NAMES)
    assert found["mAP"] == found["per_class"]["b"]["average_precision"] == 1
    assert found["mAUC"] is found["d_prime"] is None
    assert found["absent_classes"] == ["a", "c"]


def test_an_infinite_d_prime_is_none():
    found = ranking_metrics(50 * np.eye(3)[LABELS], LABELS, NAMES)
    assert found["mAUC"] == found["mAP"] == 1
    assert found["d_prime"] is None
    assert d_prime(0.0) is None
    assert d_prime(0.5) == 0


@both
def test_metrics_are_json(faithful, right):
    found = ranking_metrics(LOGITS, np.array([0, 0, 1, 1, 1, 0]), NAMES, faithful=faithful)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


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
