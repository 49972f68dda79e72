"""A folder of `.npz` files to examples."""

import dataclasses
import shutil

import npz_examples
import numpy as np
import pytest
from opened import (
    COUNTS,
    SPLITS,
    assert_examples,
    assert_found_again,
    unchanged,
)

from sft_jax import ModalitySpec
from sft_jax.data import registry
from sft_jax.data.records import DataFileError
from sft_jax.data.sets.npz_folder.entry import FolderData
from sft_jax.data.sets.npz_folder.files import read_npz_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("npz")
    npz_examples.write(directory / "my data, (1)", **{**COUNTS, "train": 8})
    return FolderData(data_dir=str(directory / "data"), manual_dir=str(directory / "my data, (1)"))


def test_examples_of_a_folder_are_those_of_its_files(folder):
    dataset = unchanged(dataclasses.replace(folder, patch_size={"image": (7, 14), "sound": 2}))
    assert dataset.info.class_names == npz_examples.CLASSES
    assert dataset.info.modalities["image"].patch_size == (7, 14)
    raw = read_npz_folder(folder.manual_dir)
    for split in SPLITS:
        assert_examples(dataset, split, list(raw.read(split)))
    assert [e["masks"]["touch"].any() for e in dataset.source("train")] == [
        True,
        True,
        True,
        False,
    ] * 2
    assert dataset.card.splits["train"].lengths["touch"] == {6: 6, 0: 2}


def test_a_folder_that_is_gone_is_named(folder, tmp_path):
    for gone in ("", str(tmp_path / "gone")):
        with pytest.raises(DataFileError, match=rf"data.manual_dir='{gone}' is not a folder: name"):
            registry.open_dataset(dataclasses.replace(folder, manual_dir=gone))
    with pytest.raises(DataFileError, match=r"there is no .*manifest.csv; expected a table"):
        registry.open_dataset(dataclasses.replace(folder, manual_dir=str(tmp_path)))


def test_prepared_data_suffices_once_the_folder_is_gone(folder, tmp_path):
    assert_found_again(folder, {"manual_dir": str(tmp_path / "gone")}, tmp_path)


def test_a_folder_is_prepared_again_when_it_has_changed(folder, tmp_path):
    shutil.copytree(folder.manual_dir, tmp_path / "same")
    config = dataclasses.replace(folder, manual_dir=str(tmp_path / "same"))
    before = unchanged(config).source("train")[0]
    npz_examples.write_example(tmp_path / "same", "train/000.npz", sound=np.full((2, 5), 7.0))
    after = unchanged(config).source("train")[0]
    assert before["id"] == after["id"]
    np.testing.assert_array_equal(after["inputs"]["sound"][:2], 7)
    assert not after["masks"]["image"].any()


@pytest.mark.parametrize(
    ("task", "labels", "names"),
    [
        ("ordinal", {"train": ["a", "b"], "valid": ["b"], "test": ["a"]}, ["b", "a"]),
        ("multi_label", {"train": ["a|b", "", "b"], "valid": ["b"], "test": ["a"]}, ["a", "b"]),
        ("regression", {"train": ["1|2", "3|4"], "valid": ["0|-1"], "test": ["0|0"]}, ["x", "y"]),
    ],
)
def test_labels_of_every_task_survive(tmp_path, task, labels, names):
    npz_examples.write_labels(tmp_path / "raw", labels, task=task, class_names=names)
    config = FolderData(data_dir=str(tmp_path), manual_dir=str(tmp_path / "raw"))
    dataset = unchanged(config)
    assert (dataset.info.task, dataset.info.class_names) == (task, tuple(names))
    raw = read_npz_folder(tmp_path / "raw")
    for split in labels:
        assert_examples(dataset, split, list(raw.read(split)))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("zero", [[0, 1], [3, 0]]), ("mean", [[3, 1], [3, 1]]), ("drop", [])],
)
def test_policies_of_a_folder(tmp_path, policy, expected):
    rows = [(f"{i}.npz", split, "ab"[i % 2]) for i, split in enumerate(("train",) * 3 + SPLITS[1:])]
    for file, _, _ in rows:
        npz_examples.write_example(tmp_path / "raw", file, x=np.array([[3.0, 1.0]]))
    bad = np.array([[np.nan, 1.0], [3.0, np.inf]])
    npz_examples.write_example(tmp_path / "raw", "2.npz", x=bad)
    npz_examples.write_manifest(tmp_path / "raw", rows)
    config = FolderData(data_dir=str(tmp_path), manual_dir=str(tmp_path / "raw"), not_finite=policy)
    example = unchanged(config).source("train")[2]
    np.testing.assert_array_equal(example["inputs"]["x"][example["masks"]["x"]].tolist(), expected)


def test_stated_kinds_and_statistics_are_those_of_the_config(folder):
    stated = {"kinds": {"touch": "vector"}, "standardise": {"sound": False}}
    info = registry.open_dataset(dataclasses.replace(folder, **stated)).info
    assert info.modalities["touch"] == ModalitySpec(1, 6, kind="vector")
    assert len(set(info.statistics["touch"].mean)) == 6
    assert set(info.statistics["sound"].std) == {1.0}
    with pytest.raises(ValueError, match=r"data\.standardise: unknown modality \['noise'\]"):
        registry.open_dataset(dataclasses.replace(folder, standardise={"noise": True}))


def test_vocabularies_and_types_survive_the_preparation(tmp_path):
    films, splits = ["a b a", "b c", "c"], ("train", "valid", "test")
    vitals = np.array([[0.5, 0, 7], [1.5, 1, 900], [2.0, 0, 9]])
    for split, film in zip(splits, films, strict=True):
        npz_examples.write_example(tmp_path / "raw", f"{split}.npz", film=film, vitals=vitals)
    rows = [(f"{split}.npz", split, "1.5") for split in splits]
    npz_examples.write_manifest(tmp_path / "raw", rows)
    (tmp_path / "raw" / "dataset.json").write_text('{"task": "regression"}')
    config = FolderData(
        manual_dir=str(tmp_path / "raw"),
        data_dir=str(tmp_path / "data"),
        kinds={"film": "text", "vitals": "events"},
        vocabulary={"vitals": 3},
    )
    for _ in range(2):  # Prepared, and read again.
        dataset = registry.open_dataset(config)
        assert dataset.info.vocabularies["film"].entries == ("a", "b")
        (valid,) = dataset.source("valid")
        assert valid["inputs"]["film"].tolist() == [[2], [0], [0]]
        assert valid["masks"]["film"].tolist() == [True, True, False]
        assert dataset.info.statistics["vitals"].mean[1:] == (8, 900, 0)
        np.testing.assert_allclose(valid["inputs"]["vitals"][:, 2], [-1, 0, 1])
