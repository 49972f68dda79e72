"""The smartwatch exercises as a dataset."""

import dataclasses
import json

import numpy as np
import pytest
from small_examples import make_dataset

from sft_jax.data import dataset as dataset_module
from sft_jax.data import prepared, registry
from sft_jax.data.dataset import (
    DatasetInfo,
    Standardisation,
)
from sft_jax.data.outline import Outline, outline
from sft_jax.data.registry import open_dataset
from sft_jax.data.sets.watch.entry import WatchData
from sft_jax.structs import ModalitySpec


@pytest.fixture
def config(data_dir):
    return WatchData(data_dir=data_dir)


@pytest.fixture(scope="module")
def dataset(data_dir):
    return open_dataset(WatchData(data_dir=data_dir))


def _people(examples):
    return {int(example["id"][6:8]) for example in examples}


def test_no_person_is_in_two_splits(dataset):
    splits = {split: dataset.source(split) for split in ("train", "valid", "test")}
    assert {split: _people(examples) for split, examples in splits.items()} == {
        "train": {1, 2, 3, 4, 5, 6},
        "valid": {7},
        "test": {8, 9, 10},
    }
    assert dataset.info.num_examples == {split: len(people) for split, people in splits.items()}
    ids = [example["id"] for examples in splits.values() for example in examples]
    assert len(set(ids)) == len(ids) == 4397


def test_info_describes_the_examples(config):
    config = dataclasses.replace(config, patch_size=7)
    info = open_dataset(config).info
    assert info.class_names == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
    spec = ModalitySpec(length=200, features=3, patch_size=7)
    assert info.modalities == {"accelerometer": spec, "gyroscope": spec}
    # Known without the data too.
    assert outline(config) == Outline(info.modalities, len(info.class_names), info.task)


def test_training_inputs_are_standardised(dataset):
    examples = dataset.source("train")
    for modality in ("accelerometer", "gyroscope"):
        steps = np.concatenate([e["inputs"][modality] for e in examples])
        assert steps.dtype == np.float32
        np.testing.assert_allclose(steps.mean(0, dtype=np.float64), 0, atol=1e-5)
        np.testing.assert_allclose(steps.std(0, dtype=np.float64), 1, atol=1e-5)


def test_statistics_are_of_the_training_people_alone(config, dataset):
    steps = {name: [] for name in dataset.info.modalities}
    people = [f"person_{person:02d}" for person in range(1, 7)]
    for record in registry.prepare_dataset(config).records(people):
        for name, values in record["inputs"].items():
            steps[name].append(values)
    for name, windows in steps.items():
        values = np.concatenate(windows).astype(np.float64)
        actual = dataset.info.statistics[name]
        np.testing.assert_allclose(actual.mean, values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(actual.std, values.std(0), rtol=1e-6)
    others = dataclasses.replace(config, train_people=(1, 2))
    assert open_dataset(others).info.statistics != dataset.info.statistics


@pytest.fixture
def reads(monkeypatch):
    """Splits that are opened."""
    calls, read = [], prepared.PreparedData.records
    monkeypatch.setattr(
        prepared.PreparedData,
        "records",
        lambda self, splits, *options: calls.append([*splits]) or read(self, splits, *options),
    )
    return calls


def test_given_statistics_are_used(config, reads):
    raw = registry.prepare_dataset(config).records(["person_07"])[0]
    original = {
        name: Standardisation(mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
        for name in ("accelerometer", "gyroscope")
    }
    reads.clear()
    dataset = open_dataset(config, original)
    example = dataset.source("valid")[0]
    dataset.source("valid")
    assert reads == [["person_07"]]
    assert dataset.info.statistics == original
    for name, values in raw["inputs"].items():
        expected = (values - np.array([1, 2, 3])) / np.array([2, 4, 8])
        np.testing.assert_array_equal(example["inputs"][name], np.float32(expected))


def test_a_split_is_decoded_once(config, reads):
    dataset = open_dataset(config)
    assert reads == []  # What it is standardised by has been computed in preparing it.
    dataset.source("valid")
    dataset.source("valid")
    assert reads == [["person_07"]]


def test_a_large_split_is_decoded_when_used(config, monkeypatch):
    held = open_dataset(config).source("valid")
    assert isinstance(held, tuple)
    monkeypatch.setattr(dataset_module, "IN_MEMORY_BYTES", 1000)
    source = open_dataset(config).source("valid")
    assert not isinstance(source, tuple)
    assert len(source) == len(held)
    for position in (0, 100, len(held) - 1):
        again = source[position]
        assert again["id"] == held[position]["id"]
        assert again["label"] == held[position]["label"]
        for name, values in held[position]["inputs"].items():
            np.testing.assert_array_equal(again["inputs"][name], values)
            np.testing.assert_array_equal(again["masks"][name], held[position]["masks"][name])


def test_info_survives_json_exactly(dataset):
    info = dataset.info
    values = info.to_json()
    text = json.dumps(values)
    assert json.loads(text) == values
    assert DatasetInfo.from_json(json.loads(text)) == info


def test_an_empty_split_is_named(config):
    object.__setattr__(config, "valid_people", ())  # WatchData itself would refuse.
    with pytest.raises(ValueError, match=r"split 'valid' has no examples: it is made of \[\]"):
        open_dataset(config)
    with pytest.raises(ValueError, match="split 'train' has no examples"):
        make_dataset([]).source("train")


def test_an_unknown_split_is_named(dataset):
    with pytest.raises(ValueError, match="no split 'validation': there are train, valid, test"):
        dataset.source("validation")


def test_statistics_must_fit_the_modalities(config):
    wrong = {"accelerometer": Standardisation(mean=(0.0,), std=(1.0,))}
    with pytest.raises(ValueError, match="statistics are given for features"):
        open_dataset(config, wrong)


def test_a_patch_must_fit_the_window(config):
    with pytest.raises(ValueError, match="patch_size=201 exceeds length=200"):
        open_dataset(dataclasses.replace(config, patch_size=201))


def test_folds_test_each_person_once(config, dataset):
    card = registry.prepare_dataset(config).card
    names = [f"person_{person:02d}" for person in range(1, 11)]
    for folds in (3, 5, 10):
        splits = [
            dataclasses.replace(config, folds=folds, fold=fold).split_names(card)
            for fold in range(folds)
        ]
        assert sorted(name for split in splits for name in split["test"]) == names
        for fold, split in enumerate(splits):
            assert sorted(name for some in split.values() for name in some) == names
            assert split["valid"] == splits[(fold + 1) % folds]["test"]
    # Folds of one person leave out the people in their order.
    assert [split["test"] for split in splits] == [[name] for name in names]
    some = dataclasses.replace(config, test_people=(8,), folds=3).split_names(card)
    assert sorted(name for split in some.values() for name in split) == names[:8]


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (2, 0, "folds=2: expected 0, or 3 to 10, the number of groups to divide"),
        (11, 0, "folds=11: expected 0, or 3 to 10"),
        (5, 5, "fold=5 with folds=5: expected 0 to 4"),
        (0, 1, "fold=1 with folds=0: expected 0, as there are no folds"),
    ],
)
def test_wrong_folds_are_refused(folds, fold, message):
    with pytest.raises(ValueError, match=message):
        WatchData(folds=folds, fold=fold)
