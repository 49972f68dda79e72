"""Datasets of TFDS to examples."""

import dataclasses
import io
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from opened import (
    SPLITS,
    assert_examples,
    assert_found_again,
    assert_outlined,
    unchanged,
)
from PIL import Image

from sft_jax.data import prepared, registry
from sft_jax.data.records import DataFileError
from sft_jax.data.sets.tfds.entry import TfdsData


class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Sequences, images, points in time and numbers; some sequences are empty."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        tensor = tfds.features.Tensor
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "way": tensor(shape=(None, 2), dtype=np.float32),
                    "picture": tfds.features.Image(shape=(3, 4, 1)),
                    "times": tfds.features.Sequence(np.int64),
                    "size": np.float32,
                    "label": tfds.features.ClassLabel(names=["round", "square"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(8), "test": self._generate_examples(3, 100)}

    def _generate_examples(self, count, first=0):
        for i in range(count):
            yield i, {**shape(first + i), "picture": png(shape(first + i)["picture"])}


def shape(number):
    random = np.random.default_rng(number)
    return {
        "id": f"shape{number}",
        "way": random.normal(size=(number % 4, 2)).astype(np.float32),
        "picture": random.integers(0, 256, (3, 4, 1), np.uint8),
        "times": np.arange(number % 3 + 1),
        "size": np.float32(number / 2),
        "label": number % 2,
    }


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    with prepared.quiet():
        Shapes(data_dir=directory).download_and_prepare(file_format="array_record")
    return TfdsData(
        builder="shapes",
        data_dir=directory,
        modalities=("way", "picture", "times"),
        splits={"train": "train[:50%]", "valid": "train[50%:]", "test": "test"},
    )


def test_examples_of_tfds_are_those_of_its_splits(shapes):
    dataset = unchanged(dataclasses.replace(shapes, patch_size={"picture": (3, 2)}))
    assert dataset.info.num_examples == {"train": 4, "valid": 4, "test": 3}
    assert dataset.info.class_names == ("round", "square")
    assert dataset.card.variant == "shapes_1.2.0"
    seen = {}
    for split in SPLITS:
        expected = []
        for example in dataset.source(split):
            original = shape(int(example["id"].removeprefix("shape")))
            inputs = {
                "way": original["way"],
                "picture": original["picture"],
                "times": original["times"][:, None],
            }
            expected.append({"id": original["id"], "inputs": inputs, "label": original["label"]})
        inputs = [{name: v for name, v in e["inputs"].items() if len(v)} for e in expected]
        expected = [{**e, "inputs": i} for e, i in zip(expected, inputs, strict=True)]
        assert_examples(dataset, split, expected)
        seen[split] = {record["id"] for record in expected}
    assert seen["train"] | seen["valid"] == {f"shape{i}" for i in range(8)}
    assert seen["test"] == {"shape100", "shape101", "shape102"}
    stored = registry.prepare_dataset(shapes).records(["train"])[0]["inputs"]
    assert stored["picture"].dtype == np.uint8


def test_patches_and_a_second_opening_prepare_nothing_again(shapes, monkeypatch):
    registry.open_dataset(shapes)
    monkeypatch.setattr(prepared.PreparedData, "download_and_prepare", None)
    info = registry.open_dataset(dataclasses.replace(shapes, patch_size={"picture": 2})).info
    assert info.modalities["picture"].patch_size == 2
    assert_outlined(shapes, registry.open_dataset(shapes).info)


def test_prepared_data_suffices_once_the_builder_is_gone(shapes, tmp_path):
    assert_found_again(shapes, {"builder": "gone"}, tmp_path)


def test_a_number_of_tfds_may_be_predicted(shapes):
    config = dataclasses.replace(shapes, modalities=("times",), label="size", task="regression")
    dataset = unchanged(config)
    assert dataset.info.class_names == ("size0",)
    for example in dataset.source("test"):
        assert example["label"].tolist() == [shape(int(example["id"][5:]))["size"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"builder": ""}, "data.builder must name a dataset"),
        ({"modalities": ()}, "data.modalities its features"),
        ({"builder": "circles"}, r"data.builder='circles' can't be opened: .*not found\.?$"),
        ({"builder": "shapes:3.0.0"}, "data.builder='shapes:3.0.0' can't be opened"),
        ({"builder": "mnist"}, "data.builder='mnist' has not been prepared in .*mnist"),
        ({"modalities": ("way", "sound")}, r"no feature 'sound': it has \['id', 'label', 'pict"),
        ({"modalities": ("id",)}, "the feature 'id' is no modality.* it is Text"),
        ({"modalities": ("size",)}, "the feature 'size' is no modality.* it is Tensor"),
        ({"label": "class"}, "no feature 'class'"),
        ({"label": "size"}, "the feature 'size' is no label of the task single_label, .*integer"),
        ({"label": "way", "task": "regression"}, "the feature 'way' is no label of the task regr"),
        ({"splits": {"train": "train"}}, r"data.splits .* lacks \['valid', 'test'\]"),
        (
            {"splits": {"train": "train", "valid": "dev", "test": "test"}},
            r"split 'dev' can't be read; .* its splits are \['test', 'train'\]",
        ),
        (
            {"splits": {"train": "train", "valid": "train[:0%]", "test": "test"}},
            r"split 'train\[:0%\]' can't be read; .* it has no examples",
        ),
    ],
)
def test_missing_parts_of_tfds_are_named(shapes, changes, message):
    with pytest.raises(DataFileError, match=message):
        registry.open_dataset(dataclasses.replace(shapes, **changes))


def test_a_format_that_needs_tensorflow_is_named(shapes, tmp_path):
    shutil.copytree(pathlib.Path(shapes.data_dir) / "shapes", tmp_path / "shapes")
    (info,) = tmp_path.rglob("dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataFileError, match=r"must be prepared as array_record.*TFRECORD"):
        registry.open_dataset(dataclasses.replace(shapes, data_dir=str(tmp_path)))


def test_a_modality_that_training_lacks_is_named(shapes):
    # The first three examples of train that have a way are not in this part of it.
    lacking = [
        position
        for position, example in enumerate(registry.open_dataset(shapes).source("train"))
        if not example["masks"]["way"].any()
    ]
    part = f"train[{lacking[0]}:{lacking[0] + 1}]"
    config = dataclasses.replace(shapes, splits=shapes.splits | {"train": part})
    with pytest.raises(ValueError, match="no example has any step of way"):
        registry.open_dataset(config)
