"""The raw recordings of HAPT: a smartphone at the waist, while people move and change posture.

Thirty people wore a smartphone at the waist, which recorded acceleration and rotation at 50 Hz.
Their 61 recordings are of 3 to 11 minutes. Each sensor of a recording has a text file of one line a
sample, such as `acc_exp01_user01.txt` and `gyro_exp01_user01.txt`. Lines of `labels.txt` hold
recording, person, activity, first and last sample; samples are counted from 1. J. Reyes-Ortiz et
al., "Transition-aware human activity recognition using smartphones", Neurocomputing 171 (2016).
"""

from __future__ import annotations

import io
import lzma
import pathlib
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sft_jax.data.records import DataFileError

SAMPLE_RATE = 50  # Hz
PEOPLE = tuple(range(1, 31))
ACTIVITIES = (
    "WALKING",
    "WALKING_UPSTAIRS",
    "WALKING_DOWNSTAIRS",
    "SITTING",
    "STANDING",
    "LAYING",
    "STAND_TO_SIT",
    "SIT_TO_STAND",
    "SIT_TO_LIE",
    "LIE_TO_SIT",
    "STAND_TO_LIE",
    "LIE_TO_STAND",
)
"""Activities and transitions by the names of the publisher, for its codes 1 to 12."""
SENSORS = {"accelerometer": "acc", "gyroscope": "gyro"}
"""Modality to the beginning of its files: acceleration in g, angular velocity in rad/s."""
AXES = 3

_FOLDER = "RawData"
_LABELS = "labels.txt"
_NAME = re.compile(r"(acc|gyro)_exp(\d+)_user(\d+)\.txt")


class Segment(NamedTuple):
    """Stretch of a recording with one activity.

    Attributes:
      activity: Index into `ACTIVITIES`.
      start: First sample, from 0.
      stop: Sample after the last.
    """

    activity: int
    start: int
    stop: int


class Recording(NamedTuple):
    """One recording of one person.

    Attributes:
      person: Number of the person, 1 to 30.
      number: Number of the recording, from 1.
      values: Modality to `[samples, 3]` float32 at `SAMPLE_RATE`; all have the same length.
      segments: Stretches of known activity, which don't overlap, in the order of time.
    """

    person: int
    number: int
    values: dict[str, np.ndarray]
    segments: tuple[Segment, ...]

    @property
    def samples(self) -> int:
        """Length of the recording."""
        return len(next(iter(self.values.values())))


def is_hapt(name: str) -> bool:
    """Returns whether a file or folder is named like one of HAPT."""
    return bool(_NAME.fullmatch(name) or re.fullmatch(rf"{_FOLDER}(\.tar(\.\w+)?)?", name))


def find_files(folder: pathlib.Path) -> pathlib.Path:
    """Finds the recordings in a folder or below it.

    Returns:
      A folder with `labels.txt` and files named like recordings; or else an archive called
      `RawData.tar.*`.

    Raises:
      DataFileError: If there is neither.
    """
    for path in sorted(labels.parent for labels in folder.rglob(_LABELS)):
        if any(_NAME.fullmatch(file.name) for file in path.iterdir()):
            return path
    archive = min(folder.rglob(f"{_FOLDER}.tar*"), default=None)
    if archive is None:
        raise DataFileError(
            f"{folder} has no folder {_FOLDER} with {_LABELS} and acc_exp01_user01.txt, nor an"
            f" archive {_FOLDER}.tar.xz of it"
        )
    return archive


