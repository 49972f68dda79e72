"""Paired differences and their intervals, held to computations by hand."""

import numpy as np
import pytest
from rows_of_numbers import row, without_predictions

from sft_jax.compare import intervals
from sft_jax.compare.differences import difference, values_by_label
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics


def test_the_interval_over_runs_is_students_t():
    # Mean 0.02, deviation 0.01; the quantile of t with 2 degrees of freedom is 4.302653.
    half = 4.302653 * 0.01 / 3**0.5
    low, high = intervals.over_runs([0.01, 0.03, 0.02], 0.95)
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-7)
    # 6.313752 is the quantile of 1 degree of freedom for 90 %.
    assert intervals.over_runs([0.0, 0.2], 0.9) == pytest.approx((0.1 - 0.6313752, 0.1 + 0.6313752))
    assert intervals.over_runs([0.1], 0.95) is None
    assert intervals.over_runs([0.1, 0.1], 0.95) == pytest.approx((0.1, 0.1))


def test_the_bootstrap_of_two_examples_has_three_means():
    # Differences of 0 and 1: the mean is 0, 0.5 or 1 with probabilities 1/4, 1/2 and 1/4.
    first, second = {"": [lambda i: 0.0]}, {"": [lambda i: float(np.array([0.0, 1.0])[i].mean())]}
    assert intervals.over_examples(first, second, {"": 2}, 0.95) == (0.0, 1.0)
    assert intervals.over_examples(first, second, {"": 2}, 0.4) == (0.5, 0.5)


def test_the_bootstrap_of_many_examples_is_nearly_normal():
    random = np.random.default_rng(1)
    base, other = random.random(2000) < 0.7, random.random(2000) < 0.8
    found = difference(
        row("b", {("", 0): other}), row("a", {("", 0): base}), "accuracy", 0.95, 1000
    )
    each = other.astype(float) - base
    half = 1.959964 * each.std() / 2000**0.5
    assert found.mean == pytest.approx(each.mean())
    assert found.examples == pytest.approx((each.mean() - half, each.mean() + half), abs=0.1 * half)
    assert (found.pairs, found.runs, found.both) == (1, None, None)


def test_the_bootstrap_over_both_draws_pairs_and_examples():
    # Differences of 0 and 1 by seed, whatever the example: as the bootstrap of two examples.
    pairs = [[("", lambda i: 0.0)], [("", lambda i: 1.0)]]
    zero = [[("", lambda i: 0.0)]] * 2
    assert intervals.over_both(zero, pairs, {"": 3}, 0.95) == (0.0, 1.0)
    assert intervals.over_both(zero, pairs, {"": 3}, 0.4) == (0.5, 0.5)
    # One example of two counts, for all pairs alike: its share in a resample is 0, 1/2 or 1.
    one = [[("", lambda i: float((i == 1).mean()))]] * 2
    assert intervals.over_both(zero, one, {"": 2}, 0.95) == (0.0, 1.0)
    assert intervals.over_both(zero[:1], one[:1], {"": 2}, 0.95) is None
    assert intervals.over_both(zero, [[("", lambda i: None)]] * 2, {"": 2}, 0.95) is None


def test_the_interval_over_both_is_wider_than_that_over_examples():
    base = row("a", {("", seed): [1, 0, 1, 0] * 9 for seed in range(3)})
    other = row("b", {("", seed): [1, 1, 0, seed % 2] * 9 for seed in range(3)})
    found = difference(other, base, "accuracy", 0.95, 200)
    widths = [high - low for low, high in (found.examples, found.both)]
    assert widths[1] > widths[0]
    assert found.both[0] < found.mean < found.both[1]


def test_both_sides_get_the_same_examples():
    right = np.arange(50) % 3 > 0
    rows = [row(name, {("", 0): right}) for name in ("a", "b")]
    found = difference(rows[1], rows[0], "macro_f1", 0.95, 50)
    assert found.examples == (0.0, 0.0)


