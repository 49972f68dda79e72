"""AV-MNIST from its files to examples."""

import dataclasses
import shutil

import av_mnist_files
import numpy as np
import pytest
from opened import (
    SPLITS,
    assert_examples,
    assert_outlined,
    assert_same_without,
    unchanged,
)

from sft_jax.data import registry
from sft_jax.data.sets.av_mnist.entry import AvMnistData
from sft_jax.data.sets.av_mnist.options import AvMnistOptions
from sft_jax.data.sets.av_mnist.pairs import read_av_mnist


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "unpacked"])
def digits(request, tmp_path_factory):
    """Files as they are published, and unpacked, with a folder of recordings."""
    folder = tmp_path_factory.mktemp("av_mnist")
    options = {"speakers": ("ann",), "count": 11}
    av_mnist_files.write(folder / "raw", train=24, test=3, packed=request.param, **options)
    return AvMnistData(
        data_dir=str(folder / "data"),
        manual_dir=str(folder / "raw"),
        train_pairs=4,
        valid_pairs=2,
        test_pairs=3,
    )


def test_pairs_of_digits_are_those_made_of_the_files(digits):
    dataset = unchanged(digits)
    shapes = {name: spec.shape for name, spec in dataset.info.modalities.items()}
    assert shapes == {"image": (28, 28, 1), "sound": (64, 32, 1)}
    assert_outlined(digits, dataset.info)
    assert {name: spec.num_tokens for name, spec in dataset.info.modalities.items()} == {
        "image": 16,
        "sound": 32,
    }
    assert dataset.info.class_names == tuple("0123456789")
    options = AvMnistOptions(train_pairs=4, valid_pairs=2, test_pairs=3)
    raw = read_av_mnist(digits.manual_dir, options)
    for split in SPLITS:
        assert_examples(dataset, split, list(raw.read(split)))
    stored = registry.prepare_dataset(digits).records(["train"])[0]["inputs"]
    assert (stored["image"].dtype, stored["sound"].dtype) == (np.uint8, np.float32)


def test_pairs_of_digits_need_their_files_once(digits):
    assert_same_without(digits.manual_dir, digits)


def test_other_recordings_are_refused(digits, tmp_path):
    registry.open_dataset(digits)
    shutil.copytree(digits.manual_dir, tmp_path / "raw")
    if (folder := tmp_path / "raw" / "recordings").exists():
        (folder / ".hidden").write_bytes(b"made by a file browser")
        (file := folder / "0_ann_0.wav").write_bytes(file.read_bytes() + b"more")
        name = "recordings"
    else:
        name = av_mnist_files.ARCHIVE
        (file := tmp_path / "raw" / name).write_bytes(file.read_bytes() + b"more")
    other = dataclasses.replace(digits, manual_dir=str(tmp_path / "raw"))
    with pytest.raises(ValueError, match=rf"was prepared from {name} of (\d+) bytes") as caught:
        registry.open_dataset(other)
    before, now = (
        int(part.split()[0])
        for part in (
            str(caught.value).split(" of ")[1],
            str(caught.value).split(" has ")[1].replace(";", " "),
        )
    )
    assert now == before + 4
