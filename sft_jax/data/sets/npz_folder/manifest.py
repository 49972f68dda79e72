"""The manifest of a folder of `.npz` files: its lines, and the split of each.

`sft_jax.data.sets.npz_folder.files` describes the format.
"""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.folds import check_fold, split_groups
from sft_jax.data.sets.npz_folder.labels import Labels
from sft_jax.data.split_summary import SplitSummary

SPLITS = ("train", "valid", "test")
MANIFEST, DESCRIPTION = "manifest.csv", "dataset.json"

COLUMNS = ("file", "split", "label")


class Row(NamedTuple):
    """A line of the manifest; `group` is None without that column."""

    line: int
    file: str
    split: str
    label: str
    id: str
    group: str | None = None


def read_manifest(manifest: pathlib.Path, required: Sequence[str] = COLUMNS) -> list[Row]:
    """Reads the lines of a manifest, without spaces around their values.

    Args:
      manifest: Path of the manifest.
      required: Columns that it must have. Others of a `Row` are empty where they are missing.

    Raises:
      DataFileError: If there is no such file, or it is no table with these columns.
    """
    if not manifest.is_file():
        raise DataFileError(
            f"there is no {manifest}; expected a table with the columns {', '.join(required)}"
        )
    try:
        text = manifest.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        missing = [name for name in required if name not in columns]
        if missing or len(set(columns)) < len(columns):
            raise DataFileError(
                f"{manifest} has the columns {', '.join(columns) or '(none)'}; expected "
                f"{', '.join(required)} and maybe id and group, each once"
            )
        return [_row(manifest, reader.line_num, fields) for fields in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataFileError(f"{manifest} is no CSV file in UTF-8: {error}") from error


def _row(manifest: pathlib.Path, line: int, fields: Mapping[str | None, str | None]) -> Row:
    if None in fields or None in fields.values():
        raise DataFileError(
            f"{manifest} line {line} has more or fewer values than there are columns; a value "
            'with a comma in it is written in double quotes, as in "a, b"'
        )
    values = {name: (value or "").strip() for name, value in fields.items()}
    file = values["file"]
    example_id = values.get("id") or file.removesuffix(".npz")
    split, label = values.get("split", ""), values.get("label", "")
    return Row(line, file, split, label, example_id, values.get("group"))


def is_inside(file: str) -> bool:
    """Returns whether the path of a file in a manifest stays inside the folder."""
    path = pathlib.PurePosixPath(file)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in file
    )


def row_problems(rows: Sequence[Row], *, folds: bool = False) -> list[str]:
    """Lists what is wrong with the lines of a manifest, labels aside.

    Args:
      rows: Lines.
      folds: Whether the splits are folds, so that no line needs a split.
    """
    problems = []
    files: dict[pathlib.PurePosixPath, int] = {}  # File to its line.
    ids: dict[str, int] = {}
    for row in rows:
        if not folds and row.split not in SPLITS:
            problems.append(
                f"line {row.line}: split {row.split!r} is not one of {', '.join(SPLITS)}"
            )
        if folds and row.group == "":
            problems.append(f"line {row.line}: the column group is empty")
        if not is_inside(row.file):
            problems.append(f"line {row.line}: file {row.file!r} is no path inside the folder")
        first = files.setdefault(pathlib.PurePosixPath(row.file), row.line)
        if first != row.line:
            problems.append(f"line {row.line}: file {row.file!r} is that of line {first}, too")
        elif ids.setdefault(row.id, row.line) != row.line:
            problems.append(f"line {row.line}: id {row.id!r} is that of line {ids[row.id]}, too")
    empty = [split for split in SPLITS if not any(row.split == split for row in rows)]
    if empty and not folds:
        problems.append(
            f"no example of split {' and of split '.join(map(repr, empty))}: {', '.join(SPLITS)} "
            "are all required"
        )
    return problems


def into_folds(rows: Sequence[Row], labels: Labels, folds: int, fold: int) -> list[Row]:
    """Replaces the split of each line by that of a fold; see `split_groups`.

    Lines of one group stay together. Without the column, each line is a group of its own.

    Args:
      rows: Lines, whose labels are valid.
      labels: Kind of the labels.
      folds: Number of folds.
      fold: Number of the fold to test on.

    Raises:
      ValueError: If there are fewer groups than folds, or a split would lack a class.
    """
    groups: dict[str, SplitSummary] = {}
    for row in rows:
        summary = groups.setdefault(_group(row), SplitSummary())
        summary.n_examples += 1
        summary.add_label(labels.encode(row.label), labels.task, labels.class_names)
    check_fold(folds, fold, len(groups))
    divided = split_groups(groups, folds, fold, labels.task, labels.class_names)
    split_of = {name: split for split, names in divided.items() for name in names}
    return [row._replace(split=split_of[_group(row)]) for row in rows]


def _group(row: Row) -> str:
    return row.file if row.group is None else row.group
