"""Splits by person, whose stored splits are one for each person, and windows of recordings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from sft_jax.data.card import Card
from sft_jax.data.sets.folds import check_fold, split_groups

People = Sequence[int]


def split_name(person: int) -> str:
    """Returns the name of the stored split of a person, such as `person_03`."""
    return f"person_{person:02d}"


def check_people(splits: Mapping[str, People], last: int, folds: int, fold: int) -> None:
    """Checks the fields `train_people`, `valid_people`, `test_people`, `folds` and `fold`.

    Args:
      splits: Split to its people.
      last: Number of the last person; the first is 1.
      folds: Number of folds; 0 for none.
      fold: Number of the fold to test on.

    Raises:
      ValueError: If a split is empty, a person is in two splits, or the folds do not fit.
    """
    if empty := [f"{split}_people" for split, people in splits.items() if not people]:
        raise ValueError(
            f"empty split: {', '.join(empty)} must name at least one person (1-{last})"
        )
    people = [*itertools.chain(*splits.values())]
    if repeated := sorted({person for person in people if people.count(person) > 1}):
        raise ValueError(
            f"people {repeated} are in more than one split; a person may be in one only"
        )
    check_fold(folds, fold, len(people))


def people_splits(
    splits: Mapping[str, People], card: Card, folds: int, fold: int
) -> dict[str, Sequence[str]]:
    """Maps each split to the stored splits of its people, or of those that the folds give it.

    Args:
      splits: Split to its people.
      card: Data card, which has a split for each person.
      folds: Number of folds that all of the people are divided into; 0 for `splits` as they are.
      fold: Number of the fold to test on.

    Raises:
      ValueError: See `sft_jax.data.sets.folds.split_groups`.
    """
    if folds:
        names = map(split_name, sorted(itertools.chain(*splits.values())))
        groups = {name: card.splits[name] for name in names}
        return split_groups(groups, folds, fold, card.task, card.class_names)
    return {split: [*map(split_name, people)] for split, people in splits.items()}


def whole_samples(field: str, seconds: float, rate: int) -> int:
    """Converts a duration to a number of samples.

    Args:
      field: Name of the duration, for the error message.
      seconds: Duration in seconds.
      rate: Number of samples per second.

    Raises:
      ValueError: If the duration is not a whole, positive number of samples.
    """
    samples = round(seconds * rate)
    if samples < 1 or abs(samples - seconds * rate) > 1e-6:
        raise ValueError(
            f"{field}={seconds:g} is not a whole number of samples at {rate} Hz: "
            f"it must be a positive multiple of {1 / rate:g} s"
        )
    return samples


def window_name(window: int, stride: int, rate: int) -> str:
    """Returns the name of the stored windows of so many samples."""
    return f"window_{window / rate:g}s_stride_{stride / rate:g}s"
