"""The datasets that are known by name: how each is prepared, and opened for a model."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_jax.data.datasets import Dataset, DatasetInfo, Standardisation, standardisations
from sft_jax.data.records import DataFileError, RawData, Record
from sft_jax.data_config import DATA_CONFIGS, DataConfig, SentimentData, VggSoundData, WatchData
from sft_jax.structs import ModalitySpec

_logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from sft_jax.data.builder import RawBuilder
    from sft_jax.data.card import Card

SENTIMENTS = (
    "strongly negative",
    "negative",
    "weakly negative",
    "neutral",
    "weakly positive",
    "positive",
    "strongly positive",
)
"""The classes of the sentiments -3 to 3."""


def prepare_dataset(config: DataConfig) -> RawBuilder:
    """Prepares the data that a config names on disk, unless that has been done before.

    Raises:
      OSError, ValueError, ModuleNotFoundError: as `sft_jax.data.builder.prepare`.
    """
    # Deferred: TFDS takes a second to import.
    from sft_jax.data import builders

    return builders.prepare(config)


def open_dataset(
    config: DataConfig,
    statistics: Mapping[str, Standardisation] | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> Dataset:
    """Opens the dataset that a config names, with splits `train`, `valid` and `test`.

    The first time, the data is prepared in `config.data_dir`.

    Args:
      config: which data, and what is in which split.
      statistics: what to standardise by; by default what the training split gives. An
        evaluation passes those that were saved with its run.
      prepared: `Dataset.prepared` of an earlier time, by which prepared data is found where
        that which it was made of is gone.

    Raises:
      ValueError: if the data is not what the config says, a patch does not fit a modality, a
        split is empty, or the statistics are not those of the modalities.
      OSError: if the data is not there and `config.data_dir` cannot be written to.
      ModuleNotFoundError: if a package that is needed to read the data is not installed.
    """
    from sft_jax.data.builder import PreparedSplit, described, read_card

    builder = _prepared_or_prepare(config, prepared)
    card = read_card(builder)
    splits = _splits(config, card)
    for split, parts in splits.items():
        if not card.split(parts).n_examples:
            raise ValueError(f"split {split!r} has no examples: it is made of {parts}")
    modalities = modality_specs(config, card.shapes)
    info, label = _info(config, card)
    if statistics is None:
        moments = card.split(splits["train"]).moments
        statistics = standardisations({name: moments[name] for name in modalities})
    return Dataset(
        DatasetInfo(
            modalities=modalities,
            statistics=dict(statistics),
            num_examples={split: card.split(of).n_examples for split, of in splits.items()},
            **info,
        ),
        lambda split: _Chosen(PreparedSplit(builder, splits[split]), tuple(modalities), label),
        card,
        described(builder),
    )


def _prepared_or_prepare(config: DataConfig, prepared: Mapping[str, Any] | None) -> RawBuilder:
    try:
        return prepare_dataset(config)
    except (OSError, DataFileError) as error:
        from sft_jax.data import builder, builders

        kind = builders.BUILDERS[config.name]
        found = builder.reopened(kind, prepared, config.data_dir) if prepared else None
        if found is None:
            raise
        _logger.warning("taking the prepared data in %s, as: %s", found.data_dir, error)
        return found


def prepared_card(config: DataConfig) -> Card:
    """The card of data that has been prepared.

    Raises:
      FileNotFoundError: if it has not been.
      ValueError: if what has been prepared is damaged.
    """
    from sft_jax.data import builder, builders

    kind, raw = builders.builder_of(config)
    prepared = builder.open_builder(kind, raw, config.data_dir)
    if not prepared.data_path.exists():
        raise FileNotFoundError(
            f"{config.name} has not been prepared in {prepared.data_dir}: run"
            f" python -m sft_jax.data prepare {config.name} with the same fields, or inspect the"
            " raw files"
        )
    return builder.read_card(prepared)


def read_raw(config: DataConfig) -> RawData:
    """What the raw files of a config's `manual_dir` hold, without preparing it.

    A file of sentiments that the config names is read whichever variant it is of.

    Raises:
      OSError, ValueError, ModuleNotFoundError: what the reader raises.
    """
    from sft_jax.data import builders
    from sft_jax.data.readers import sentiment_files

    if isinstance(config, SentimentData) and config.file:
        path = pathlib.Path(config.manual_dir) / config.file
        return sentiment_files.read_sentiment(path, config.name)
    _, raw = builders.builder_of(config)
    return raw.read(pathlib.Path(getattr(config, "manual_dir", "")))


def config_of_path(path: pathlib.Path, name: str | None = None) -> dict[str, Any]:
    """The config, as a mapping, by which a raw file or folder is read.

    Args:
      path: of the file or folder.
      name: of the dataset; by default what the names of the files tell.

    Raises:
      ValueError: if they don't tell.
    """
    folder = path if path.is_dir() else path.parent
    names = [path.name] if path.is_file() else sorted(of.name for of in path.iterdir())
    pickles = [of for of in names if of.endswith((".pkl", ".pickle"))]
    if name is None:
        name = next((of for of, tell in _TELLING if any(map(tell, names))), None)
    if name is None and pickles:
        # What the nearest part of the path says.
        for part in (*pickles, *reversed(path.resolve().parts)):
            name = name or next((of for of in ("mosei", "mosi") if of in part.lower()), None)
    if name is None:
        raise ValueError(
            f"can't tell which dataset {path} is of: say it with --dataset NAME, one of"
            f" {', '.join(OF_FILES)}"
        )
    config: dict[str, Any] = {"name": name, "manual_dir": str(folder)}
    if name in ("mosei", "mosi"):
        if path.is_dir() and len(pickles) != 1:
            raise ValueError(
                f"{path} is a folder with {len(pickles)} pickles, {pickles}: name the file"
            )
        config["file"] = pickles[0] if path.is_dir() else path.name
    if name == "vggsound":
        config["classes"] = 100 if any(of.startswith("vgg100") for of in names) else 10
    return config


OF_FILES = tuple(name for name in DATA_CONFIGS if name not in ("watch", "tfds"))
"""The datasets that are read from raw files."""

_TELLING: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("npz_folder", lambda name: name == "manifest.csv"),
    ("vggsound", lambda name: name.endswith((".h5py", ".hdf5", ".h5"))),
    ("av_mnist", lambda name: "idx3-ubyte" in name or name == "mnist"),
)


def _splits(config: DataConfig, card: Card) -> dict[str, Sequence[str]]:
    if isinstance(config, WatchData):
        from sft_jax.data.watch import split_name

        people = {
            "train": config.train_people,
            "valid": config.valid_people,
            "test": config.test_people,
        }
        return {split: [split_name(person) for person in of] for split, of in people.items()}
    if missing := [split for split in ("train", "valid", "test") if split not in card.splits]:
        raise ValueError(f"the data has no split {missing}: it has {sorted(card.splits)}")
    return {split: [split] for split in ("train", "valid", "test")}


def modality_specs(
    config: DataConfig, shapes: Mapping[str, Sequence[int]]
) -> dict[str, ModalitySpec]:
    """The modalities that a config uses, with its patches.

    Args:
      config: which of them, and their patches.
      shapes: modality name to the shape of its examples, for all that there are.

    Raises:
      ValueError: if it names others, or a patch does not fit.
    """
    chosen = getattr(config, "modalities", ()) or tuple(shapes)
    patches = config.patch_size
    if not isinstance(patches, Mapping):
        patches = dict.fromkeys(chosen, patches)
    for field, names in (("modalities", chosen), ("patch_size", patches)):
        if unknown := sorted(set(names) - set(shapes)):
            raise ValueError(f"data.{field}: unknown modality {unknown}, known: {[*shapes]}")
    return {name: ModalitySpec.from_shape(shapes[name], patches.get(name, 1)) for name in chosen}


def _info(
    config: DataConfig, card: Card
) -> tuple[dict[str, Any], Callable[[Any], int | np.ndarray] | None]:
    """What `DatasetInfo` says beside shapes, and what labels are turned into."""
    info: dict[str, Any] = {"class_names": card.class_names, "task": card.task}
    if isinstance(config, VggSoundData):
        return info | {"metrics": ("ranking",)}, None
    if isinstance(config, SentimentData):
        from sft_jax.data.readers.sentiment_files import sentiment_class

        info["metrics"] = ("sentiment",)
        if config.target == "classes":
            classes = {"class_names": SENTIMENTS, "task": "ordinal"}
            return info | classes, lambda value: sentiment_class(float(value[0]))
    return info, None


class _Chosen(Sequence[Record]):
    """Records with some of their modalities, and their label turned into another."""

    def __init__(
        self,
        records: Sequence[Record],
        modalities: tuple[str, ...],
        label: Callable[[Any], int | np.ndarray] | None,
    ) -> None:
        self._records, self._modalities, self._label = records, modalities, label

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, position: Any) -> Any:
        record = self._records[position]
        given = record["inputs"]
        inputs = {name: given[name] for name in self._modalities if name in given}
        label = record["label"]
        changed = {"inputs": inputs, "label": self._label(label) if self._label else label}
        return {**record, **changed}
