"""Smartwatch recordings of shoulder exercises by Burns et al. 2018.

Ten people did seven shoulder exercises with each arm, about twenty repetitions at a time.
A smartwatch recorded acceleration and rotation at 50 Hz: 140 recordings of 19 to 52 s. They are
a part of the data of D. Burns et al., "Shoulder physiotherapy exercise recognition: machine
learning the inertial signals from a smartwatch", Physiological Measurement 39 (2018), arXiv
1802.01489. The Python package `seglearn` (BSD licence) contains them. Its documentation gives
the units, and the arm for each code of `side`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 50  # Hz
PEOPLE = tuple(range(1, 11))
SIDES = ("left", "right")  # In the order of the file's codes, 0 and 1.
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
# Modality to its columns in a recording: acceleration in g, angular velocity in rad/s.
MODALITIES = {"accelerometer": slice(0, 3), "gyroscope": slice(3, 6)}

_PACKAGE = "seglearn"
_FILE = "seglearn/data/watch_dataset.npy"
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"


class Recording(NamedTuple):
    """One person doing one exercise with one arm.

    Attributes:
      person: Number of the person, 1 to 10.
      side: Index into `SIDES`.
      exercise: Index into `EXERCISES`.
      values: `[samples, 6]` float64 at `SAMPLE_RATE`; see `MODALITIES` for the columns.
    """

    person: int
    side: int
    exercise: int
    values: np.ndarray


def window_shapes(samples: int) -> dict[str, tuple[int, ...]]:
    """Returns the `(steps, features)` of each modality in a window of `samples` samples."""
    return {name: (samples, columns.stop - columns.start) for name, columns in MODALITIES.items()}


def read_recordings() -> list[Recording]:
    """Reads the recordings from the installed package, without importing it.

    The file is a pickle, which could run code when it is read, so its sha256 is checked first.

    Returns:
      The 140 recordings, in the order of the file.

    Raises:
      ModuleNotFoundError: If the package that holds the file is not installed.
      FileNotFoundError: If the package is installed but the file is missing.
      ValueError: If the sha256 of the file is not the expected one.
    """
    try:
        package = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"the smartwatch recordings come inside the package {_PACKAGE!r}, which is not "
            "installed: pip install 'sft_jax[watch]'"
        ) from error
    path = package.locate_file(_FILE)
    with open(str(path), "rb") as file:
        content = file.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise ValueError(
            f"{path} is not the known file of recordings, so it was not unpickled: "
            f"its sha256 is {digest}, expected {_SHA256}"
        )
    table = np.load(io.BytesIO(content), allow_pickle=True).item()
    columns = zip(table["subject"], table["side"], table["y"], table["X"], strict=True)
    return [
        Recording(int(person), int(side), int(exercise), values)
        for person, side, exercise, values in columns
    ]
