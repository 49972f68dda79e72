"""Prepared data on disk: written once by TFDS, with a data card, and read as records.

TFDS writes to a directory of another name and renames it at the end, so prepared data is whole
or not there; the card travels in its metadata.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import io
import itertools
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format

from sft_jax.data import stored_records
from sft_jax.data.card import Card, clean_records, size_in_bytes
from sft_jax.data.records import RawData, Record
from sft_jax.data.sets.base import DatasetEntry, StoredForm, title
from sft_jax.data.view import View

_LOGGER = logging.getLogger(__name__)

_SHARD_EXAMPLES = 10_000
_EXAMPLES_PER_WRITE = 64  # After each write TFDS updates its description on disk.


@dataclasses.dataclass(eq=False)
class PreparedConfig(tfds.core.BuilderConfig):
    """Dataset to prepare or to read.

    Attributes:
      entry: Dataset, with its settings.
      form: Name and form of the prepared data; `name` is the same.
    """

    entry: DatasetEntry | None = None
    form: StoredForm | None = None


class PreparedData(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Records of a dataset on disk, in the order of its reader; each of its splits by itself.

    `sft_jax.data.stored_records` describes the form of a record.
    """

    RELEASE_NOTES = {  # noqa: RUF012 (TFDS reads a plain dict)
        "1.0.0": "First release.",
        "1.1.0": "Numbers that float32 does not hold are float64.",
    }

    @property
    def card(self) -> Card:
        """The data card.

        Raises:
          ValueError: If there is none, or it is damaged.
        """
        try:
            return Card.from_json(self.info.metadata["card"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the prepared data in {self.data_dir} has no data card of this version; remove it"
            ) from error
        except json.JSONDecodeError as error:
            raise _damaged(self.data_path, error) from error

    def description(self) -> dict[str, Any]:
        """Place and form of the data as JSON values, by which `find_again` opens it."""
        form = self.builder_config.form
        return {
            "data_dir": os.path.abspath(os.path.expanduser(str(self.data_path.parents[2]))),
            "config": form.name,
            "ranks": dict(form.ranks),
            "task": form.task,
        }

    def records(
        self,
        splits: Sequence[str],
        modalities: Sequence[str] | None = None,
        encode_label: Callable[[Any], int | np.ndarray] = lambda label: label,
    ) -> View[Record]:
        """Records of some splits, decoded when they are asked for.

        Args:
          splits: Names of stored splits, whose records follow one another.
          modalities: Names of the modalities to decode; all by default.
          encode_label: Function from a stored label to that of the record.

        Raises:
          ValueError: If the data is damaged; also when a record is asked for.
        """
        form = self.builder_config.form
        names = tuple(form.ranks) if modalities is None else modalities
        with self._naming_damage():
            source: Any = self.as_data_source("+".join(splits))

        def record(position: int) -> Record:
            with self._naming_damage():
                example = source[position]
            decoded = stored_records.decode(example, names, form.task)
            decoded["label"] = encode_label(decoded["label"])
            return decoded

        return View(len(source), record)

    @contextlib.contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # What array_record raises for any fault of a file.
            raise _damaged(self.data_path, error) from error

    def _info(self) -> Any:
        form = self.builder_config.form
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=stored_records.features(form.ranks, form.task),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager
        entry = self.builder_config.entry
        folder = _manual_folder(entry)
        raw = entry.read(folder)
        card = Card.begin(self.name, raw, entry.policy, folder)
        return {split: self._generate_examples(raw, card, split) for split in raw.num_examples}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes each example as it comes.

        TFDS by itself holds a split in memory, and needs TensorFlow for one of more than 1 GiB.
        """
        del download_config
        # Of the directory that is written to before it gets its name.
        info = self._info()
        writer = tfds.core.SequentialWriter(
            info, max_examples_per_shard=_SHARD_EXAMPLES, file_format="array_record"
        )
        splits = self._split_generators(dl_manager)
        writer.initialize_splits([*splits])
        for split, examples in splits.items():
            while group := [e for _, e in itertools.islice(examples, _EXAMPLES_PER_WRITE)]:
                writer.add_examples({split: group})
        writer.close_all()
        self.info.set_splits(info.splits)

    def _generate_examples(
        self, raw: RawData, card: Card, split: str
    ) -> Iterator[tuple[int, dict]]:
        form = self.builder_config.form
        for key, record in enumerate(clean_records(raw, card, split)):
            yield key, stored_records.encode(record, form.ranks, form.task)
        self.info.metadata["card"] = card.to_json()


def prepare(entry: DatasetEntry) -> PreparedData:
    """Prepares a dataset on disk, unless that has been done before.

    A preparation that was killed is simply done again, and several processes may prepare at
    once: the first to finish wins.

    Raises:
      OSError: If `data_dir` cannot be written to, or there is no `manual_dir`.
      ValueError: As `DatasetEntry.read` says; if what has been prepared is damaged, or was
        prepared from files of other sizes than those that are in `manual_dir` now.
      ModuleNotFoundError: As `DatasetEntry.read` says.
    """
    prepared = open_prepared(entry)
    folder = _manual_folder(entry)
    if prepared.data_path.exists():
        if entry.raw_folder:
            _check_same_files(prepared, folder)
        return prepared
    require_writable(prepared.data_path.parent, entry.data_dir)
    try:
        entry.require_files(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{_older(prepared.data_path)}") from None
    _LOGGER.info("preparing %s in %s (once)", prepared.name, prepared.data_dir)
    try:
        with quiet():
            prepared.download_and_prepare(file_format="array_record")
    except (OSError, RuntimeError) as error:
        # Renaming fails if another process has finished in the meantime.
        if not prepared.data_path.exists():
            # What array_record raises if it cannot write is a plain RuntimeError.
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if full or type(error) is RuntimeError:
                raise _unwritable(prepared.data_path.parent, entry.data_dir, error) from error
            raise
        _LOGGER.info("another process has prepared %s", prepared.data_dir)
    return _open(entry, prepared.builder_config.form, entry.data_dir)


def open_prepared(entry: DatasetEntry) -> PreparedData:
    """Prepared data of a dataset; its `data_path` exists if it has been prepared.

    Raises:
      OSError, ValueError, ModuleNotFoundError: As `DatasetEntry.stored_form` says.
      ValueError: If what has been prepared is damaged.
    """
    return _open(entry, entry.stored_form(_manual_folder(entry)), entry.data_dir)


def find_again(entry: DatasetEntry, description: Mapping[str, Any]) -> PreparedData | None:
    """Opens data that was prepared before, also where the raw data is gone.

    Args:
      entry: Dataset, whose `data_dir` is looked into first.
      description: As `PreparedData.description` gives it.

    Returns:
      Prepared data, or None if it is not there.

    Raises:
      ValueError: If it is damaged.
    """
    form = StoredForm(description["config"], description["ranks"], description["task"])
    for folder in filter(None, (entry.data_dir, description["data_dir"])):
        prepared = _open(entry, form, folder)
        if prepared.data_path.exists():
            return prepared
    return None


def _open(entry: DatasetEntry, form: StoredForm, data_dir: str) -> PreparedData:
    kind = _kind(type(entry))
    root = os.path.expanduser(data_dir)
    with quiet():
        try:
            config = PreparedConfig(name=form.name, entry=entry, form=form)
            prepared = kind(config=config, data_dir=root or None)
        except (json_format.ParseError, json.JSONDecodeError) as error:
            root = root or tfds.core.constants.DATA_DIR
            raise _damaged(Path(root) / kind.name / form.name / entry.version, error) from error
        if prepared.data_path.exists() and not prepared.is_prepared():
            raise _damaged(prepared.data_path, "a file is missing")
    return prepared


@functools.cache
def _kind(entry: type[DatasetEntry]) -> type[PreparedData]:
    """A builder class for a dataset, since TFDS takes name and version from the class."""

    class Prepared(PreparedData, skip_registration=True):  # type: ignore[call-arg]
        name = entry.store_name()
        VERSION = tfds.core.Version(entry.version)

    Prepared.__doc__ = title(entry)
    return Prepared


def require_writable(directory: Path, data_dir: str) -> None:
    """Raises OSError unless something can be written to a directory, which it makes."""
    probe = directory / f"probe_{uuid.uuid4().hex}"
    try:
        probe.mkdir(parents=True)
        probe.rmdir()
    except OSError as error:
        raise _unwritable(directory, data_dir, error) from error


def _unwritable(directory: Path, data_dir: str, error: Exception) -> OSError:
    return OSError(
        f"cannot write to data_dir={data_dir!r} ({directory}): {error}; "
        "choose another with --config.data.data_dir or TFDS_DATA_DIR"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def _manual_folder(entry: DatasetEntry) -> Path:
    """Folder of the raw files: `manual_dir`, or `downloads/manual` in `data_dir`."""
    root = os.path.expanduser(entry.data_dir) or tfds.core.constants.DATA_DIR
    named = os.path.expanduser(entry.raw_folder)
    return Path(named or os.path.join(root, "downloads", "manual"))


def _older(data_path: Path) -> str:
    """Sentence that names data of other versions, if there is any."""
    siblings = sorted(data_path.parent.iterdir()) if data_path.parent.exists() else []
    versions = [str(path) for path in siblings if path.name.replace(".", "").isdigit()]
    if not versions:
        return ""
    return (
        f". What is in {', '.join(versions)} was prepared by another version of this library;"
        " remove it"
    )


def _damaged(path: Path, reason: object) -> ValueError:
    return ValueError(f"the prepared data in {path} is damaged; remove it ({reason})")


def _check_same_files(prepared: PreparedData, folder: Path) -> None:
    for file in prepared.card.files:
        path = folder / file["name"]
        if path.exists() and (size := size_in_bytes(path)) != file["bytes"]:
            raise ValueError(
                f"{prepared.data_dir} was prepared from {file['name']} of {file['bytes']} bytes,"
                f" but the one in {folder} has {size}; remove the prepared data to prepare it"
                " again"
            )
