"""The smartwatch shoulder exercises: windows of the recordings, one stored split per person."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from sft_jax.data.card import Card
from sft_jax.data.records import RawData, Record
from sft_jax.data.sets.base import DatasetEntry, Outline, StoredForm
from sft_jax.data.sets.people import (
    check_people,
    people_splits,
    split_name,
    whole_samples,
    window_name,
)
from sft_jax.data.sets.watch.recordings import (
    EXERCISES,
    MODALITIES,
    PEOPLE,
    SAMPLE_RATE,
    SIDES,
    Recording,
    read_recordings,
    window_shapes,
)
from sft_jax.data_config import STRICT, Count, CountOrNone, Positive

People = tuple[Annotated[int, Field(ge=1, le=10)], ...]


@dataclass(frozen=True, config=STRICT)
class WatchData(DatasetEntry):
    """Smartwatch exercises (Burns et al. 2018): windows of the recordings, split by person.

    A window never spans two recordings, and an incomplete window at the end of a recording is
    dropped. Every person is a stored split. So any split by person is a sum of stored splits,
    such as `person_01+person_02`, and needs no preparation of its own.

    Attributes:
      window_seconds: Length of a window.
      stride_seconds: Time from the start of one window to the start of the next.
      patch_size: Number of consecutive samples (at 50 Hz) that make one token.
      train_people: People to train on, whose recordings also give the statistics.
      valid_people: People whose recordings select the checkpoint.
      test_people: People whose recordings the result is reported on.
      folds: Number of folds that all of these people are divided into, for cross-validation; 0 for
        the people of each split as named. People stay whole, and the folds have alike shares of
        the exercises (`sft_jax.data.sets.folds`).
      fold: Number of the fold to test on, from 0. The next fold selects the checkpoint.
    """

    name: Literal["watch"] = "watch"
    window_seconds: Positive = 4.0
    stride_seconds: Positive = 1.0
    # One number serves both modalities, since they have the same steps.
    patch_size: Count = 10  # type: ignore[assignment]
    train_people: People = (1, 2, 3, 4, 5, 6)
    valid_people: People = (7,)
    test_people: People = (8, 9, 10)
    folds: CountOrNone = 0
    fold: CountOrNone = 0

    needs: ClassVar[str] = (
        "No files: the recordings come in the package seglearn, the extra [watch]"
    )
    store: ClassVar[str] = "watch"
    version: ClassVar[str] = "1.2.0"  # Since 1.2.0, numbers that float32 can't hold are float64.

    def __post_init__(self) -> None:
        check_people(self._people(), len(PEOPLE), self.folds, self.fold)

    def _people(self) -> dict[str, People]:
        return {"train": self.train_people, "valid": self.valid_people, "test": self.test_people}

    def _windows(self) -> tuple[int, int]:
        """Returns the length of a window and the stride, in samples."""
        return (
            whole_samples("window_seconds", self.window_seconds, SAMPLE_RATE),
            whole_samples("stride_seconds", self.stride_seconds, SAMPLE_RATE),
        )

    def read(self, folder: pathlib.Path) -> RawData:
        """Cuts the recordings into windows; see `read_watch`."""
        return read_watch(*self._windows())

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of two sequences, named after the windows."""
        name = window_name(*self._windows(), SAMPLE_RATE)
        return StoredForm(name, dict.fromkeys(MODALITIES, 2), task="single_label")

    def outline(self) -> Outline:
        """Returns the shapes of a window, and the exercises."""
        window, _ = self._windows()
        specs = self.modality_specs(window_shapes(window))
        return Outline(specs, len(EXERCISES), "single_label")

    def split_names(self, card: Card) -> dict[str, Sequence[str]]:
        """Maps each split to the stored splits of its people."""
        return people_splits(self._people(), card, self.folds, self.fold)


def read_watch(window: int, stride: int) -> RawData:
    """Cuts the recordings into windows.

    Args:
      window: Length of a window in samples.
      stride: Number of samples from the start of a window to the start of the next.

    Raises:
      ValueError: If a window is longer than every recording of some person.
      ModuleNotFoundError, FileNotFoundError: See `read_recordings`.
    """
    recordings: dict[int, list[Recording]] = {person: [] for person in PEOPLE}
    for recording in read_recordings():
        recordings[recording.person].append(recording)
    longest = {person: max(len(r.values) for r in own) for person, own in recordings.items()}
    without = [person for person in PEOPLE if longest[person] < window]
    if without:
        raise ValueError(
            f"a window of {window / SAMPLE_RATE:g} s is longer than every recording of people"
            f" {without}; window_seconds must be at most {min(longest.values()) / SAMPLE_RATE:g}"
        )
    splits = {split_name(person): own for person, own in recordings.items()}

    def starts(recording: Recording) -> range:
        return range(0, len(recording.values) - window + 1, stride)

    def read(split: str) -> Iterator[Record]:
        for recording in splits[split]:
            for start in starts(recording):
                yield _record(recording, start, window)

    return RawData(
        variant=window_name(window, stride, SAMPLE_RATE),
        files=(),
        shapes=window_shapes(window),
        class_names=EXERCISES,
        task="single_label",
        num_examples={
            split: sum(len(starts(recording)) for recording in own) for split, own in splits.items()
        },
        read=read,
    )


def _record(recording: Recording, start: int, window: int) -> Record:
    side, exercise = SIDES[recording.side], EXERCISES[recording.exercise]
    values = recording.values[start : start + window]
    return Record(
        id=f"person{recording.person:02d}/{side}/{exercise}/@{start}",
        inputs={modality: values[:, columns] for modality, columns in MODALITIES.items()},
        label=recording.exercise,
    )
