"""The feature files of VGGSound that the authors of SFT trained on.

Chen et al. 2020 (arXiv 2004.14368) labelled YouTube clips with their sound; the authors of SFT
(arXiv 2111.11992) computed features for the clips of 10 and of 100 classes. Their HDF5 files are
called `vgg_train.h5py` and `vgg_test.h5py` (10 classes), and `vgg100_train.h5py` and
`vgg100_test.h5py` (100 classes). Each holds arrays for n clips:

    | rgb        | [n, 38, 1024]    | features of the pictures               |
    | spect      | [n, 1200, 128]   | spectrogram                            |
    | flow       | [n, 38, 1024]    | features of the optical flow           |
    | class_name | [n]              | names as bytes, such as b"baby_crying" |
    | labels     | [n] or [n, ...]  | not used, except its length            |

There is no validation file: some rows of the training file are set aside for validation.
"""

from __future__ import annotations

import difflib
import functools
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from sft_jax.data.records import DataFileError, RawData, Record

Split = Literal["stratified", "authors"]

SHAPES = {"rgb": (38, 1024), "spect": (1200, 128), "flow": (38, 1024)}

_PREFIXES = {10: "vgg", 100: "vgg100"}
_AUTHORS_SEED, _AUTHORS_SHARE = 1111, 0.2
_BLOCK_BYTES = 64 * 2**20


class _Rows(NamedTuple):
    """Rows of a file that form a split, and their labels."""

    file: pathlib.Path
    rows: np.ndarray
    labels: np.ndarray


def read_vggsound(
    folder: str | os.PathLike[str],
    *,
    classes: Literal[10, 100] = 10,
    split: Split = "stratified",
    valid_share: float = 0.2,
    seed: int = 0,
    only_classes: Sequence[str] = (),
) -> RawData:
    """Finds the clips of the two feature files; `read` then reads them clip by clip.

    The class of a clip is the rank of its name among the sorted names of the training file,
    or of `only_classes`. A clip in row 123 of the training file has the id `train/000123`,
    even if it is set aside for validation. Numbers that are not finite are kept.

    Args:
      folder: Folder of the two files.
      classes: 10 for the files `vgg_*.h5py`, 100 for `vgg100_*.h5py`.
      split: Choice of the rows for validation. "stratified" takes the same share of every class
        with several rows, at least one row and never all. It is drawn for each class separately,
        from `seed` and the name of the class. "authors" follows the authors' code and ignores
        the classes: `np.random.RandomState(1111)` shuffles the rows, and the last floor(n / 5)
        are taken.
      valid_share: Share of each class for the stratified split, between 0 and 1.
      seed: Seed of the stratified split, 0 or more.
      only_classes: Names of the classes to keep, at least two; by default all. The authors'
        split then shuffles only the rows of these classes.

    Returns:
      Splits train, valid and test of the task single_label. The variant gives the number of
      classes in the training file: "vggsound10", or "vggsound100_only_2" if two of 100 are kept.

    Raises:
      DataFileError: If a file is missing, cannot be read or has the wrong layout; the message
        lists the problems of both files. Also if the test file has a class that the training
        file lacks, or a split has no clips. From `read`, if the values of a file are damaged.
      ValueError: If an argument is not allowed, or `only_classes` has an unknown name.
      ModuleNotFoundError: If h5py is not installed.
    """
    _check_arguments(classes, split, valid_share, seed, only_classes)
    h5py = _import_h5py()
    train_file, test_file = _paths(pathlib.Path(folder).expanduser(), classes)
    train_names, test_names = _class_names(h5py, train_file, test_file)
    known = sorted(set(train_names))
    kept = _kept_classes(only_classes, known, train_file)
    labels = {name: label for label, name in enumerate(kept)}
    rows = np.array([row for row, name in enumerate(train_names) if name in labels], int)
    names = [train_names[row] for row in rows]
    if split == "authors":
        in_valid = _authors_validation(len(rows))
    else:
        in_valid = _stratified_validation(names, valid_share, seed)
    train_labels = np.array([labels[name] for name in names], int)
    test_rows = np.array([row for row, name in enumerate(test_names) if name in labels], int)
    test_labels = np.array([labels[test_names[row]] for row in test_rows], int)
    splits = {
        "train": _Rows(train_file, rows[~in_valid], train_labels[~in_valid]),
        "valid": _Rows(train_file, rows[in_valid], train_labels[in_valid]),
        "test": _Rows(test_file, test_rows, test_labels),
    }
    _require_clips(splits, train_file)
    return RawData(
        variant=f"vggsound{len(known)}" + (f"_only_{len(kept)}" if only_classes else ""),
        files=(train_file, test_file),
        shapes=SHAPES,
        class_names=tuple(kept),
        task="single_label",
        num_examples={name: len(split_rows.rows) for name, split_rows in splits.items()},
        read=functools.partial(_read, splits),
    )


