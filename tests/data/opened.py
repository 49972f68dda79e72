"""Assertions about datasets that are opened from raw files in their true format."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from sft_jax.data import registry
from sft_jax.data.cleaning import clean
from sft_jax.data.dataset import Standardisation
from sft_jax.data.outline import Outline, outline
from sft_jax.data.records import DataFileError

COUNTS = {"train": 6, "valid": 3, "test": 2}
SPLITS = tuple(COUNTS)


def unchanged(config):
    """The dataset, standardised by what changes nothing."""
    modalities = registry.open_dataset(config).info.modalities
    one = {
        name: Standardisation((0.0,) * spec.features, (1.0,) * spec.features)
        for name, spec in modalities.items()
    }
    return registry.open_dataset(config, one)


def assert_outlined(config, info, **differs):
    """The outline without the data is that of the data, except where made-up files differ."""
    actual = Outline(info.modalities, len(info.class_names), info.task)
    assert outline(config) == actual._replace(**differs)


def assert_examples(dataset, split, expected, label=lambda label: label):
    """The examples are those expected, padded behind, and nothing else is real."""
    actual = dataset.source(split)
    assert dataset.info.num_examples[split] == len(actual) == len(expected)
    for example, record in zip(actual, expected, strict=True):
        assert example["id"] == record["id"]
        np.testing.assert_array_equal(example["label"], label(record["label"]))
        for name, spec in dataset.info.modalities.items():
            values, mask = example["inputs"][name], example["masks"][name]
            assert values.shape == spec.shape
            assert mask.shape == spec.lengths
            empty = np.zeros((0,) * len(spec.lengths) + (spec.features,))
            real = record["inputs"].get(name, empty)
            assert mask.sum() == np.prod(real.shape[:-1])
            within = tuple(slice(length) for length in real.shape[:-1])
            assert mask[within].all()
            np.testing.assert_array_equal(values[within], real.astype(np.float32))
            assert not values[~mask].any()


def cleaned(records, policy="zero", means=None):
    return [
        {
            **record,
            "inputs": {
                name: clean(values, policy, (means or {}).get(name))[0]
                for name, values in record["inputs"].items()
            },
        }
        for record in records
    ]


def assert_same_without(folder, config):
    """The folder of raw files is not needed a second time."""
    before = [example["id"] for example in registry.open_dataset(config).source("test")]
    away = pathlib.Path(folder).with_name("away")
    pathlib.Path(folder).rename(away)
    try:
        again = registry.open_dataset(config)
        assert [example["id"] for example in again.source("test")] == before
    finally:
        away.rename(folder)


def assert_found_again(config, gone, tmp_path):
    """Prepared data is opened where the raw data is gone, also if the prepared data has moved."""
    before = registry.open_dataset(config)
    description = json.loads(json.dumps(before.prepared))
    config = dataclasses.replace(config, **gone)
    folder = tmp_path / "moved"
    shutil.copytree(before.prepared["data_dir"], folder)
    elsewhere = description | {"data_dir": str(tmp_path / "gone")}
    moved = dataclasses.replace(config, data_dir=str(folder))
    for where, about in ((config, description), (moved, elsewhere)):
        after = registry.open_dataset(where, before.info.statistics, about)
        assert after.info == before.info
        assert after.fingerprint("test") == before.fingerprint("test")
        with pytest.raises(DataFileError):
            registry.open_dataset(where, None, about | {"config": "another"})
