"""The smartwatch shoulder exercises as a TFDS builder: windows, one split per person."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import absl.logging
import numpy as np
import tensorflow_datasets as tfds

from sft_jax.data.recordings import (
    EXERCISES,
    MODALITIES,
    PEOPLE,
    SAMPLE_RATE,
    SIDES,
    Recording,
    read_recordings,
)

if TYPE_CHECKING:
    from sft_jax.data.datasets import Example

_LOGGER = logging.getLogger(__name__)


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


@dataclasses.dataclass(eq=False)
class WatchConfig(tfds.core.BuilderConfig):
    """How the recordings are cut into windows.

    Attributes:
      window: length of a window in samples.
      stride: samples from the start of a window to the start of the next.
    """

    window: int = 0
    stride: int = 0

    @classmethod
    def from_seconds(cls, window_seconds: float, stride_seconds: float) -> WatchConfig:
        """Makes a config whose name tells its windows, such as `window_4s_stride_1s`.

        Raises:
          ValueError: if a duration is not a whole number of samples.
        """
        window = whole_samples("window_seconds", window_seconds)
        stride = whole_samples("stride_seconds", stride_seconds)
        name = f"window_{window / SAMPLE_RATE:g}s_stride_{stride / SAMPLE_RATE:g}s"
        return cls(name=name, window=window, stride=stride)


class Watch(tfds.core.GeneratorBasedBuilder):
    """Windows of the recordings, one split per person.

    A window never crosses from one recording into another, and what is left over at the end
    of a recording is dropped. Because every person is a split, any split by person is a sum
    of splits, such as `person_01+person_02`, and no other needs preparing.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads a plain dict)

    def _info(self) -> Any:
        steps = self.builder_config.window
        tensor = tfds.features.Tensor(shape=(steps, 3), dtype=np.float32, encoding="bytes")
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            homepage="https://arxiv.org/abs/1802.01489",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    **{modality: tensor for modality in MODALITIES},
                    "label": tfds.features.ClassLabel(names=EXERCISES),
                    "person": tfds.features.Scalar(dtype=np.int32),
                    "side": tfds.features.ClassLabel(names=SIDES),
                }
            ),
            # Windows stay in the order of the recordings.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # Nothing is downloaded.
        recordings: dict[int, list[Recording]] = {person: [] for person in PEOPLE}
        for recording in read_recordings():
            recordings[recording.person].append(recording)
        longest = {person: max(len(r.values) for r in of) for person, of in recordings.items()}
        without = [person for person in PEOPLE if longest[person] < self.builder_config.window]
        if without:
            raise ValueError(
                f"a window of {self.builder_config.window / SAMPLE_RATE:g} s is longer than every "
                f"recording of people {without}; window_seconds must be at most "
                f"{min(longest.values()) / SAMPLE_RATE:g}"
            )
        return {
            split_name(person): self._generate_examples(of) for person, of in recordings.items()
        }

    def _generate_examples(self, recordings: list[Recording]) -> Iterator[tuple[int, dict]]:
        keys = itertools.count()
        window, stride = self.builder_config.window, self.builder_config.stride
        for recording in recordings:
            for start in range(0, len(recording.values) - window + 1, stride):
                yield next(keys), self._example(recording, start)

    def _example(self, recording: Recording, start: int) -> dict[str, Any]:
        side, exercise = SIDES[recording.side], EXERCISES[recording.exercise]
        window = recording.values[start : start + self.builder_config.window].astype(np.float32)
        return {
            "id": f"person{recording.person:02d}/{side}/{exercise}/@{start}",
            **{modality: window[:, columns] for modality, columns in MODALITIES.items()},
            "label": recording.exercise,
            "person": recording.person,
            "side": recording.side,
        }


def prepare(window_seconds: float, stride_seconds: float, data_dir: str = "") -> Watch:
    """Cuts the recordings into windows on disk, unless that has been done before.

    TFDS writes to a directory of another name and renames it at the end, so a preparation
    that was killed is simply done again, and several processes may prepare at once: the first
    to finish wins.

    Args:
      window_seconds: length of a window.
      stride_seconds: from the start of a window to the start of the next.
      data_dir: where prepared data is kept; empty for the default of TFDS.

    Returns:
      A builder whose `as_data_source` is ready to be read.

    Raises:
      OSError: if `data_dir` cannot be written to.
      ValueError: if the windows do not fit the recordings, or what has been prepared is damaged.
      ModuleNotFoundError, FileNotFoundError: see `read_recordings`.
    """
    config = WatchConfig.from_seconds(window_seconds, stride_seconds)
    builder = _open(config, data_dir)
    if builder.data_path.exists():
        return builder
    _require_writable(builder.data_path.parent, data_dir)
    _LOGGER.info("preparing the smartwatch recordings in %s (once)", builder.data_dir)
    try:
        with _quiet():
            builder.download_and_prepare(file_format="array_record")
    except OSError:
        # Renaming fails if another process has finished in the meantime.
        if not builder.data_path.exists():
            raise
        _LOGGER.info("another process has prepared %s", builder.data_dir)
    return _open(config, data_dir)


def count_examples(builder: Watch, people: Sequence[int]) -> int:
    """How many windows some people have."""
    return sum(builder.info.splits[split_name(person)].num_examples for person in people)


def read_examples(builder: Watch, people: Sequence[int]) -> list[Example]:
    """Decodes all windows of some people, in the order of the recordings.

    Args:
      builder: as `prepare` returns it.
      people: at least one, out of `PEOPLE`.
    """
    source = builder.as_data_source("+".join(split_name(person) for person in people))
    mask = np.ones(builder.builder_config.window, bool)
    return [
        {
            "id": window["id"].decode(),
            "inputs": {modality: window[modality] for modality in MODALITIES},
            "masks": dict.fromkeys(MODALITIES, mask),
            "label": int(window["label"]),
        }
        for window in source
    ]


def _open(config: WatchConfig, data_dir: str) -> Watch:
    """Makes a builder; one that knows its examples if they have been prepared."""
    with _quiet():
        builder = Watch(config=config, data_dir=os.path.expanduser(data_dir) or None)
        if builder.data_path.exists() and not builder.is_prepared():
            raise ValueError(f"the prepared data in {builder.data_dir} is damaged; remove it")
    return builder


def _require_writable(directory: Path, data_dir: str) -> None:
    probe = directory / f"probe_{uuid.uuid4().hex}"
    try:
        probe.mkdir(parents=True)
        probe.rmdir()
    except OSError as error:
        raise OSError(
            f"cannot write to data_dir={data_dir!r} ({directory}): {error}; "
            "choose another with --config.data.data_dir or TFDS_DATA_DIR"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what TFDS prints: talk of downloads, progress bars, a line for each file."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)
        absl.logging.set_verbosity(verbosity)
