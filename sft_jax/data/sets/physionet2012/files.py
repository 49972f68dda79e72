"""The files of the challenge: an archive of stays, and a table of outcomes, for each set.

`set-a.tar.gz` holds a file for each stay, such as `set-a/132539.txt`:

    Time,Parameter,Value
    00:00,RecordID,132539
    00:00,Age,54
    00:07,GCS,15

Times are hours and minutes since admission. `Outcomes-a.txt` has a line for each stay:

    RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death
    132539,6,1,5,-1,0

-1 stands for what is unknown. A few lines have no parameter; they are left out. Some copies of
set a lack the unit, and have a few stays with several ages; the first is taken.
"""

from __future__ import annotations

import csv
import pathlib
import tarfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.physionet2012.codes import EVENTS, ICU_TYPES, STATIC

HEADER = ["Time", "Parameter", "Value"]
ID, DEATH, STAY = "RecordID", "In-hospital_death", "Length_of_stay"

_SKIPPED = ("", ID)
_UNKNOWN = -1
_OLDEST = STATIC["Age"].highest  # Ages above are hidden, as 90 or as about 200.
_TYPES = {
    parameter: (modality, number, code)
    for modality, codes in EVENTS.items()
    for number, (parameter, code) in enumerate(codes.items())
}
_STATIC_TYPES = ("Age", "Gender", "Height", "Weight", *ICU_TYPES)

TYPES: Mapping[str, tuple[str, ...]] = {
    **{modality: tuple(codes) for modality, codes in EVENTS.items()},
    "static": _STATIC_TYPES,
}
"""Names of the types of each modality, in the order of their numbers."""


class Stay(NamedTuple):
    """A stay and its outcome.

    Attributes:
      number: Number of the record.
      inputs: Modality name to `[n, 3]` float32: hours, types and values, in the order of the file.
        A modality without any is left out.
      died: 1 for a death in hospital, else 0.
      days: Length of stay; -1 where it is unknown.
    """

    number: int
    inputs: dict[str, np.ndarray]
    died: int
    days: float


def paths(folder: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Paths of the archive and the outcomes of a set.

    Raises:
      DataFileError: If one is missing.
    """
    both = folder / f"set-{name}.tar.gz", folder / f"Outcomes-{name}.txt"
    if missing := [path.name for path in both if not path.is_file()]:
        raise DataFileError(
            f"there is no {' and no '.join(missing)} in {folder}, where the files of set {name} of"
            " the PhysioNet/Computing in Cardiology Challenge 2012 are expected"
        )
    return both


def read_set(folder: pathlib.Path, name: str) -> list[Stay]:
    """Reads the stays of a set, in the order of their numbers.

    Args:
      folder: Folder of the files.
      name: Letter of the set.

    Raises:
      DataFileError: If a file is missing, damaged or of another form, or a stay has no outcome.
    """
    archive, table = paths(folder, name)
    outcomes = _outcomes(table)
    stays = []
    for number, events in _stays(archive):
        if number not in outcomes:
            raise DataFileError(f"{table} has no line of the stay {number} of {archive}")
        stays.append(Stay(number, events, *outcomes[number]))
    if not stays:
        raise DataFileError(f"{archive} holds no file NUMBER.txt")
    return sorted(stays, key=lambda stay: stay.number)


def _outcomes(path: pathlib.Path) -> dict[int, tuple[int, float]]:
    """Reads death and days of stay by number."""
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if missing := {ID, DEATH, STAY} - set(table.fieldnames or ()):
            raise DataFileError(f"{path} lacks the columns {sorted(missing)}")
        outcomes = {}
        for row in table:
            try:
                outcomes[int(row[ID])] = int(row[DEATH]), float(row[STAY])
            except (ValueError, TypeError) as error:
                raise DataFileError(f"{path}, line {table.line_num}: {error}") from error
    deaths = sorted({died for died, _ in outcomes.values()} - {0, 1})
    if deaths:
        raise DataFileError(f"{path}: {DEATH} is {deaths[0]}, expected 0 or 1")
    return outcomes


def _stays(path: pathlib.Path) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                name = pathlib.Path(member.name)
                if file and name.suffix == ".txt" and name.stem.isdecimal():
                    lines = file.read().decode().splitlines()
                    yield int(name.stem), _events(f"{path}: {name}", lines)
    except (OSError, EOFError, tarfile.TarError, UnicodeDecodeError) as error:
        raise DataFileError(f"{path} is damaged or cut short: {error}") from error


def _events(place: str, lines: list[str]) -> dict[str, np.ndarray]:
    """Reads the rows of each modality from the lines of a stay."""
    rows: dict[str, list[tuple[float, int, float]]] = {}
    described: set[str] = set()
    table = csv.reader(lines)
    if (header := next(table, [])) != HEADER:
        raise DataFileError(f"{place} begins with {header}, expected {HEADER}")
    for row in table:
        try:
            time, parameter, text = row
            hours, minutes = time.split(":")
            hour, value = int(hours) + int(minutes) / 60, float(text)
        except ValueError as error:
            raise DataFileError(
                f"{place}, line {table.line_num}: {','.join(row)!r} is not TIME,PARAMETER,VALUE"
            ) from error
        if parameter in STATIC and not hour and parameter not in described:
            described.add(parameter)
            rows.setdefault("static", []).extend(_static(parameter, value))
        elif parameter in _TYPES:
            modality, number, code = _TYPES[parameter]
            if code.lowest <= value <= code.highest:
                kept = np.log1p(value) if code.log else value
                rows.setdefault(modality, []).append((hour, number, kept))
        elif parameter not in _SKIPPED and parameter not in STATIC:
            raise DataFileError(
                f"{place}, line {table.line_num}: unknown parameter {parameter!r}, known are"
                f" {', '.join((*STATIC, *_TYPES))}"
            )
    return {name: np.array(own, np.float32) for name, own in rows.items() if own}


def _static(parameter: str, value: float) -> list[tuple[float, int, float]]:
    """Makes the event of a descriptor; none where it is unknown or implausible."""
    code = STATIC[parameter]
    if parameter == "Age":
        value = min(value, _OLDEST)
    if not code.lowest <= value <= code.highest:
        return []
    if parameter == "ICUType":
        return [(0.0, _STATIC_TYPES.index(ICU_TYPES[int(value) - 1]), 1.0)]
    return [(0.0, _STATIC_TYPES.index(parameter), value)]
