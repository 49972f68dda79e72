"""The smartwatch shoulder exercises as a TFDS builder: windows, one split per person."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow_datasets as tfds

from sft_jax.data import builder
from sft_jax.data.readers.recordings import (
    EXERCISES,
    MODALITIES,
    PEOPLE,
    SAMPLE_RATE,
    SIDES,
    Recording,
    read_recordings,
    window_shapes,
)
from sft_jax.data.records import RawData, Record


def split_name(person: int) -> str:
    """The TFDS split that holds all windows of a person, such as `person_03`."""
    return f"person_{person:02d}"


def whole_samples(field: str, seconds: float) -> int:
    """Turns a duration into a number of samples.

    Args:
      field: what the duration is called in an error.
      seconds: the duration.

    Raises:
      ValueError: if the duration is not a whole, positive number of samples.
    """
    samples = round(seconds * SAMPLE_RATE)
    if samples < 1 or abs(samples - seconds * SAMPLE_RATE) > 1e-6:
        raise ValueError(
            f"{field}={seconds:g} is not a whole number of samples at {SAMPLE_RATE} Hz: "
            f"it must be a positive multiple of {1 / SAMPLE_RATE:g} s"
        )
    return samples


class Watch(builder.RawBuilder):
    """Smartwatch exercises (Burns et al. 2018): windows of the recordings, a split per person.

    A window never crosses from one recording into another, and what is left over at the end
    of a recording is dropped. Because every person is a split, any split by person is a sum
    of splits, such as `person_01+person_02`, and no other needs preparing.
    """

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES = {  # noqa: RUF012 (TFDS reads a plain dict)
        "1.1.0": "With a data card.",
        "1.2.0": "Numbers that float32 does not hold are float64.",
    }


def read_watch(window: int, stride: int) -> RawData:
    """Cuts the recordings into windows.

    Args:
      window: length of a window in samples.
      stride: samples from the start of a window to the start of the next.

    Raises:
      ValueError: if a window is longer than every recording of some person.
      ModuleNotFoundError, FileNotFoundError: see `read_recordings`.
    """
    recordings: dict[int, list[Recording]] = {person: [] for person in PEOPLE}
    for recording in read_recordings():
        recordings[recording.person].append(recording)
    longest = {person: max(len(r.values) for r in of) for person, of in recordings.items()}
    without = [person for person in PEOPLE if longest[person] < window]
    if without:
        raise ValueError(
            f"a window of {window / SAMPLE_RATE:g} s is longer than every recording of people"
            f" {without}; window_seconds must be at most {min(longest.values()) / SAMPLE_RATE:g}"
        )
    people = {split_name(person): of for person, of in recordings.items()}

    def read(split: str) -> Iterator[Record]:
        for recording in people[split]:
            for start in range(0, len(recording.values) - window + 1, stride):
                yield _record(recording, start, window)

    return RawData(
        variant=f"window_{window / SAMPLE_RATE:g}s_stride_{stride / SAMPLE_RATE:g}s",
        files=(),
        shapes=window_shapes(window),
        class_names=EXERCISES,
        task="single_label",
        num_examples={
            split: sum(
                (len(r.values) - window) // stride + 1 for r in of if len(r.values) >= window
            )
            for split, of in people.items()
        },
        read=read,
    )


def raw_config(window_seconds: float, stride_seconds: float) -> builder.RawConfig:
    """What the builder reads.

    Args:
      window_seconds: length of a window.
      stride_seconds: from the start of a window to the start of the next.

    Raises:
      ValueError: if a duration is not a whole, positive number of samples.
    """
    window = whole_samples("window_seconds", window_seconds)
    stride = whole_samples("stride_seconds", stride_seconds)
    return builder.RawConfig(
        name=f"window_{window / SAMPLE_RATE:g}s_stride_{stride / SAMPLE_RATE:g}s",
        read=lambda _: read_watch(window, stride),
        ranks=dict.fromkeys(MODALITIES, 2),
        needs_files=False,
    )


def _record(recording: Recording, start: int, window: int) -> Record:
    side, exercise = SIDES[recording.side], EXERCISES[recording.exercise]
    values = recording.values[start : start + window]
    return Record(
        id=f"person{recording.person:02d}/{side}/{exercise}/@{start}",
        inputs={modality: values[:, columns] for modality, columns in MODALITIES.items()},
        label=recording.exercise,
    )
