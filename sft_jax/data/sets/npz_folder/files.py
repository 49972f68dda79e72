"""Your own data: a folder with one `.npz` file per example, and a manifest.

`manifest.csv`, in the folder, has a line for each example:

    file,split,label
    clips/a.npz,train,dog
    clips/b.npz,valid,cat

`file` is relative to the folder and stays inside it. `split` is train, valid or test, and each
must have an example. An optional column `id` names the examples; by default the file does.
Further columns are ignored.

A `.npz` file, as `np.savez` writes it, holds an array for each modality, under the modality's
name: `[length, ..., features]` integers or floats, or `[length]` for `[length, 1]`. An array of a
stated kind has the form of that kind (`sft_jax.data.kinds`). Examples may differ only in length. A
modality that an example lacks is left out, or has length 0.

`dataset.json`, beside the manifest, is optional: `{"task": ..., "class_names": [...]}`.

    | task         | label column                    | class_names                          |
    | single_label | a name                          | by default the sorted names in train |
    | ordinal      | a name                          | needed, in their order               |
    | multi_label  | names joined by "|", or nothing | by default the sorted names in train |
    | regression   | numbers joined by "|"           | by default target_0, target_1, ...   |

Without this file the task is single_label. Nothing is unpickled.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sft_jax.data.kinds import check_kinds
from sft_jax.data.records import DataFileError, RawData, Record
from sft_jax.data.sets.npz_folder.archives import Header, read_arrays, read_headers
from sft_jax.data.sets.npz_folder.forms import Forms
from sft_jax.data.sets.npz_folder.labels import Labels, read_labels
from sft_jax.structs import Kind

SPLITS = ("train", "valid", "test")
MANIFEST, DESCRIPTION = "manifest.csv", "dataset.json"

_COLUMNS = ("file", "split", "label")
_NOT_MODALITIES = ("id", "label", "labels")
_MOST_PROBLEMS = 10


class Row(NamedTuple):
    """A line of the manifest."""

    line: int
    file: str
    split: str
    label: str
    id: str


def read_npz_folder(
    folder: str | os.PathLike[str],
    kinds: Mapping[str, Kind] | None = None,
    vocabulary: Mapping[str, int | str] | None = None,
) -> RawData:
    """Finds the contents of a folder from the headers of its files; `read` then reads the values.

    The docstring of this module describes the format. `files` of the result are the manifest and
    dataset.json, if it exists; `content_sha256` detects changes of the data.

    Args:
      folder: Folder of the manifest.
      kinds: Modality name to its kind, where that is stated.
      vocabulary: Modality name to its number of ids; for text to the largest number of words, or to
        `bytes`.

    Raises:
      DataFileError: If the manifest is missing, or a file does not have the described form. The
        message lists the first ten problems and counts the others. Also from `read`, if the
        values of a file are damaged or have changed.
      ValueError: If a modality or a kind of `kinds` is unknown.
    """
    folder = pathlib.Path(folder).expanduser()
    manifest = folder / MANIFEST
    rows = read_manifest(manifest)
    problems = _row_problems(rows)
    labels = read_labels(
        folder / DESCRIPTION,
        [(f"line {row.line}", row.split, row.label) for row in rows],
        problems,
    )
    inside = [row for row in rows if is_inside(row.file)]
    files = [(row.file, row.split) for row in inside]
    forms = Forms.find(folder, files, kinds or {}, vocabulary or {})
    shapes = _shapes(folder, inside, problems, forms)
    _raise(manifest, problems)
    check_kinds(forms.kinds, shapes, "data.kinds")
    return RawData(
        variant="npz_folder",
        files=tuple(path for path in (manifest, folder / DESCRIPTION) if path.exists()),
        shapes=shapes,
        class_names=labels.class_names,
        task=labels.task,
        num_examples={split: sum(row.split == split for row in rows) for split in SPLITS},
        read=functools.partial(_read, folder, tuple(rows), labels, shapes, forms),
        kinds=forms.kinds,
        sizes=forms.sizes,
        vocabularies=forms.vocabularies,
    )


def content_sha256(folder: str | os.PathLike[str]) -> str:
    """Computes a sha256 of the data of `read_npz_folder`, without reading the values.

    It covers the manifest, dataset.json and the name, shape, type and CRC-32 of each array, which
    a `.npz` file already holds. Compression and time of writing make no difference.
    A change that keeps the CRC-32 goes unnoticed: one in 4e9 does by chance, and a deliberate
    change can.

    Args:
      folder: Folder that `read_npz_folder` accepts.

    Raises:
      DataFileError: If the manifest or a file is missing or cannot be read.
    """
    folder = pathlib.Path(folder).expanduser()
    rows = read_manifest(folder / MANIFEST)
    _raise(folder / MANIFEST, _row_problems(rows))
    digest = hashlib.sha256()
    for path in (folder / MANIFEST, folder / DESCRIPTION):
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    for row in rows:
        try:
            arrays = read_headers(folder / row.file)
        except DataFileError as error:
            raise DataFileError(f"{folder / row.file}: {error}") from error
        for key, (shape, dtype, checksum) in sorted(arrays.items()):
            digest.update(f"{row.file}\0{key}\0{shape}\0{dtype.str}\0{checksum}\0".encode())
    return digest.hexdigest()


def _raise(manifest: pathlib.Path, problems: Sequence[str]) -> None:
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        printed = [f"{manifest}:", *problems[:_MOST_PROBLEMS]]
        raise DataFileError("\n".join(printed + ([f"and {more} more problems"] * (more > 0))))


def read_manifest(manifest: pathlib.Path, required: Sequence[str] = _COLUMNS) -> list[Row]:
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
                f"{', '.join(required)} and maybe id, each once"
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
    return Row(line, file, values.get("split", ""), values.get("label", ""), example_id)


def is_inside(file: str) -> bool:
    """Returns whether the path of a file in a manifest stays inside the folder."""
    path = pathlib.PurePosixPath(file)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in file
    )


def _row_problems(rows: Sequence[Row]) -> list[str]:
    problems = []
    files: dict[pathlib.PurePosixPath, int] = {}  # File to its line.
    ids: dict[str, int] = {}
    for row in rows:
        if row.split not in SPLITS:
            problems.append(
                f"line {row.line}: split {row.split!r} is not one of {', '.join(SPLITS)}"
            )
        if not is_inside(row.file):
            problems.append(f"line {row.line}: file {row.file!r} is no path inside the folder")
        first = files.setdefault(pathlib.PurePosixPath(row.file), row.line)
        if first != row.line:
            problems.append(f"line {row.line}: file {row.file!r} is that of line {first}, too")
        elif ids.setdefault(row.id, row.line) != row.line:
            problems.append(f"line {row.line}: id {row.id!r} is that of line {ids[row.id]}, too")
    empty = [split for split in SPLITS if not any(row.split == split for row in rows)]
    if empty:
        problems.append(
            f"no example of split {' and of split '.join(map(repr, empty))}: {', '.join(SPLITS)} "
            "are all required"
        )
    return problems


def _shapes(
    folder: pathlib.Path, rows: Sequence[Row], problems: list[str], forms: Forms
) -> dict[str, tuple[int, ...]]:
    """Finds the largest `[length, ..., features]` of each modality; adds faults to `problems`."""
    lengths: dict[str, int] = {}
    steps: dict[str, dict[tuple[int, ...], list[str]]] = {}  # Shape of a step to its files.
    in_train: set[str] = set()
    for row in rows:
        try:
            arrays = read_headers(folder / row.file)
        except DataFileError as error:
            problems.append(f"{row.file}: {error}")
            continue
        faults = {key: _problem(row.file, key, own, forms) for key, own in arrays.items()}
        problems += [f"{row.file}: {fault}" for fault in faults.values() if fault]
        present = {
            key: shape
            for key, fault in faults.items()
            if not fault and 0 not in (shape := _shape(row.file, key, arrays[key], forms))
        }
        if not present and not any(faults.values()):
            problems.append(f"{row.file}: it has no array, or none of any length")
        for key, (length, *step) in present.items():
            lengths[key] = max(lengths.get(key, 0), length)
            steps.setdefault(key, {}).setdefault(tuple(step), []).append(row.file)
        in_train |= present.keys() if row.split == "train" else set()
    if in_train:
        problems += [
            f"{next(iter(steps[key].values()))[0]}: {key!r} is in no file of the split train"
            for key in sorted(steps.keys() - in_train)
        ]
    expected = {key: _most_frequent(key, shapes, problems) for key, shapes in sorted(steps.items())}
    return {key: (lengths[key], *step) for key, step in expected.items()}


def _shape(file: str, key: str, array: Header, forms: Forms) -> tuple[int, ...]:
    return (0,) if array.shape[:1] == (0,) else forms.shape(file, key, array)


def _problem(file: str, key: str, array: Header, forms: Forms) -> str:
    if key in _NOT_MODALITIES:
        return f"{key!r} is an array; ids and labels belong into the manifest"
    if not key.isidentifier():
        return f"{key!r} is no name for a modality, which has letters, digits and _ alone"
    text = forms.kinds.get(key) == "text"
    if array.dtype.kind not in "iuf" and not text:
        hint = f"; of text state data.kinds={{{key!r}: 'text'}}" * (array.dtype.kind == "U")
        return f"{key} holds {array.dtype}, expected integers or floats{hint}"
    if not text and (not array.shape or (array.shape[0] and 0 in array.shape)):
        return f"{key} has shape {array.shape}, expected [length, ..., features], none of them 0"
    try:
        _shape(file, key, array, forms)
    except ValueError as error:
        return str(error)
    return ""


def _most_frequent(
    key: str, steps: Mapping[tuple[int, ...], Sequence[str]], problems: list[str]
) -> tuple[int, ...]:
    """Finds the shape of a step that most files share; adds other files to `problems`."""
    expected, *others = sorted(steps, key=lambda step: -len(steps[step]))
    for other in others:
        problems += [
            f"{file}: a step of {key} has shape {other}, expected {expected} as in "
            f"{steps[expected][0]}"
            for file in steps[other]
        ]
    return expected


def _read(
    folder: pathlib.Path,
    rows: Sequence[Row],
    labels: Labels,
    shapes: Mapping[str, tuple[int, ...]],
    forms: Forms,
    split: str,
) -> Iterator[Record]:
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: there are {', '.join(SPLITS)}")
    for row in rows:
        if row.split == split:
            inputs = _values(folder / row.file, shapes, forms)
            yield {"id": row.id, "inputs": inputs, "label": labels.encode(row.label)}


def _values(
    path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]], forms: Forms
) -> dict[str, np.ndarray]:
    inputs = {key: forms.kept(key, array) for key, array in read_arrays(path).items()}
    for key, array in inputs.items():
        length, *step = shapes.get(key, (0,))
        if array.shape[1:] != tuple(step) or len(array) > length:
            raise DataFileError(f"{path} has changed: now {key} has shape {array.shape}")
    return inputs
