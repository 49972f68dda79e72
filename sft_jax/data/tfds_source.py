"""Any dataset of TensorFlow Datasets that can be read without TensorFlow, as raw data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sft_jax.data.builder import quiet
from sft_jax.data.card import CLASSES
from sft_jax.data.records import DataFileError, RawData, Record
from sft_jax.data_config import TfdsData


def read_tfds(config: TfdsData) -> RawData:
    """Opens a dataset that has been prepared as array_record or parquet.

    Goes through all of it once, to find the largest shape of each modality.

    Args:
      config: which dataset, and which of its features are what. A feature of one axis is a
        modality `[length, 1]`. The feature `id`, if there is one, names the examples.

    Raises:
      DataFileError: if there is no such dataset, or it has not been prepared in a format that
        can be read, or a feature or a split of it is not there or not what it should be.
    """
    builder = _open(config)
    source: dict[str, Any] = {
        split: _data_source(builder, config.builder, text) for split, text in config.splits.items()
    }
    features = builder.info.features
    _check_features(config, features)
    label = features[config.label]
    is_class = isinstance(label, tfds.features.ClassLabel)

    def read(split: str) -> Iterator[Record]:
        for position, example in enumerate(source[split]):
            identity = example["id"] if "id" in features else f"{split}/{position}"
            inputs = {name: _modality(example[name]) for name in config.modalities}
            value = example[config.label]
            yield Record(
                id=identity.decode() if isinstance(identity, bytes) else str(identity),
                inputs={name: values for name, values in inputs.items() if len(values)},
                label=int(value) if config.task in CLASSES else np.atleast_1d(value),
            )

    shapes: dict[str, tuple[int, ...]] = {}
    labels: list[int | np.ndarray] = []
    for split in source:
        for record in read(split):
            labels.append(record["label"])
            for name, values in record["inputs"].items():
                shapes[name] = _largest(shapes.get(name, values.shape), values.shape)
    if missing := [name for name in config.modalities if name not in shapes]:
        raise DataFileError(f"{config.builder}: no example has any step of {missing}")
    if is_class:
        names = tuple(label.names)
    elif config.task in CLASSES:
        names = tuple(str(i) for i in range(int(max(labels)) + 1))
    else:
        names = tuple(f"{config.label}{i}" for i in range(len(np.atleast_1d(labels[0]))))
    return RawData(
        variant=builder.info.full_name.replace("/", "_"),
        files=(),
        shapes=shapes,
        class_names=names,
        task=config.task,
        num_examples={split: len(of) for split, of in source.items()},
        read=read,
    )


def _open(config: TfdsData) -> Any:
    if not config.builder or not config.modalities:
        raise DataFileError(
            "data.builder must name a dataset and data.modalities its features that are modalities,"
            f" got {config.builder!r} and {config.modalities}"
        )
    try:
        with quiet():
            return tfds.builder(
                config.builder, data_dir=os.path.expanduser(config.data_dir) or None
            )
    except (tfds.core.DatasetNotFoundError, ValueError, FileNotFoundError) as error:
        # What follows the first line lists all datasets that there are.
        raise DataFileError(
            f"data.builder={config.builder!r} can't be opened in"
            f" data.data_dir={config.data_dir!r}: {str(error).strip().splitlines()[0]}"
        ) from error


def _data_source(builder: Any, name: str, split: str) -> Any:
    try:
        return builder.as_data_source(split)
    except (ValueError, NotImplementedError, FileNotFoundError, KeyError) as error:
        raise DataFileError(
            f"{name}: split {split!r} can't be read; it must be prepared as array_record, and its"
            f" splits are {sorted(builder.info.splits)} (data.splits says which are used): {error}"
        ) from None


def _check_features(config: TfdsData, features: Mapping[str, Any]) -> None:
    for name in (*config.modalities, config.label):
        if name not in features:
            raise DataFileError(
                f"{config.builder} has no feature {name!r}: it has {sorted(features)}"
            )


def _modality(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array[:, None] if array.ndim == 1 else array


def _largest(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    if len(first) != len(second):
        raise DataFileError(f"examples of one modality are of shapes {first} and {second}")
    return tuple(max(pair) for pair in zip(first, second, strict=True))
