"""Base class of datasets of windows of recordings, which are split by person."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic.dataclasses import dataclass

from sft_jax.data.card import Card
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.data.sets.folds import check_fold, split_groups
from sft_jax.data_config import STRICT, Count, CountOrNone, Positive

People = tuple[int, ...]


@dataclass(frozen=True, config=STRICT)
class PeopleData(DatasetEntry, abc.ABC):
    """Windows of recordings, split by person.

    A window never spans two recordings. Every person is a stored split. So any split by person is
    a sum of stored splits, such as `person_01+person_02`, and needs no preparation of its own.

    Attributes:
      window_seconds: Length of a window.
      stride_seconds: Time from the start of one window to the start of the next.
      patch_size: Number of consecutive samples that make one token, the same for all modalities.
      train_people: People to train on, whose recordings also give the statistics.
      valid_people: People whose recordings select the checkpoint.
      test_people: People whose recordings the result is reported on.
      folds: Number of folds that all of these people are divided into, for cross-validation; 0 for
        the people of each split as named. People stay whole, and the folds have alike shares of
        the classes, or of the windows if those have labels (`sft_jax.data.sets.folds`).
      fold: Number of the fold to test on, from 0. The next fold selects the checkpoint.
    """

    window_seconds: Positive = 1.0
    stride_seconds: Positive = 1.0
    patch_size: Count = 1  # type: ignore[assignment]
    train_people: People = ()
    valid_people: People = ()
    test_people: People = ()
    folds: CountOrNone = 0
    fold: CountOrNone = 0

    sample_rate: ClassVar[int]
    """Number of samples per second."""
    last_person: ClassVar[int]
    """Number of the last person; the first is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_people(self.people(), self.last_person, self.folds, self.fold)

    def people(self) -> dict[str, People]:
        """Returns the people of each split."""
        return {"train": self.train_people, "valid": self.valid_people, "test": self.test_people}

    def windows(self) -> tuple[int, int]:
        """Returns the length of a window and the stride, in samples."""
        return (
            whole_samples("window_seconds", self.window_seconds, self.sample_rate),
            whole_samples("stride_seconds", self.stride_seconds, self.sample_rate),
        )

    def split_names(self, card: Card) -> dict[str, Sequence[str]]:
        """Maps each split to the stored splits of its people, or of those in its folds."""
        return people_splits(self.people(), card, self.folds, self.fold)


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