def read_recordings(path: pathlib.Path) -> list[Recording]:
    """Reads all recordings from a folder, or from an archive without unpacking it to disk.

    Args:
      path: Folder or archive, as `find_files` returns it. Other files in it are ignored.

    Returns:
      The recordings, sorted by number.

    Raises:
      DataFileError: If the archive or a file is damaged, or a file is missing. Also if the sensors
        differ in length, a label does not fit its recording, or two overlap.
      OSError: If the path cannot be opened.
    """
    files = dict(_folder_files(path) if path.is_dir() else _archive_files(path))
    if _LABELS not in files:
        raise DataFileError(f"{path} has no {_LABELS}")
    rows = _numbers(path, _LABELS, files.pop(_LABELS), columns=5).astype(np.int64)
    by_sensor = {sensor: _by_recording(files, sensor) for sensor in SENSORS.values()}
    known = by_sensor["acc"].keys()
    labelled = {(number, person) for number, person, *_ in rows.tolist()}
    for where, keys in (("gyro files", by_sensor["gyro"].keys()), (_LABELS, labelled)):
        if odd := sorted(known ^ keys):
            raise DataFileError(
                f"{path}: recording {odd[0][0]} of person {odd[0][1]} is only in the acc files or"
                f" only in {where}"
            )
    return [
        _recording(path, files, {n: by_sensor[s][key] for n, s in SENSORS.items()}, *key, rows)
        for key in sorted(known)
    ]


def _folder_files(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    for file in folder.iterdir():
        if _is_needed(file.name):
            yield file.name, file.read_bytes()


def _archive_files(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = pathlib.PurePosixPath(member.name).name
                file = archive.extractfile(member) if _is_needed(name) else None
                if file is not None:
                    yield name, file.read()
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataFileError(f"{path} is a damaged archive: {error}") from error


def _is_needed(name: str) -> bool:
    return name == _LABELS or bool(_NAME.fullmatch(name))


def _by_recording(files: Mapping[str, bytes], sensor: str) -> dict[tuple[int, int], str]:
    """Maps number and person of each recording to its file of a sensor."""
    matches = [match for name in files if (match := _NAME.fullmatch(name)) and match[1] == sensor]
    return {(int(match[2]), int(match[3])): match[0] for match in matches}


def _numbers(path: pathlib.Path, name: str, content: bytes, columns: int) -> np.ndarray:
    try:
        table = np.loadtxt(io.BytesIO(content), ndmin=2)
    except ValueError as error:
        raise DataFileError(f"{path}: {name} is not a table of numbers: {error}") from error
    if table.shape[1] != columns or not np.isfinite(table).all():
        raise DataFileError(
            f"{path}: {name} has {table.shape[1]} columns, expected {columns} of finite numbers"
        )
    return table


def _recording(
    path: pathlib.Path,
    files: Mapping[str, bytes],
    names: Mapping[str, str],
    number: int,
    person: int,
    rows: np.ndarray,
) -> Recording:
    values = {
        modality: _numbers(path, name, files[name], AXES).astype(np.float32)
        for modality, name in names.items()
    }
    lengths = {names[modality]: len(samples) for modality, samples in values.items()}
    if len({*lengths.values()}) > 1:
        raise DataFileError(f"{path}: lengths of the sensors differ: {lengths}")
    own = rows[(rows[:, 0] == number) & (rows[:, 1] == person)]
    segments = sorted((Segment(a - 1, b - 1, c) for a, b, c in own[:, 2:].tolist()), key=_start)
    recording = Recording(person, number, values, tuple(segments))
    _check(f"{path}: {_LABELS}, recording {number} of person {person}", recording)
    return recording


def _start(segment: Segment) -> int:
    return segment.start


def _check(where: str, recording: Recording) -> None:
    if recording.person not in PEOPLE:
        raise DataFileError(f"{where}: expected a person from 1 to {PEOPLE[-1]}")
    end = 0
    for activity, start, stop in recording.segments:
        line = f"activity {activity + 1} from {start + 1} to {stop}"
        if not 0 <= activity < len(ACTIVITIES):
            raise DataFileError(f"{where}: {line}, expected an activity of 1 to {len(ACTIVITIES)}")
        if not 0 <= start < stop <= recording.samples:
            raise DataFileError(
                f"{where}: {line}, expected first and last sample within 1 to {recording.samples}"
            )
        if start < end:
            raise DataFileError(f"{where}: {line} overlaps the one before, which ends at {end}")
        end = stop
