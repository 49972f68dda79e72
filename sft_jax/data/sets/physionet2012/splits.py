"""Splits of the stays of some sets, by their outcomes and without chance."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from sft_jax.data.sets.folds import check_fold, split_groups
from sft_jax.data.sets.physionet2012.files import Stay
from sft_jax.data.split_summary import SplitSummary
from sft_jax.structs import Task


def with_validation(stays: Sequence[Stay], share: float) -> dict[str, list[Stay]]:
    """Takes evenly spaced stays for validation, the same share of deaths and survivals.

    Args:
      stays: Stays in their order.
      share: Share for validation, above 0 and below 1.
    """
    splits: dict[str, list[Stay]] = {"train": [], "valid": []}
    counts: collections.Counter[int] = collections.Counter()
    for stay in stays:
        before = counts[stay.died]
        counts[stay.died] += 1
        taken = int((before + 1) * share) > int(before * share)
        splits["valid" if taken else "train"].append(stay)
    return splits


def in_folds(
    stays: Sequence[Stay], folds: int, fold: int, task: Task, classes: Sequence[str]
) -> dict[str, list[Stay]]:
    """Divides stays into folds; see `split_groups`.

    Raises:
      ValueError: If there are fewer stays than folds, or a split would lack a class.
    """
    check_fold(folds, fold, len(stays))
    groups: dict[str, SplitSummary] = {}
    for number, stay in enumerate(stays):
        groups[str(number)] = summary = SplitSummary(n_examples=1)
        label = stay.died if task == "single_label" else np.array([stay.days])
        summary.add_label(label, task, classes)
    divided = split_groups(groups, folds, fold, task, classes)
    return {split: [stays[int(number)] for number in own] for split, own in divided.items()}
