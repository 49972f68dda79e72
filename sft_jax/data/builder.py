"""From raw files to prepared data: a TFDS builder of ragged examples with a data card.

TFDS writes to a directory of another name and renames it at the end, so prepared data is whole
or not there; the card travels in its metadata.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format

from sft_jax.data.card import Card, clean_records, size_in_bytes
from sft_jax.data.records import RawData, Record
from sft_jax.structs import CLASS_TASKS, NotFinite, Task

_LOGGER = logging.getLogger(__name__)

_SHARD_EXAMPLES = 10_000
_AT_ONCE = 64  # After so many examples the writer updates its description on disk.


@dataclasses.dataclass(eq=False)
class RawConfig(tfds.core.BuilderConfig):
    """What to read and how to treat it.

    Attributes:
      read: gives the raw data, from the folder of the raw files.
      ranks: modality name to the number of axes of `[length, ..., features]`.
      task: what the labels are.
      policy: what is done with numbers that are not finite.
      needs_files: whether there is a folder of raw files.
    """

    read: Callable[[Path], RawData] = lambda _: _nothing()
    ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    task: Task = "single_label"
    policy: NotFinite = "error"
    needs_files: bool = True


class RawBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Stores what a reader gives, one split for each of its own, in its order.

    An example has `id`, `label` and, for each modality, `shape` (`[length, ..., features]`) and the
    bytes of `value`, its numbers in C order, and of `mask`, one byte a step, if it has gaps. The
    length is 0 where the example lacks the modality. The numbers of a modality of an example are
    uint8, or little-endian float32, or float64 if float32 does not hold them all.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {  # noqa: RUF012 (TFDS reads a plain dict)
        "1.0.0": "First release.",
        "1.1.0": "Numbers that float32 does not hold are float64.",
    }

    def _info(self) -> Any:
        config = self.builder_config
        one_class = config.task in CLASS_TASKS
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "label": tfds.features.Scalar(np.int64)
                    if one_class
                    else tfds.features.Tensor(shape=(None,), dtype=np.float32),
                    **{
                        # TFDS stores a tensor of unknown shape just so, but can't read one that
                        # has fewer bytes than axes.
                        name: {
                            "shape": tfds.features.Tensor(shape=(rank,), dtype=np.int32),
                            "value": _bytes(),
                            "mask": _bytes(),
                        }
                        for name, rank in config.ranks.items()
                    },
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        config = self.builder_config
        folder = Path(dl_manager.manual_dir) if config.needs_files else Path()
        raw = config.read(folder)
        card = Card.begin(self.name, raw, config.policy, folder)
        return {split: self._generate_examples(raw, card, split) for split in raw.num_examples}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes each example as it comes.

        What TFDS does by itself holds a split in memory, and needs TensorFlow for one of more
        than 1 GiB.
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
            while some := [example for _, example in itertools.islice(examples, _AT_ONCE)]:
                writer.add_examples({split: some})
        writer.close_all()
        self.info.set_splits(info.splits)

    def _generate_examples(
        self, raw: RawData, card: Card, split: str
    ) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        for key, record in enumerate(clean_records(raw, card, split)):
            inputs = {}
            for name, rank in config.ranks.items():
                values = record["inputs"].get(name, np.zeros((0,) * rank))
                mask = record.get("masks", {}).get(name, np.zeros(0, bool))
                inputs[name] = {
                    "shape": np.array(values.shape, np.int32),
                    "value": _as_bytes(values),
                    "mask": _as_bytes(mask),
                }
            label = record["label"]
            if card.task not in CLASS_TASKS:
                label = np.asarray(label, np.float32)
            yield key, {"id": record["id"], "label": label, **inputs}
        self.info.metadata["card"] = card.to_json()


def _bytes() -> Any:
    return tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes")


def _as_bytes(values: np.ndarray) -> np.ndarray:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.frombuffer(little.tobytes(), np.uint8)


# By their bytes.
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    4: np.dtype("<f4"),
    8: np.dtype("<f8"),
}


def _decoded(stored: Mapping[str, np.ndarray]) -> np.ndarray:
    shape = stored["shape"]
    size = int(np.prod(shape, dtype=np.int64))
    dtype = _DTYPES[len(stored["value"]) // size]
    return stored["value"].view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _nothing() -> RawData:
    raise ValueError("a config needs `read`")


Builder = TypeVar("Builder", bound=RawBuilder)


def prepare(kind: type[Builder], config: RawConfig, data_dir: str, manual_dir: str = "") -> Builder:
    """Prepares a dataset on disk, unless that has been done before.

    A preparation that was killed is simply done again, and several processes may prepare at
    once: the first to finish wins.

    Args:
      kind: the builder's class.
      config: what it reads.
      data_dir: where prepared data is kept; empty for the default of TFDS.
      manual_dir: where the raw files are; empty for `downloads/manual` in `data_dir`.

    Returns:
      A builder whose `as_data_source` is ready to be read.

    Raises:
      OSError: if `data_dir` cannot be written to, or there is no `manual_dir`.
      ValueError: what the reader raises; if what has been prepared is damaged, or was
        prepared from files of other sizes than those that are in `manual_dir` now.
      ModuleNotFoundError: what the reader raises.
    """
    builder = open_builder(kind, config, data_dir)
    folder = Path(os.path.expanduser(manual_dir) or _manual_dir(builder))
    if builder.data_path.exists():
        if manual_dir:
            _check_same_files(builder, folder)
        return builder
    require_writable(builder.data_path.parent, data_dir)
    options = {}
    if config.needs_files:
        if not folder.is_dir() or not any(folder.iterdir()):
            raise FileNotFoundError(
                f"no folder {folder} with the raw files of {builder.name}; name it with"
                f" data.manual_dir=FOLDER. {type(builder).MANUAL_DOWNLOAD_INSTRUCTIONS or ''}"
                f"{_older(builder.data_path)}"
            )
        options = {"download_config": tfds.download.DownloadConfig(manual_dir=folder)}
    _LOGGER.info("preparing %s in %s (once)", builder.name, builder.data_dir)
    try:
        with quiet():
            builder.download_and_prepare(file_format="array_record", **options)
    except (OSError, RuntimeError) as error:
        # Renaming fails if another process has finished in the meantime.
        if not builder.data_path.exists():
            # What array_record raises if it cannot write is a plain RuntimeError.
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if full or type(error) is RuntimeError:
                raise _unwritable(builder.data_path.parent, data_dir, error) from error
            raise
        _LOGGER.info("another process has prepared %s", builder.data_dir)
    return open_builder(kind, config, data_dir)


def open_builder(kind: type[Builder], config: RawConfig, data_dir: str) -> Builder:
    """Makes a builder; one that knows its examples if they have been prepared.

    Raises:
      ValueError: if what has been prepared is damaged.
    """
    root = os.path.expanduser(data_dir)
    with quiet():
        try:
            builder = kind(config=config, data_dir=root or None)
        except (json_format.ParseError, json.JSONDecodeError) as error:
            root = root or tfds.core.constants.DATA_DIR
            where = Path(root) / kind.name / config.name / str(kind.VERSION)
            raise _damaged(where, error) from error
        if builder.data_path.exists() and not builder.is_prepared():
            raise _damaged(builder.data_path, "a file is missing")
    return builder


def described(builder: RawBuilder) -> dict[str, Any]:
    """What `reopened` takes, as JSON values: where prepared data is, and in which form."""
    config = builder.builder_config
    return {
        "data_dir": os.path.abspath(os.path.expanduser(str(builder.data_path.parents[2]))),
        "config": config.name,
        "ranks": dict(config.ranks),
        "task": config.task,
    }


def reopened(kind: type[Builder], about: Mapping[str, Any], data_dir: str = "") -> Builder | None:
    """Opens data that was prepared before, whether or not what it was made of is still there.

    Args:
      kind: the builder's class.
      about: as `described` gives it.
      data_dir: where else to look, and first.

    Returns:
      A builder whose `as_data_source` is ready to be read; None if the data is not there.

    Raises:
      ValueError: if it is damaged.
    """
    config = RawConfig(name=about["config"], ranks=about["ranks"], task=about["task"])
    for folder in filter(None, (data_dir, about["data_dir"])):
        builder = open_builder(kind, config, folder)
        if builder.data_path.exists():
            return builder
    return None


def read_card(builder: RawBuilder) -> Card:
    """The card of prepared data.

    Raises:
      ValueError: if there is none, or it is damaged.
    """
    try:
        return Card.from_json(builder.info.metadata["card"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the prepared data in {builder.data_dir} has no data card of this version; remove it"
        ) from error
    except json.JSONDecodeError as error:
        raise _damaged(builder.data_path, error) from error


class PreparedSplit(Sequence[Record]):
    """The examples of some splits of prepared data, decoded when they are asked for."""

    def __init__(self, builder: RawBuilder, splits: Sequence[str]) -> None:
        """Opens the splits, in the order given."""
        self._data_path = builder.data_path
        with self._damage_named():
            self._source = builder.as_data_source("+".join(splits))
        self._modalities = tuple(builder.builder_config.ranks)
        self._one_class = builder.builder_config.task in CLASS_TASKS

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, position: Any) -> Any:
        if not 0 <= position < len(self):
            raise IndexError(position)
        with self._damage_named():
            example = self._source[position]
        stored = {name: example[name] for name in self._modalities if example[name]["shape"][0]}
        record = Record(
            id=example["id"].decode(),
            inputs={name: _decoded(parts) for name, parts in stored.items()},
            label=int(example["label"]) if self._one_class else example["label"],
        )
        masks = {
            name: parts["mask"].astype(bool).reshape(parts["shape"][:-1])
            for name, parts in stored.items()
            if len(parts["mask"])
        }
        return Record(**record, masks=masks) if masks else record

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # What array_record raises for any fault of a file.
            raise _damaged(self._data_path, error) from error


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


def _manual_dir(builder: RawBuilder) -> Path:
    return Path(builder.data_path).parents[2] / "downloads" / "manual"


def _older(data_path: Path) -> str:
    found = [path for path in data_path.parent.iterdir() if path.name.replace(".", "").isdigit()]
    if not found:
        return ""
    listed = ", ".join(map(str, sorted(found)))
    return f". What is in {listed} was prepared by another version of this library; remove it"


def _damaged(where: Path, found: object) -> ValueError:
    return ValueError(f"the prepared data in {where} is damaged; remove it ({found})")


def _check_same_files(builder: RawBuilder, folder: Path) -> None:
    for file in read_card(builder).files:
        found = folder / file["name"]
        if found.exists() and (size := size_in_bytes(found)) != file["bytes"]:
            raise ValueError(
                f"{builder.data_dir} was prepared from {file['name']} of {file['bytes']} bytes,"
                f" but the one in {folder} has {size}; remove the prepared data to prepare it"
                " again"
            )
