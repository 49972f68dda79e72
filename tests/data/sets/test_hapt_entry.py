"""HAPT as a dataset."""

import dataclasses
import itertools

import hapt_texts
import numpy as np
import pytest

from sft_jax.data import registry
from sft_jax.data.outline import Outline, outline
from sft_jax.data.sets.hapt.entry import HaptData
from sft_jax.data.sets.hapt.files import ACTIVITIES
from sft_jax.structs import ModalitySpec

SAMPLES = 250


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hapt")
    hapt_texts.write(folder / "raw", SAMPLES)
    return HaptData(
        data_dir=str(folder / "data"),
        manual_dir=str(folder / "raw"),
        window_seconds=2.0,
        stride_seconds=1.0,
    )


@pytest.fixture(scope="module")
def dataset(config):
    return registry.open_dataset(config)


def _people(examples):
    return {int(example["id"][6:8]) for example in examples}


def test_people_are_in_the_splits_that_the_fields_name(config, dataset):
    people = {split: _people(dataset.source(split)) for split in ("train", "valid", "test")}
    expected = {"train": range(1, 20), "valid": range(20, 24), "test": range(24, 31)}
    assert people == {split: {*own} for split, own in expected.items()}
    other = dataclasses.replace(config, test_people=(3,), train_people=(1, 2))
    assert _people(registry.open_dataset(other).source("test")) == {3}


def test_windows_are_those_cut_by_hand(dataset):
    example = dataset.source("test")[-1]
    assert example["id"] == "person30/recording30/@150"
    values = hapt_texts.values(30, "acc", SAMPLES)[150:]
    statistics = dataset.info.statistics["accelerometer"]
    expected = (values - statistics.mean) / statistics.std
    np.testing.assert_allclose(example["inputs"]["accelerometer"], expected, rtol=2e-5, atol=1e-6)
    overlaps = [
        (a, min(b, 250) - max(a0, 151) + 1) for a, a0, b in hapt_texts.segments(30, SAMPLES)
    ]
    labels = {activity - 1 for activity, samples in overlaps if samples >= 25}
    assert {*np.flatnonzero(example["label"])} == labels
    assert len(labels) > 1


def test_info_describes_the_examples(config, dataset):
    spec = ModalitySpec(100, 3, 15)
    assert dataset.info.modalities == {"accelerometer": spec, "gyroscope": spec}
    assert dataset.info.class_names == ACTIVITIES
    assert dataset.info.task == "multi_label"
    assert outline(config) == Outline(dataset.info.modalities, 12, "multi_label")
    whole = outline(HaptData())
    assert whole.modalities["gyroscope"].num_tokens == 100


def test_an_activity_is_one_class(config):
    raw = registry.read_raw(dataclasses.replace(config, target="activity", window_seconds=0.8))
    assert raw.task == "single_label"
    records = [*raw.read("person_01")]
    assert [(record["id"][-3:], record["label"]) for record in records] == [
        ("@20", 0),
        ("@80", 1),
        ("130", 1),
        ("200", 2),
    ]
    assert records[0]["inputs"]["gyroscope"].shape == (40, 3)
    assert outline(dataclasses.replace(config, target="activity")).task == "single_label"


def test_targets_and_windows_are_stored_apart(config, tmp_path):
    changes = [{}, {"target": "activity"}, {"window_seconds": 3.0}, {"stride_seconds": 0.5}]
    names = {dataclasses.replace(config, **c).stored_form(tmp_path).name for c in changes}
    assert len(names) == len(changes)


def test_folds_test_each_person_once(config, dataset):
    names = [f"person_{person:02d}" for person in range(1, 31)]
    splits = [
        dataclasses.replace(config, folds=5, fold=fold).split_names(dataset.card)
        for fold in range(5)
    ]
    assert sorted(name for split in splits for name in split["test"]) == names
    assert all(sorted(itertools.chain(*split.values())) == names for split in splits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test_people": ()}, r"empty split: test_people must name at least one person \(1-30\)"),
        ({"test_people": (1, 30)}, r"people \[1\] are in more than one split"),
        ({"folds": 2}, "folds=2: expected 0, or 3 to 30"),
    ],
)
def test_wrong_people_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HaptData(**fields)


def test_wrong_windows_are_refused(config):
    for fields, message in (
        ({"window_seconds": 0.03}, "window_seconds=0.03 is not a whole number of samples at 50"),
        ({"window_seconds": 5.02}, r"people \[1, .* have no window of 5.02 s; .* at most 5$"),
        ({"target": "activity"}, r"'activity': people \[.* no window of 3 s; .* at most 2$"),
    ):
        changed = dataclasses.replace(config, **{"window_seconds": 3.0} | fields)
        with pytest.raises(ValueError, match=message):
            registry.read_raw(changed)


def test_missing_files_are_asked_for(tmp_path):
    (tmp_path / "raw").mkdir()
    config = HaptData(data_dir=str(tmp_path), manual_dir=str(tmp_path / "raw"))
    with pytest.raises(FileNotFoundError, match=r"data.manual_dir=FOLDER. It takes .* RawData"):
        registry.open_dataset(config)
