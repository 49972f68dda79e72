"""HAPT, activities and postural transitions: windows of recordings, one stored split per person."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from sft_jax.data.records import RawData, Record
from sft_jax.data.sets.base import Outline, StoredForm, file_names
from sft_jax.data.sets.hapt.files import (
    ACTIVITIES,
    AXES,
    PEOPLE,
    SAMPLE_RATE,
    SENSORS,
    find_files,
    is_hapt,
    read_recordings,
)
from sft_jax.data.sets.hapt.windows import Target, cut, longest
from sft_jax.data.sets.people import PeopleData, split_name, window_name
from sft_jax.data_config import STRICT, Count, Positive, folder_field
from sft_jax.structs import Task

People = tuple[Annotated[int, Field(ge=1, le=30)], ...]

TASKS: dict[Target, Task] = {"tagging": "multi_label", "activity": "single_label"}


@dataclass(frozen=True, config=STRICT)
class HaptData(PeopleData):
    """HAPT (Reyes-Ortiz et al. 2016): activities and transitions by smartphone, split by person.

    The modalities are accelerometer and gyroscope, at 50 Hz. Commercial use is forbidden.

    Attributes:
      manual_dir: Folder of the folder RawData or of RawData.tar.xz; empty for `downloads/manual`
        in `data_dir`.
      target: tagging for all of 12 labels that occur in a window for at least half a second;
        activity for windows within one activity, such as `window_seconds=2.56`.
    """

    name: Literal["hapt"] = "hapt"
    manual_dir: str = folder_field()
    target: Target = "tagging"
    window_seconds: Positive = 30.0
    stride_seconds: Positive = 5.0
    patch_size: Count = 15
    train_people: People = PEOPLE[:19]
    valid_people: People = PEOPLE[19:23]
    test_people: People = PEOPLE[23:]

    sample_rate: ClassVar[int] = SAMPLE_RATE
    last_person: ClassVar[int] = len(PEOPLE)
    needs: ClassVar[str] = (
        "It takes the folder RawData, or RawData.tar.xz of it, of"
        " https://archive.ics.uci.edu/dataset/341, whose README forbids commercial use"
    )
    store: ClassVar[str] = "hapt"
    version: ClassVar[str] = "1.0.0"

    def read(self, folder: pathlib.Path) -> RawData:
        """Reads the recordings and cuts them into windows; see `read_hapt`."""
        return read_hapt(folder, self.target, *self.windows())

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of two sequences, named after the target and the windows."""
        return StoredForm(
            _variant(self.target, *self.windows()), dict.fromkeys(SENSORS, 2), TASKS[self.target]
        )

    def outline(self) -> Outline:
        """Returns the shapes of a window, and the activities."""
        window, _ = self.windows()
        return Outline(self.modality_specs(_shapes(window)), len(ACTIVITIES), TASKS[self.target])

    @classmethod
    def recognises(cls, path: pathlib.Path) -> bool:
        """Returns whether the path is, or contains, a file or folder of HAPT."""
        return any(map(is_hapt, file_names(path)))


def read_hapt(folder: pathlib.Path, target: Target, window: int, stride: int) -> RawData:
    """Reads the recordings and cuts them into windows.

    Args:
      folder: Folder in which the recordings are found.
      target: Kind of label.
      window: Length of a window in samples.
      stride: Number of samples from the start of a window to the start of the next.

    Raises:
      ValueError: If some person has no window.
      DataFileError: See `find_files` and `read_recordings`.
    """
    path = find_files(folder)
    recordings = read_recordings(path)
    splits = {
        split_name(person): [
            (recording, place)
            for recording in recordings
            if recording.person == person
            for place in cut(recording, target, window, stride)
        ]
        for person in PEOPLE
    }
    if without := [person for person in PEOPLE if not splits[split_name(person)]]:
        most = min(
            max((longest(r, target) for r in recordings if r.person == person), default=0)
            for person in PEOPLE
        )
        raise ValueError(
            f"target={target!r}: people {without} have no window of {window / SAMPLE_RATE:g} s;"
            f" window_seconds must be at most {most / SAMPLE_RATE:g}"
        )

    def read(split: str) -> Iterator[Record]:
        for recording, (start, label) in splits[split]:
            yield Record(
                id=f"person{recording.person:02d}/recording{recording.number:02d}/@{start}",
                inputs={
                    name: values[start : start + window]
                    for name, values in recording.values.items()
                },
                label=label,
            )

    return RawData(
        variant=_variant(target, window, stride),
        files=(path,),
        shapes=_shapes(window),
        class_names=ACTIVITIES,
        task=TASKS[target],
        num_examples={split: len(own) for split, own in splits.items()},
        read=read,
    )


def _shapes(window: int) -> dict[str, tuple[int, ...]]:
    return {name: (window, AXES) for name in SENSORS}


def _variant(target: Target, window: int, stride: int) -> str:
    return f"{target}_{window_name(window, stride, SAMPLE_RATE)}"
