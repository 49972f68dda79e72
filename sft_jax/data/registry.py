"""Functions that find, prepare and open the dataset of a config."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic_core import PydanticCustomError

from sft_jax import plugins
from sft_jax.data import derived
from sft_jax.data.card import Card
from sft_jax.data.dataset import Dataset, DatasetInfo, Standardisation, standardisations
from sft_jax.data.kinds import unstandardised
from sft_jax.data.records import DataFileError, RawData
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.data.sets.table import DATASETS

if TYPE_CHECKING:
    from sft_jax.data.prepared import PreparedData

_LOGGER = logging.getLogger(__name__)

DEFAULT = "watch"
"""Dataset of a config that names none."""

ENTRY_POINTS = "sft_jax.datasets"
"""Group of entry points by which other packages name their datasets."""


def known_datasets() -> dict[str, str]:
    """Maps the name of each dataset to the import path of its class, other packages included."""
    own = {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in DATASETS.items()}
    installed = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return own | {point.name: point.value for point in installed if point.name not in own}


def find_dataset(name: object) -> type[DatasetEntry]:
    """Finds the class of the dataset that a config names.

    Args:
      name: Name in `DATASETS` or of an entry point, or an import path.

    Raises:
      ValueError: If the dataset is unknown, or the class is not a dataset.
    """
    if isinstance(name, str) and name in DATASETS:
        return DATASETS[name]
    known = known_datasets()
    if not isinstance(name, str) or not (name in known or plugins.is_import_path(name)):
        raise ValueError(
            f"data.name={name!r}: unknown dataset; {plugins.suggest(str(name), [*known])}, or an"
            " import path such as 'package.module:MyDataset'"
        )
    kind = plugins.load(known.get(name, name), "data.name")
    if problem := _problem(kind):
        raise ValueError(f"data.name={name!r} {problem}")
    return kind


def _problem(kind: Any) -> str:
    """Describes the first reason why a class is not a dataset; empty if it is one."""
    base = f"{DatasetEntry.__module__}.{DatasetEntry.__qualname__}"
    if not inspect.isclass(kind) or not issubclass(kind, DatasetEntry):
        return f"is {kind!r}; expected a subclass of {base}"
    if lacking := sorted(kind.__abstractmethods__):
        return f"lacks the method {', '.join(lacking)} of {base}"
    if "__dataclass_fields__" not in vars(kind):
        return "lacks the decorator @dataclass(frozen=True, config=STRICT) of pydantic.dataclasses"
    return ""


def parse(values: Any) -> DatasetEntry:
    """Makes the dataset that the section `data` of a config describes.

    Args:
      values: Mapping of JSON values, whose `name` is `DEFAULT` if left out; or a dataset.

    Raises:
      ValueError: If the name is unknown.
      pydantic.ValidationError: If the class of the dataset does not allow the fields.
    """
    if isinstance(values, DatasetEntry):
        return values
    if not isinstance(values, Mapping):
        raise PydanticCustomError("dataset_type", "Input should be an object")
    kind = find_dataset(values.get("name", DEFAULT))
    # Strict validation of JSON takes a list for a tuple, as in a config file.
    return pydantic.TypeAdapter(kind).validate_json(json.dumps(values))


def dump(dataset: DatasetEntry) -> dict[str, Any]:
    """Returns the JSON values from which `parse` makes the same dataset."""
    return pydantic.TypeAdapter(type(dataset)).dump_python(dataset, mode="json")


def prepare_dataset(config: DatasetEntry) -> PreparedData:
    """Prepares the dataset of a config on disk, unless it is prepared already.

    Raises:
      OSError, ValueError, ModuleNotFoundError: See `sft_jax.data.prepared.prepare`.
    """
    # Imported late, here and in the other functions, since TFDS takes a second to import.
    from sft_jax.data import prepared

    return prepared.prepare(config)


def open_dataset(
    config: DatasetEntry,
    statistics: Mapping[str, Standardisation] | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> Dataset:
    """Opens the dataset that a config names, with splits `train`, `valid` and `test`.

    The first time, the data is prepared in `config.data_dir`.

    Args:
      config: Dataset, with its settings.
      statistics: Statistics to standardise by; by default those of the training split. An
        evaluation passes those that were saved with its run.
      prepared: `Dataset.prepared` of an earlier run, which finds the prepared data even if the
        raw data is gone.

    Raises:
      ValueError: If the data does not match the config, or a split is empty. Also if patches
        or statistics do not fit the modalities.
      OSError: If the data is not prepared, and the raw data is missing or `config.data_dir`
        cannot be written to.
      ModuleNotFoundError: If a package that is needed to read the data is not installed.
    """
    data = _prepare_or_find(config, prepared)
    card = data.card
    splits = config.split_names(card)
    for split, parts in splits.items():
        if not card.split(parts).n_examples:
            raise ValueError(f"split {split!r} has no examples: it is made of {parts}")
    modalities = config.modality_specs(card.shapes, card.forms())
    outputs = config.outputs(card)
    if statistics is None:
        moments = card.split(splits["train"]).moments
        kinds = {name: spec.kind for name, spec in modalities.items()}
        unchanged = unstandardised(kinds, config.standardised(card), card.policy)
        chosen = {name: moments[name] for name in modalities}
        statistics = standardisations(chosen, unchanged, card.types_of_all())
    info = DatasetInfo(
        modalities=modalities,
        class_names=outputs.class_names,
        statistics=dict(statistics),
        num_examples={split: card.split(parts).n_examples for split, parts in splits.items()},
        task=outputs.task,
        metrics=config.metrics,
        vocabularies={n: own for n, own in card.vocabularies.items() if n in modalities},
        derived={name: rule for name, rule in config.derived.items() if name in modalities},
    )
    return Dataset(
        info,
        lambda split: data.records(splits[split], tuple(modalities), config.encode_label),
        card,
        data.description(),
    )


def _prepare_or_find(config: DatasetEntry, description: Mapping[str, Any] | None) -> PreparedData:
    try:
        return prepare_dataset(config)
    except (OSError, DataFileError) as error:
        from sft_jax.data import prepared

        earlier = prepared.find_again(config, description) if description else None
        if earlier is None:
            raise
        _LOGGER.warning("using the prepared data in %s, because: %s", earlier.data_dir, error)
        return earlier


def prepared_card(config: DatasetEntry) -> Card:
    """Returns the card of prepared data.

    Raises:
      FileNotFoundError: If the data is not prepared.
      ValueError: If the prepared data is damaged.
    """
    from sft_jax.data import prepared

    data = prepared.open_prepared(config)
    if not data.data_path.exists():
        raise FileNotFoundError(
            f"{config.name} has not been prepared in {data.data_dir}: run"
            f" python -m sft_jax.data prepare {config.name} with the same fields, or inspect the"
            " raw files"
        )
    return data.card


def read_raw(config: DatasetEntry) -> RawData:
    """Reads the raw files in the `manual_dir` of a config, without preparing them.

    Raises:
      OSError, ValueError, ModuleNotFoundError: See `DatasetEntry.read`.
    """
    raw = config.read_for_inspection(pathlib.Path(config.raw_folder))
    return derived.add_to(raw, config.derived)


def config_of_path(path: pathlib.Path, name: str | None = None) -> dict[str, Any]:
    """Makes the section `data` of a config that reads a raw file or folder.

    Args:
      path: Path of the file or folder.
      name: Name of the dataset; by default the one that recognises the file.

    Raises:
      ValueError: If no dataset recognises the file, or several do.
    """
    if name is None:
        claims = [key for key, kind in DATASETS.items() if kind.recognises(path)]
        if len(claims) != 1:
            problem = (
                f"{path} may be of {' or '.join(claims)}"
                if claims
                else f"can't determine the dataset of {path}"
            )
            raise ValueError(
                f"{problem}: name it with --dataset NAME, one of {', '.join(with_files())}"
            )
        (name,) = claims
    return {"name": name, **find_dataset(name).fields_of_path(path)}


def with_files() -> list[str]:
    """Returns the names of the datasets of this library that are read from raw files."""
    return [name for name, kind in DATASETS.items() if kind.has_files()]


def field_names(name: object) -> list[str]:
    """Returns the names of the fields of a dataset.

    Raises:
      ValueError: If the dataset is unknown.
    """
    return [field.name for field in dataclasses.fields(find_dataset(name))]