def _check_arguments(
    classes: int, split: str, valid_share: float, seed: int, only_classes: Sequence[str]
) -> None:
    if classes not in _PREFIXES:
        raise ValueError(f"classes={classes!r} is not one of {', '.join(map(str, _PREFIXES))}")
    if split not in ("stratified", "authors"):
        raise ValueError(f"split={split!r} is not one of stratified, authors")
    if not 0 < valid_share < 1:
        raise ValueError(f"valid_share={valid_share} is not between 0 and 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is not between 0 and 2**32 - 1")
    if isinstance(only_classes, str) or len(only_classes) == 1:
        raise ValueError(f"only_classes={only_classes!r} must be at least two names")
    if len(set(only_classes)) < len(only_classes):
        raise ValueError(f"only_classes={list(only_classes)} names a class twice")


def _import_h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the VGGSound feature files are read by the package 'h5py', which is not "
            "installed: pip install 'sft_jax[vggsound]'"
        ) from error
    return h5py


def _paths(folder: pathlib.Path, classes: int) -> tuple[pathlib.Path, pathlib.Path]:
    prefix = _PREFIXES[classes]
    return folder / f"{prefix}_train.h5py", folder / f"{prefix}_test.h5py"


def _class_names(
    h5py: Any, train_file: pathlib.Path, test_file: pathlib.Path
) -> tuple[list[str], list[str]]:
    """Reads the class names of the rows of both files, and checks the layout of the files."""
    problems = _missing_problems(train_file, test_file)
    train, test = (
        _checked_names(h5py, file, problems) if file.is_file() else []
        for file in (train_file, test_file)
    )
    unknown = sorted(set(test) - set(train))
    if train and unknown:
        problems.append(f"{test_file} has classes that {train_file.name} lacks: {unknown}")
    if len(set(train)) == 1:
        problems.append(f"{train_file} has a single class, {train[0]!r}; at least two are needed")
    if problems:
        raise DataFileError("\n".join(problems))
    return train, test


def _missing_problems(train_file: pathlib.Path, test_file: pathlib.Path) -> list[str]:
    missing = [path.name for path in (train_file, test_file) if not path.is_file()]
    if not missing:
        return []
    pairs = {count: _paths(train_file.parent, count) for count in _PREFIXES}
    present = [count for count, pair in pairs.items() if all(path.is_file() for path in pair)]
    return [
        f"there is no {' and no '.join(missing)} in {train_file.parent}, where two feature files "
        f"of the authors of SFT are expected under their own names, {train_file.name} and "
        f"{test_file.name}" + "".join(f"; those of {count} classes are there" for count in present)
    ]


def _checked_names(h5py: Any, path: pathlib.Path, problems: list[str]) -> list[str]:
    """Reads the class names of the rows of a file; adds its faults to `problems`."""
    try:
        with h5py.File(path, "r") as file:
            faults = _layout_problems(h5py, file)
            problems += [f"{path}: {fault}" for fault in faults]
            return [] if faults else [_text(name) for name in file["class_name"][:]]
    # h5py raises all of these, depending on which part of the file is damaged.
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        problems.append(f"{path} is damaged, cut short or no HDF5 file: {error}")
        return []


