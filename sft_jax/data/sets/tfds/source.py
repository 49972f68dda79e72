"""Raw data from any dataset of TensorFlow Datasets that can be read without TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sft_jax.data.prepared import quiet
from sft_jax.data.records import DataFileError, RawData, Record
from sft_jax.data.sets.tfds.entry import TfdsData
from sft_jax.structs import CLASS_TASKS


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A dataset whose features have been checked, but whose examples have not been read.

    Attributes:
      full_name: Name, config and version.
      ranks: Modality name to the number of axes of `[length, ..., features]`.
      read: Function that reads the contents.
    """

    full_name: str
    ranks: dict[str, int]
    read: Callable[[], RawData]


def open_tfds(config: TfdsData) -> TfdsSource:
    """Opens a dataset that is prepared as array_record or parquet.

    Args:
      config: Dataset and roles of its features. A feature with one axis is a modality
        `[length, 1]`. The feature `id`, if there is one, names the examples.

    Raises:
      DataFileError: If the dataset is unknown or not prepared, or a feature is missing or
        unsuitable. Also from `read`, if the data cannot be read, a split is missing, or no
        example has one of the modalities.
    """
    builder = _open(config)
    features = builder.info.features
    _check_features(config, features)
    return TfdsSource(
        full_name=builder.info.full_name,
        ranks={name: max(2, len(features[name].shape)) for name in config.modalities},
        read=functools.partial(_read, builder, config),
    )


def _read(builder: Any, config: TfdsData) -> RawData:
    """Reads all examples once to find the largest shape of each modality."""
    source: dict[str, Any] = {
        split: _data_source(builder, config.builder, text) for split, text in config.splits.items()
    }
    shapes: dict[str, tuple[int, ...]] = {}
    labels: list[int | np.ndarray] = []
    for split in source:
        for record in _records(source, config, split):
            labels.append(record["label"])
            for name, values in record["inputs"].items():
                largest = shapes.get(name, values.shape)
                shapes[name] = tuple(map(max, zip(largest, values.shape, strict=True)))
    if missing := [name for name in config.modalities if name not in shapes]:
        raise DataFileError(f"{config.builder}: no example has any step of {missing}")
    label = builder.info.features[config.label]
    if isinstance(label, tfds.features.ClassLabel):
        names = tuple(label.names)
    elif config.task in CLASS_TASKS:
        names = tuple(str(i) for i in range(int(max(labels)) + 1))
    else:
        names = tuple(f"{config.label}{i}" for i in range(len(np.atleast_1d(labels[0]))))
    return RawData(
        variant=builder.info.full_name.replace("/", "_"),
        files=(),
        shapes=shapes,
        class_names=names,
        task=config.task,
        num_examples={split: len(records) for split, records in source.items()},
        read=functools.partial(_records, source, config),
    )


def _records(source: Mapping[str, Any], config: TfdsData, split: str) -> Iterator[Record]:
    for position, example in enumerate(source[split]):
        identity = example.get("id", f"{split}/{position}")
        inputs = {name: _modality(example[name]) for name in config.modalities}
        value = example[config.label]
        yield Record(
            id=identity.decode() if isinstance(identity, bytes) else str(identity),
            inputs={name: values for name, values in inputs.items() if len(values)},
            label=int(value) if config.task in CLASS_TASKS else np.atleast_1d(value),
        )


def _open(config: TfdsData) -> Any:
    if not config.builder or not config.modalities:
        raise DataFileError(
            "data.builder must name a dataset and data.modalities its features that are modalities,"
            f" got {config.builder!r} and {config.modalities}"
        )
    if missing := [split for split in ("train", "valid", "test") if split not in config.splits]:
        raise DataFileError(f"data.splits must name train, valid and test; it lacks {missing}")
    try:
        with quiet():
            builder = tfds.builder(
                config.builder, data_dir=os.path.expanduser(config.data_dir) or None
            )
            prepared = builder.is_prepared()
    except (
        tfds.core.DatasetNotFoundError,
        ValueError,
        OSError,
        ImportError,
        RuntimeError,
    ) as error:
        first = str(error).partition("\n")[0]  # A list of all known datasets may follow.
        raise DataFileError(f"data.builder={config.builder!r} can't be opened: {first}") from error
    if not prepared:
        raise DataFileError(
            f"data.builder={config.builder!r} has not been prepared in {builder.data_dir}"
        )
    return builder


def _data_source(builder: Any, name: str, split: str) -> Any:
    try:
        if not builder.info.splits[split].num_examples:
            raise ValueError("it has no examples")
        return builder.as_data_source(split)
    except (ValueError, NotImplementedError, OSError, KeyError, RuntimeError) as error:
        raise DataFileError(
            f"{name}: split {split!r} can't be read; it must be prepared as array_record, and its"
            f" splits are {sorted(builder.info.splits)} (data.splits says which are used): {error}"
        ) from error


def _check_features(config: TfdsData, features: Mapping[str, Any]) -> None:
    for name in (*config.modalities, config.label):
        if name not in features:
            raise DataFileError(
                f"{config.builder} has no feature {name!r}: it has {sorted(features)}"
            )
    for name in config.modalities:
        shape, kind = _form(features[name])
        if not shape or kind not in "biuf":
            raise DataFileError(
                f"{config.builder}: the feature {name!r} is no modality, which is made of numbers"
                f" [length, ..., features]: it is {features[name]}"
            )
    shape, kind = _form(features[config.label])
    one_class = config.task in CLASS_TASKS
    good = shape == () and kind in "iu" if one_class else len(shape or ()) < 2 and kind in "biuf"
    if not good:
        raise DataFileError(
            f"{config.builder}: the feature {config.label!r} is no label of the task"
            f" {config.task}, which is {'an integer' if one_class else 'numbers'}: it is"
            f" {features[config.label]}"
        )


def _form(feature: Any) -> tuple[tuple[int | None, ...] | None, str]:
    """Returns the shape and kind of dtype; None and "O" for nested features."""
    if not isinstance(feature.shape, tuple):
        return None, "O"
    return feature.shape, np.dtype(feature.np_dtype).kind


def _modality(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array[:, None] if array.ndim == 1 else array
