"""VGGSound from its files to examples."""

import dataclasses
import shutil

import h5py
import pytest
import vggsound_hdf5
from opened import (
    SPLITS,
    assert_examples,
    assert_outlined,
    assert_same_without,
    unchanged,
)

from sft_jax.data import registry
from sft_jax.data.sets.vggsound.entry import VggSoundData


@pytest.fixture(scope="module")
def vggsound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vggsound")
    vggsound_hdf5.write(folder / "raw", classes=2, train=6, test=2)
    return VggSoundData(data_dir=str(folder / "data"), manual_dir=str(folder / "raw"))


def test_clips_are_those_of_the_files(vggsound):
    dataset = unchanged(vggsound)
    assert dataset.info.num_examples == {"train": 4, "valid": 2, "test": 2}
    assert dataset.info.class_names == tuple(sorted(vggsound_hdf5.class_names(2)))
    assert (dataset.info.task, dataset.info.metrics) == ("single_label", ("ranking",))
    shapes = {name: spec.shape for name, spec in dataset.info.modalities.items()}
    assert shapes == vggsound_hdf5.SHAPES
    assert_outlined(vggsound, dataset.info, num_outputs=10)
    for split in SPLITS:
        expected = []
        prefix = "test" if split == "test" else "train"
        with h5py.File(f"{vggsound.manual_dir}/vgg_{prefix}.h5py") as file:
            names = sorted(set(file["class_name"][:]))
            for example in dataset.source(split):
                file_name, row = example["id"].split("/")
                assert file_name == prefix
                inputs = {key: file[key][int(row)] for key in shapes}
                label = names.index(file["class_name"][int(row)])
                expected.append({"id": example["id"], "inputs": inputs, "label": label})
        assert_examples(dataset, split, expected)
        assert dataset.card.splits[split].labels == dict.fromkeys(
            dataset.info.class_names, len(expected) // 2
        )
    ids = [example["id"] for split in ("train", "valid") for example in dataset.source(split)]
    assert sorted(ids) == [f"train/{row:06d}" for row in range(6)]


def test_clips_need_their_files_once(vggsound):
    assert_same_without(vggsound.manual_dir, vggsound)


def test_data_of_another_version_is_named(vggsound, tmp_path):
    shutil.copytree(vggsound.data_dir, tmp_path / "data")
    (now,) = (tmp_path / "data").glob("*/*/1.1.0")
    now.rename(now.with_name("1.0.0"))
    config = dataclasses.replace(
        vggsound, data_dir=str(tmp_path / "data"), manual_dir=str(tmp_path / "raw")
    )
    with pytest.raises(FileNotFoundError, match=r"no folder .*/1.0.0 was prepared by another vers"):
        registry.open_dataset(config)


def test_modalities_of_clips_may_be_fewer(vggsound):
    info = registry.open_dataset(
        dataclasses.replace(vggsound, modalities=("spect",), patch_size={"spect": 16})
    ).info
    assert [*info.modalities] == ["spect"]
    assert info.modalities["spect"].num_tokens == 75


def test_another_split_is_prepared_for_itself(vggsound):
    share = dataclasses.replace(vggsound, valid_share=0.6)
    assert registry.open_dataset(share).info.num_examples["valid"] == 4
    authors = dataclasses.replace(vggsound, split="authors")
    assert registry.open_dataset(authors).info.num_examples["valid"] == 1
    assert registry.open_dataset(vggsound).info.num_examples["valid"] == 2
