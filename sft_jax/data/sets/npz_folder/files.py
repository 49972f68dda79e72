"""Your own data: a folder with one `.npz` file per example, and a manifest.

`manifest.csv`, in the folder, has a line for each example:

    file,split,label
    clips/a.npz,train,dog
    clips/b.npz,valid,cat

`file` is relative to the folder and stays inside it. `split` is train, valid or test, and each
must have an example. An optional column `id` names the examples; by default the file does.
Further columns are ignored. For cross-validation (`sft_jax.data.sets.folds`) the column `split` is
not needed. A column `group` then names what must stay together, such as a person; by default each
example is a group of its own.

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

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sft_jax.data.kinds import check_kinds
from sft_jax.data.records import DataFileError, RawData, Record
from sft_jax.data.sets.npz_folder.archives import Header, read_arrays, read_headers
from sft_jax.data.sets.npz_folder.forms import Forms
from sft_jax.data.sets.npz_folder.labels import Labels, read_labels
from sft_jax.data.sets.npz_folder.manifest import (
    COLUMNS,
    DESCRIPTION,
    MANIFEST,
    SPLITS,
    Row,
    into_folds,
    is_inside,
    read_manifest,
    row_problems,
)
from sft_jax.structs import Kind

_NOT_MODALITIES = ("id", "label", "labels")
_MOST_PROBLEMS = 10


def read_npz_folder(
    folder: str | os.PathLike[str],
    kinds: Mapping[str, Kind] | None = None,
    vocabulary: Mapping[str, int | str] | None = None,
    *,
    folds: int = 0,
    fold: int = 0,
) -> RawData:
    """Finds the contents of a folder from the headers of its files; `read` then reads the values.

    The docstring of this module describes the format. `files` of the result are the manifest and
    dataset.json, if it exists; `content_sha256` detects changes of the data.

    Args:
      folder: Folder of the manifest.
      kinds: Modality name to its kind, where that is stated.
      vocabulary: Modality name to its number of ids; for text to the largest number of words, or to
        `bytes`.
      folds: Number of folds in place of the splits of the manifest; 0 for these.
      fold: Number of the fold to test on.

    Raises:
      DataFileError: If the manifest is missing, or a file does not have the described form. The
        message lists the first ten problems and counts the others. Also from `read`, if the
        values of a file are damaged or have changed.
      ValueError: If a modality or a kind of `kinds` is unknown. Also see `into_folds`.
    """
    folder = pathlib.Path(folder).expanduser()
    manifest = folder / MANIFEST
    rows = _read_rows(manifest, folds)
    problems = row_problems(rows, folds=folds > 0)
    # With folds, every class must be in the training split, so that all lines tell their names.
    labels = read_labels(
        folder / DESCRIPTION,
        [(f"line {row.line}", "train" if folds else row.split, row.label) for row in rows],
        problems,
    )
    if folds:
        _raise(manifest, problems)
        rows = into_folds(rows, labels, folds, fold)
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


def content_sha256(folder: str | os.PathLike[str], folds: int = 0) -> str:
    """Computes a sha256 of the data of `read_npz_folder`, without reading the values.

    It covers the manifest, dataset.json and the name, shape, type and CRC-32 of each array, which
    a `.npz` file already holds. Compression and time of writing make no difference.
    A change that keeps the CRC-32 goes unnoticed: one in 4e9 does by chance, and a deliberate
    change can.

    Args:
      folder: Folder that `read_npz_folder` accepts.
      folds: Number of folds, as there.

    Raises:
      DataFileError: If the manifest or a file is missing or cannot be read.
    """
    folder = pathlib.Path(folder).expanduser()
    rows = _read_rows(folder / MANIFEST, folds)
    _raise(folder / MANIFEST, row_problems(rows, folds=folds > 0))
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


def _read_rows(manifest: pathlib.Path, folds: int) -> list[Row]:
    return read_manifest(manifest, ("file", "label") if folds else COLUMNS)


def _raise(manifest: pathlib.Path, problems: Sequence[str]) -> None:
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        printed = [f"{manifest}:", *problems[:_MOST_PROBLEMS]]
        raise DataFileError("\n".join(printed + ([f"and {more} more problems"] * (more > 0))))


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