def _layout_problems(h5py: Any, file: Any) -> list[str]:
    problems = []
    for key in (*SHAPES, "class_name", "labels"):
        if not isinstance(file.get(key), h5py.Dataset):
            problems.append(
                f"no dataset {key!r}; there are {', '.join(sorted(map(str, file))) or 'none'}"
            )
        elif key in SHAPES and file[key].shape[1:] != SHAPES[key]:
            expected = ", ".join(map(str, SHAPES[key]))
            problems.append(f"{key} has shape {file[key].shape}, expected [n, {expected}]")
        elif key in SHAPES and file[key].dtype.kind not in "iuf":
            problems.append(f"{key} holds {file[key].dtype}, expected integers or floats")
        elif key == "class_name" and not _is_names(h5py, file[key]):
            problems.append(
                f"class_name has shape {file[key].shape} and type {file[key].dtype}, "
                "expected [n] names"
            )
        elif not file[key].shape:
            problems.append(f"{key} is a single value, expected one for each clip")
    if not problems:
        sizes = {key: file[key].shape[0] for key in (*SHAPES, "class_name", "labels")}
        if len(set(sizes.values())) > 1:
            problems.append(f"the datasets differ in their number of clips: {sizes}")
        elif not sizes["labels"]:
            problems.append("there are no clips in it")
    return problems


def _is_names(h5py: Any, dataset: Any) -> bool:
    return dataset.ndim == 1 and h5py.check_string_dtype(dataset.dtype) is not None


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _kept_classes(
    only_classes: Sequence[str], known: list[str], train_file: pathlib.Path
) -> list[str]:
    for name in only_classes:
        if name not in known:
            close = difflib.get_close_matches(name, known, 3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(known)}"
            raise ValueError(f"only_classes: {name!r} is no class of {train_file}; {hint}")
    return sorted(only_classes) if only_classes else known


# Both splits use RandomState: unlike a Generator's, its numbers never change with numpy releases.
def _authors_validation(num_rows: int) -> np.ndarray:
    """Draws `[num_rows]` booleans, True for validation."""
    order = list(range(num_rows))
    np.random.RandomState(_AUTHORS_SEED).shuffle(order)
    in_valid = np.zeros(num_rows, bool)
    in_valid[order[num_rows - int(_AUTHORS_SHARE * num_rows) :]] = True
    return in_valid


def _stratified_validation(names: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Draws `[len(names)]` booleans, True for validation."""
    in_valid = np.zeros(len(names), bool)
    for name in sorted(set(names)):
        rows = np.flatnonzero(np.asarray(names) == name)
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        drawn = np.random.RandomState([seed, zlib.crc32(name.encode())]).permutation(len(rows))
        in_valid[rows[drawn[:count]]] = True
    return in_valid


def _require_clips(splits: Mapping[str, _Rows], train_file: pathlib.Path) -> None:
    counts = {name: len(split_rows.rows) for name, split_rows in splits.items()}
    if not counts["valid"]:
        raise DataFileError(
            f"{train_file} has too few clips to set some aside for validation: {counts['train']} "
            "of the classes that are kept; at least 5 are needed for the authors' split, and two "
            "of some class for the stratified one"
        )
    if not counts["test"]:
        raise DataFileError(f"{splits['test'].file} has no clip of the classes that are kept")


def _read(splits: Mapping[str, _Rows], split: str) -> Iterator[Record]:
    if split not in splits:
        raise ValueError(f"no split {split!r}: there are {', '.join(splits)}")
    path, rows, labels = splits[split]
    prefix = path.stem.rpartition("_")[2]
    with _import_h5py().File(path, "r") as file:
        features = {key: _Blocks(file[key], path) for key in SHAPES}
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            yield {
                "id": f"{prefix}/{row:06d}",
                "inputs": {key: blocks.row(row) for key, blocks in features.items()},
                "label": label,
            }


class _Blocks:
    """Rows of a dataset, read in blocks of the size of an HDF5 chunk.

    HDF5 reads whole chunks of many rows, which may be compressed. Reading row by row would
    decode each chunk many times.
    """

    def __init__(self, dataset: Any, path: pathlib.Path) -> None:
        stored = dataset.chunks[0] if dataset.chunks else 1
        row_bytes = int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize
        self._size = max(1, min(stored, _BLOCK_BYTES // row_bytes))
        self._dataset, self._path = dataset, path
        self._start, self._block = -1, np.empty(0)

    def row(self, row: int) -> np.ndarray:
        """Reads one row, and returns a copy of it."""
        start = row - row % self._size
        if start != self._start:
            try:
                self._block = self._dataset[start : start + self._size]
            except (OSError, RuntimeError) as error:
                raise DataFileError(
                    f"{self._path}: {self._dataset.name} is damaged near row {row}: {error}"
                ) from error
            self._start = start
        return self._block[row - start].copy()
