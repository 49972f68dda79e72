"""Files of examples to predict, which need no labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sft_jax.data import registry
from sft_jax.data.records import DataFileError
from sft_jax.data.sets.npz_folder.archives import read_arrays
from sft_jax.data.sets.npz_folder.manifest import MANIFEST, Row, is_inside, read_manifest
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory, RunDirectoryError
from sft_jax.runs.storage import AnyPath


class Unlabelled(NamedTuple):
    """One example of a file.

    Attributes:
      id: Name of the example.
      split: Split of a raw dataset or manifest; empty without one.
      values: Modality name to raw values, without absent modalities.
      masks: Modality name to the mask of its real steps, where it has gaps.
      error: Error that reading it raised, which leaves the example without values.
      as_given: Whether values have the form of their kind (`sft_jax.data.kinds`).
    """

    id: str
    split: str
    values: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    error: DataFileError | None = None
    as_given: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples to predict.

    Attributes:
      count: Number of examples.
      read: Function that reads them one after the other.
      has_splits: Whether the examples have splits.
    """

    count: int
    read: Callable[[], Iterator[Unlabelled]]
    has_splits: bool = False


def open_source(path: str, run: RunDirectory, split: str = "") -> Source:
    """Finds the examples of a file or folder; they are read later, one by one.

    | path | examples |
    | --- | --- |
    | `FILE.npz` | one, with an array for each modality; its name is that of the file |
    | `FILE.csv`, folder with `manifest.csv` | the column `file`, named by `id` if it is there |
    | other folder with `.npz` files | all of them, also in folders below, sorted by name |
    | anything else | the raw files of the dataset that the run was trained on |

    `sft_jax.data.sets.npz_folder.files` describes `.npz` files and manifests. The columns
    `split` and `label` of a manifest are not needed.

    Args:
      path: File or folder. Those of the first three rows may be in a bucket.
      run: Run directory, whose config names the dataset of raw files.
      split: Split to read, of a raw dataset or of a manifest with such a column; empty for all.

    Raises:
      DataFileError: If a file is not as it should be.
      FileNotFoundError: If there is no such file or folder.
      ValueError: If it holds no examples, or there is no such split.
    """
    found = storage.as_path(path)
    if not found.exists():
        raise FileNotFoundError(f"input {path}: there is no such file or folder")
    manifest = found / MANIFEST if found.is_dir() else found
    if manifest.suffix == ".csv" and manifest.exists():
        source = _from_manifest(manifest, split)
    elif names := [found.name] if found.suffix == ".npz" else _npz_files(found):
        if split:
            raise ValueError(f"split={split!r}: {path} has no splits; leave it out")
        folder = found if found.is_dir() else found.parent
        source = _from_rows(folder, [Row(0, n, "", "", n.removesuffix(".npz")) for n in names])
    else:
        source = _from_dataset(found, run, split)
    if not source.count:
        raise ValueError(f"input {path} holds no example{f' of split {split!r}' * bool(split)}")
    return source


def _npz_files(path: AnyPath) -> list[str]:
    """Names of the `.npz` files in a folder and in folders below; none of a file."""
    names = (name for name, _ in storage.files(path)) if path.is_dir() else ()
    return sorted(name for name in names if name.endswith(".npz"))


def _from_manifest(manifest: AnyPath, split: str) -> Source:
    rows = read_manifest(manifest, required=("file",))
    has_splits = any(row.split for row in rows)
    if split and not has_splits:
        raise ValueError(f"split={split!r}: {manifest} has no column split; leave it out")
    chosen = [row for row in rows if split in ("", row.split)]
    return _from_rows(manifest.parent, chosen, has_splits)


def _from_rows(folder: AnyPath, rows: list[Row], has_splits: bool = False) -> Source:
    def read() -> Iterator[Unlabelled]:
        for row in rows:
            try:
                if not is_inside(row.file):
                    raise DataFileError(f"file {row.file!r} is no path inside {folder}")
                values = read_arrays(folder / row.file)
                yield Unlabelled(row.id, row.split, values, {}, as_given=True)
            except DataFileError as error:
                yield Unlabelled(row.id, row.split, {}, {}, error)

    return Source(len(rows), read, has_splits)


def _from_dataset(path: AnyPath, run: RunDirectory, split: str) -> Source:
    """Raw files, read with the settings of the run."""
    no_npz = f"input {path} has no {MANIFEST} and is no .npz file or folder of such"
    if storage.in_bucket(path):
        raise ValueError(f"{no_npz}; other files are read from local folders alone")
    try:
        dataset = run.read_config().data
    except RunDirectoryError as error:
        raise ValueError(f"{no_npz}, and no run tells how to read it: {error}") from None
    if not dataset.has_files():
        raise ValueError(
            f"{no_npz}, and the dataset of the run, {dataset.name}, is not read from raw files"
        )
    fields: dict[str, Any] = {**registry.dump(dataset), **dataset.fields_of_path(path)}
    raw = registry.read_raw(registry.parse(fields))
    if split and split not in raw.num_examples:
        raise ValueError(f"split={split!r}: {path} has {', '.join(raw.num_examples)}")
    splits = [name for name in raw.num_examples if split in ("", name)]

    def read() -> Iterator[Unlabelled]:
        for name in splits:
            for record in raw.read(name):
                yield Unlabelled(record["id"], name, record["inputs"], record.get("masks", {}))

    return Source(sum(raw.num_examples[name] for name in splits), read, has_splits=True)
