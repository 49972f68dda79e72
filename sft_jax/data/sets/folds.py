"""Folds of cross-validation, which keep the examples of a group together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sft_jax.data.split_summary import SplitSummary
from sft_jax.structs import CLASS_TASKS, Task

LEAST = 3
"""Smallest number of folds: one to test on, one to validate on, and one to train on."""

_MOST_SHOWN = 10


def check_fold(folds: int, fold: int, groups: int) -> None:
    """Checks the fields `folds` and `fold` of a dataset; 0 folds stand for no cross-validation.

    Args:
      folds: Number of folds.
      fold: Number of the fold to test on.
      groups: Number of groups.

    Raises:
      ValueError: If either is out of range.
    """
    if folds and not LEAST <= folds <= groups:
        raise ValueError(
            f"folds={folds}: expected 0, or {LEAST} to {groups}, the number of groups to divide"
        )
    if fold and not fold < folds:
        raise ValueError(
            f"fold={fold} with folds={folds}: expected "
            + (f"0 to {folds - 1}" if folds else "0, as there are no folds")
        )


def split_groups(
    groups: Mapping[str, SplitSummary], folds: int, fold: int, task: Task, classes: Sequence[str]
) -> dict[str, Sequence[str]]:
    """Divides groups into folds, and gives the groups of each split for one of the folds.

    A fold is the test split, the next one is the validation split, and the others are the training
    split. Groups are dealt by the rule of scikit-learn's `StratifiedGroupKFold`, without chance:
    the most uneven group comes first, and each goes where it makes the shares of every class among
    the folds most equal. For labels that are not classes, the numbers of examples are made equal.

    Args:
      groups: Summary of the examples of each group.
      folds: Number of folds.
      fold: Number of the fold to test on, from 0.
      task: Kind of the labels.
      classes: Names of the classes.

    Returns:
      Groups of train, valid and test, in the order of `groups`.

    Raises:
      ValueError: If a split would have no example of some class, for the tasks single_label and
        ordinal.
    """
    names = [*groups]
    counts = np.array(
        [
            [summary.labels.get(name, 0) for name in classes]
            if task in CLASS_TASKS
            else [summary.n_examples]
            for summary in groups.values()
        ],
        np.float64,
    )
    members = _deal(counts, folds)
    parts = {
        "test": members[fold],
        "valid": members[(fold + 1) % folds],
    }
    parts["train"] = sorted({*range(len(names))} - {*parts["test"], *parts["valid"]})
    if task in CLASS_TASKS:
        for split, part in parts.items():
            if lacking := [c for c, n in zip(classes, counts[part].sum(0), strict=True) if not n]:
                raise ValueError(
                    f"fold {fold} of {folds}: the split {split}, of the groups"
                    f" {_some(names[i] for i in part)}, has no example of"
                    f" {', '.join(lacking)}: take fewer folds"
                )
    return {split: [names[i] for i in parts[split]] for split in ("train", "valid", "test")}


def _some(names: Iterable[str]) -> str:
    shown = [*itertools.islice(names, _MOST_SHOWN + 1)]
    return ", ".join(shown[:_MOST_SHOWN] + ["..."] * (len(shown) > _MOST_SHOWN))


def _deal(counts: np.ndarray, folds: int) -> list[list[int]]:
    """Deals groups to folds.

    Args:
      counts: `[groups, classes]` numbers of examples.
      folds: Number of folds.

    Returns:
      Sorted groups of each fold; the fold of the first group comes first.
    """
    totals = np.maximum(counts.sum(axis=0), 1)
    sums = np.zeros((folds, counts.shape[1]))
    members: list[list[int]] = [[] for _ in range(folds)]
    # A stable order: equally uneven groups stay in theirs.
    order = np.argsort(-counts.std(axis=1), kind="stable")
    for number, group in enumerate(order):
        # As many groups as there are empty folds must go to these.
        empty = [i for i in range(folds) if not members[i]]
        open_folds = empty if len(empty) == len(order) - number else range(folds)

        def unevenness(fold: int, group: int = group) -> tuple[float, float]:
            trial = sums.copy()
            trial[fold] += counts[group]
            return float((trial / totals).std(axis=0).mean()), float(sums[fold].sum())

        best = min(open_folds, key=unevenness)
        sums[best] += counts[group]
        members[best].append(int(group))
    return sorted(sorted(some) for some in members)
