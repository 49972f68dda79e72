"""The smartwatch shoulder exercises: windows of the recordings, one stored split per person."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from sft_jax.data.records import RawData, Record
from sft_jax.data.sets.base import Outline, StoredForm
from sft_jax.data.sets.people import PeopleData, split_name, window_name
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
from sft_jax.data_config import STRICT, Count, Positive

People = tuple[Annotated[int, Field(ge=1, le=10)], ...]


@dataclass(frozen=True, config=STRICT)
class WatchData(PeopleData):
    """Smartwatch exercises (Burns et al. 2018): windows of the recordings, split by person.

    An incomplete window at the end of a recording is dropped.
    """

    name: Literal["watch"] = "watch"
    window_seconds: Positive = 4.0
    stride_seconds: Positive = 1.0
    patch_size: Count = 10
    train_people: People = (1, 2, 3, 4, 5, 6)
    valid_people: People = (7,)
    test_people: People = (8, 9, 10)

    sample_rate: ClassVar[int] = SAMPLE_RATE
    last_person: ClassVar[int] = len(PEOPLE)
    needs: ClassVar[str] = (
        "No files: the recordings come in the package seglearn, the extra [watch]"
    )
    store: ClassVar[str] = "watch"
    version: ClassVar[str] = "1.2.0"  # Since 1.2.0, numbers that float32 can't hold are float64.

    def read(self, folder: pathlib.Path) -> RawData:
        """Cuts the recordings into windows; see `read_watch`."""
        return read_watch(*self.windows())

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of two sequences, named after the windows."""
        name = window_name(*self.windows(), SAMPLE_RATE)
        return StoredForm(name, dict.fromkeys(MODALITIES, 2), task="single_label")

    def outline(self) -> Outline:
        """Returns the shapes of a window, and the exercises."""
        window, _ = self.windows()
        specs = self.modality_specs(window_shapes(window))
        return Outline(specs, len(EXERCISES), "single_label")


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