def test_other_metrics_are_computed_anew():
    labels = np.array([0, 0, 1, 1])
    logits = np.eye(2, dtype=np.float32)[[0, 1, 1, 1]]
    predictions = Predictions(np.arange(4), labels, logits, np.ones(4, np.float32))
    score = intervals.scorer(predictions, "balanced_accuracy", ("no", "yes"), ())
    # Recalls of 1/2 and 1; of the first and third example alone both are 1.
    assert score(np.arange(4)) == pytest.approx(0.75)
    assert score(np.array([0, 2, 2])) == 1
    accuracy = intervals.scorer(predictions, "accuracy", ("no", "yes"), ())
    assert accuracy(np.array([1, 1, 1, 0])) == 0.25


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("single_label", ("roc_auc", "average_precision")),
        ("multi_label", ("macro_roc_auc", "macro_average_precision")),
    ],
)
def test_areas_of_drawn_examples_are_those_of_the_metrics(task, metrics):
    random = np.random.default_rng(0)
    # Many scores are equal, and the last label is rare.
    logits = random.integers(-2, 3, (40, 2)).astype(np.float32)
    labels = random.integers(2, size=40)
    if task == "multi_label":
        labels = np.stack([labels, np.arange(40) == 0], axis=1).astype(np.float32)
    every = Predictions(np.arange(40), labels, logits, np.ones(40, np.float32), task=task)
    for number in range(20):
        drawn = np.zeros(3, int) if number == 0 else random.integers(40, size=40)
        some = Predictions(drawn, labels[drawn], logits[drawn], np.ones(len(drawn)), task=task)
        expected = task_metrics(some, ("a", "b"))
        for metric in metrics:
            score = intervals.scorer(every, metric, ("a", "b"), ())
            assert score(drawn) == pytest.approx(expected[metric], abs=1e-12)
    assert expected[metrics[0]] is not None


def test_runs_are_paired_by_seed():
    base = row("a", {("", 0): [1, 0, 0, 0], ("", 1): [1, 1, 0, 0], ("", 7): [1, 1, 1, 1]})
    other = row("b", {("", 1): [1, 1, 1, 1], ("", 0): [1, 1, 0, 0], ("", 8): [0, 0, 0, 0]})
    found = difference(other, base, "accuracy", 0.95, 0)
    # Seed 0 gains 1/4 and seed 1 gains 1/2; the quantile of t is 12.7062.
    assert (found.mean, found.pairs, found.examples) == (0.375, 2, None)
    half = 12.7062 * 0.125
    assert found.runs == pytest.approx((0.375 - half, 0.375 + half), abs=1e-5)


def test_without_a_common_seed_means_are_compared():
    base, other = row("a", {("", 0): [1, 0]}), row("b", {("", 1): [1, 1]})
    found = difference(other, base, "accuracy", 0.95, 100)
    assert (found.mean, found.pairs, found.runs) == (0.5, 0, None)
    assert found.examples == (0.0, 1.0)
    assert difference(other, without_predictions(base), "accuracy", 0.95, 100).examples is None


def test_folds_are_means_over_their_seeds():
    base = row("a", {("1", 0): [1, 0], ("1", 1): [0, 0], ("2", 0): [1, 1, 1, 1]})
    assert values_by_label(base, "accuracy") == {"fold 1": 0.25, "fold 2": 1.0}
    other = row("b", {("1", 0): [1, 1], ("1", 1): [1, 1], ("2", 0): [1, 1, 1, 0]})
    found = difference(other, base, "accuracy", 0.95, 200)
    assert (found.mean, found.pairs) == ((0.75 - 0.25) / 2, 2)
    assert found.examples[0] < found.mean < found.examples[1]
    assert found.both[0] < found.mean < found.both[1]


def test_an_undefined_metric_has_no_difference():
    base, other = row("a", {("", 0): [1, 0]}), row("b", {("", 0): [1, 1]})
    base.units["", 0].result["kappa"] = None
    other.units["", 0].result["kappa"] = 0.5
    assert difference(other, base, "kappa", 0.95, 10) is None
