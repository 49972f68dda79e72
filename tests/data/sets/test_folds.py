"""Folds keep groups whole and the classes of the folds alike."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from sft_jax.data.sets.folds import split_groups
from sft_jax.data.split_summary import SplitSummary

CLASSES = ("a", "b", "c")


def _groups(counts):
    return {
        f"group{i}": SplitSummary(int(sum(row)), dict(zip(CLASSES, map(int, row), strict=True)))
        for i, row in enumerate(counts)
    }


def test_folds_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    for folds in (3, 4, 7):
        counts = random.integers(20, 60, (17, 3))
        labels = np.concatenate([np.repeat(np.arange(3), row) for row in counts])
        groups = np.repeat(np.arange(17), counts.sum(1))
        theirs = [
            sorted({*groups[test].tolist()})
            for _, test in StratifiedGroupKFold(folds).split(labels, labels, groups)
        ]
        ours = [
            split_groups(_groups(counts), folds, fold, "single_label", CLASSES)["test"]
            for fold in range(folds)
        ]
        assert ours == [[f"group{i}" for i in some] for some in sorted(theirs)]


def test_a_fold_without_a_class_is_named():
    counts = [[5, 5, 0], [5, 5, 0], [5, 5, 5], [5, 5, 0]]
    with pytest.raises(ValueError, match=r"fold 0 of 4: the split \w+, .* has no example of c"):
        split_groups(_groups(counts), 4, 0, "single_label", CLASSES)
    # Labels that are not classes are dealt by number.
    summary = {f"group{i}": SplitSummary(n, {"x": [0.0, 1.0]}) for i, n in enumerate([9, 1, 8, 2])}
    splits = split_groups(summary, 3, 0, "regression", ("x",))
    assert sorted(len(some) for some in splits.values()) == [1, 1, 2]


def test_no_fold_is_empty():
    counts = [[100, 0, 0], [1, 1, 1], [1, 1, 1]]
    splits = split_groups(_groups(counts), 3, 1, "multi_label", CLASSES)
    assert splits == {"train": ["group0"], "valid": ["group2"], "test": ["group1"]}
