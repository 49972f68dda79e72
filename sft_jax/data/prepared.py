"""Prepared data on disk: written once by TFDS, with a data card, and read as records.

TFDS writes to a temporary directory and renames it at the end, so prepared data is complete or
absent. The metadata of TFDS holds the card.
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

from sft_jax.data import derived, stored_records
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
      form: Name and form of the prepared data; `name` repeats its name.
    """

    entry: DatasetEntry | None = None
    form: StoredForm | None = None


class PreparedData(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Records of a dataset on disk, in the order of its reader, with each split stored separately.

    `sft_jax.data.stored_records` describes the form of a record.
    """

    RELEASE_NOTES = {  # noqa: RUF012 (TFDS reads a plain dict)
        "1.0.0": "First release.",
        "1.1.0": "Numbers that float32 does not hold are float64.",
    }

    @property
    def card(self) -> Card:
        """Returns the data card.

        Raises:
          ValueError: If the card is missing or damaged.
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
        """Returns the place and form of the data as JSON values, for `find_again`."""
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
        """Returns the records of some splits, each decoded on access.

        Args:
          splits: Names of stored splits, whose records follow one another.
          modalities: Names of the modalities to decode; all by default.
          encode_label: Function from a stored label to the label of the record.

        Raises:
          ValueError: If the data is damaged; also on access to a record.
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
        except RuntimeError as error:  # array_record raises it for any fault of a file.
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
        raw = derived.add_to(entry.read(folder), entry.derived)
        card = Card.begin(self.name, raw, entry.policy, folder)
        return {split: self._generate_examples(raw, card, split) for split in raw.num_examples}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes each example as it is read.

        TFDS's own method holds a split in memory, and needs TensorFlow for more than 1 GiB.
        """
        del download_config
        # The info of the temporary directory, before it is renamed.
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
    """Prepares a dataset on disk, unless it is prepared already.

    A preparation that was killed starts again from the beginning. Several processes may prepare
    at once: the first to finish wins.

    Raises:
      OSError: If `data_dir` cannot be written to, or there is no `manual_dir`.
      ValueError: See `DatasetEntry.read`. Also if the prepared data is damaged, or the sizes of
        the files in `manual_dir` have changed since the preparation.
      ModuleNotFoundError: See `DatasetEntry.read`.
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
            # array_record raises a plain RuntimeError if it cannot write.
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if full or type(error) is RuntimeError:
                raise _unwritable(prepared.data_path.parent, entry.data_dir, error) from error
            raise
        _LOGGER.info("another process has prepared %s", prepared.data_dir)
    return _open(entry, prepared.builder_config.form, entry.data_dir)


def open_prepared(entry: DatasetEntry) -> PreparedData:
    """Opens the prepared data of a dataset; `data_path` exists only after a preparation.

    Raises:
      OSError, ValueError, ModuleNotFoundError: See `DatasetEntry.stored_form`.
      ValueError: If the prepared data is damaged.
    """
    return _open(entry, entry.whole_form(_manual_folder(entry)), entry.data_dir)


def find_again(entry: DatasetEntry, description: Mapping[str, Any]) -> PreparedData | None:
    """Opens data that was prepared earlier, even if the raw data is gone.

    Args:
      entry: Dataset, whose `data_dir` is searched first.
      description: Value of `PreparedData.description`.

    Returns:
      Prepared data, or None if there is none.

    Raises:
      ValueError: If the prepared data is damaged.
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
    """Makes a builder class for a dataset, since TFDS takes name and version from the class."""

    class Prepared(PreparedData, skip_registration=True):  # type: ignore[call-arg]
        name = entry.store_name()
        VERSION = tfds.core.Version(entry.version)

    Prepared.__doc__ = title(entry)
    return Prepared


def require_writable(directory: Path, data_dir: str) -> None:
    """Makes a directory, and raises OSError unless it can be written to."""
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
    """Suppresses the output of TFDS: messages about downloads, progress bars, lines per file."""
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
    """Returns the folder of the raw files: `manual_dir`, or `downloads/manual` in `data_dir`."""
    root = os.path.expanduser(entry.data_dir) or tfds.core.constants.DATA_DIR
    named = os.path.expanduser(entry.raw_folder)
    return Path(named or os.path.join(root, "downloads", "manual"))


def _older(data_path: Path) -> str:
    """Returns a sentence that names data of other versions, if there is any."""
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
