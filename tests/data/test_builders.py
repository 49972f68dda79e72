"""From raw files in their true format to examples: each dataset is prepared and opened."""

import dataclasses
import functools
import io
import json
import pathlib
import shutil

import av_mnist_files
import h5py
import npz_examples
import numpy as np
import pytest
import sentiment_pickles
import tensorflow_datasets as tfds
import vggsound_hdf5
from PIL import Image

from sft_jax.data import builder, builders, registry
from sft_jax.data.cleaning import clean, finite_means
from sft_jax.data.datasets import Standardisation, compute_statistics
from sft_jax.data.outline import Outline, outline
from sft_jax.data.readers import av_mnist, sentiment_files
from sft_jax.data.readers.npz_folder import read_npz_folder
from sft_jax.data.records import DataFileError
from sft_jax.data_config import AvMnistData, FolderData, SentimentData, TfdsData, VggSoundData

COUNTS = {"train": 6, "valid": 3, "test": 2}
SPLITS = tuple(COUNTS)


def _unchanged(config):
    """The dataset, standardised by what changes nothing."""
    modalities = registry.open_dataset(config).info.modalities
    one = {
        name: Standardisation((0.0,) * spec.features, (1.0,) * spec.features)
        for name, spec in modalities.items()
    }
    return registry.open_dataset(config, one)


def _assert_outlined(config, info, **differs):
    """Without the data the same is known of it, but for what made-up files have otherwise."""
    found = Outline(info.modalities, len(info.class_names), info.task)
    assert outline(config) == found._replace(**differs)


def _published(config, info):
    """The modalities if the longest example were as long as in the published files."""
    steps = sentiment_pickles.steps(config.name, config.variant)
    specs = info.modalities.items()
    return {name: dataclasses.replace(spec, length=steps[name]) for name, spec in specs}


def _assert_examples(dataset, split, expected, label=lambda label: label):
    """The examples are those expected, padded behind, and nothing else is real."""
    found = dataset.source(split)
    assert dataset.info.num_examples[split] == len(found) == len(expected)
    for example, record in zip(found, expected, strict=True):
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


def _cleaned(records, policy="zero", means=None):
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


def _assert_same_without(folder, config):
    """The folder of raw files is not needed a second time."""
    before = [example["id"] for example in registry.open_dataset(config).source("test")]
    away = pathlib.Path(folder).with_name("away")
    pathlib.Path(folder).rename(away)
    try:
        again = registry.open_dataset(config)
        assert [example["id"] for example in again.source("test")] == before
    finally:
        away.rename(folder)


# Sentiments


def _file_name(dataset, variant):
    source, alignment = variant.split("_")
    return builders.MULT_FILES[dataset][alignment] if source == "mult" else f"{alignment}_50.pkl"


@pytest.fixture(scope="module")
def sentiments(tmp_path_factory):
    """Writes the file of a variant, once, and gives its config; MMSA's files lie in folders."""

    @functools.cache
    def write(dataset, variant):
        folder = tmp_path_factory.mktemp(f"{dataset}_{variant}")
        inside = (
            folder / "raw" / ("" if variant.startswith("mult") else f"{dataset.upper()}/Processed")
        )
        inside.mkdir(parents=True)
        sentiment_pickles.write(inside / _file_name(dataset, variant), dataset, variant, COUNTS)
        return SentimentData(
            name=dataset,
            variant=variant,
            data_dir=str(folder / "data"),
            manual_dir=str(folder / "raw"),
        )

    return write


def _expected(config, split):
    return list(sentiment_pickles.examples(config.name, config.variant, split, COUNTS[split]))


@pytest.mark.parametrize("name", sentiment_pickles.DATASETS)
@pytest.mark.parametrize("variant", sentiment_pickles.VARIANTS)
def test_sentiments_are_those_of_the_file(sentiments, name, variant):
    config = sentiments(name, variant)
    dataset = _unchanged(config)
    info = dataset.info
    assert (info.task, info.metrics, len(info.class_names)) == ("ordinal", ("sentiment",), 7)
    _assert_outlined(config, info, modalities=_published(config, info))
    assert [*info.modalities] == ["vision", "audio", "text"]
    for split in SPLITS:
        expected = _expected(config, split)
        _assert_examples(
            dataset,
            split,
            _cleaned(expected),
            lambda label: sentiment_files.sentiment_class(float(label[0])),
        )
        card = dataset.card.splits[split]
        assert card.n_examples == COUNTS[split]
        for modality in info.modalities:
            lengths = [len(record["inputs"].get(modality, ())) for record in expected]
            assert card.lengths[modality] == {of: lengths.count(of) for of in {*lengths}}
        assert card.not_finite["audio"] == {"-inf": COUNTS[split]}
    # One example of training has no vision.
    assert dataset.card.splits["train"].lengths["vision"][0] == 1
    assert not dataset.source("train")[4]["masks"]["vision"].any()


@pytest.mark.parametrize("variant", ["mult_noalign", "mmsa_aligned"])
def test_sentiments_need_their_file_once(sentiments, variant):
    config = sentiments("mosei", variant)
    _assert_same_without(config.manual_dir, config)


def test_what_is_standardised_by_is_of_the_training_split(sentiments):
    config = sentiments("mosi", "mult_aligned")
    expected = compute_statistics(_unchanged(config).source("train"))
    for name, of in registry.open_dataset(config).info.statistics.items():
        np.testing.assert_allclose(of.mean, expected[name].mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(of.std, expected[name].std, rtol=1e-5)


def test_a_sentiment_may_be_a_number_and_modalities_may_be_fewer(sentiments):
    config = dataclasses.replace(
        sentiments("mosi", "mult_noalign"),
        target="value",
        modalities=("text", "audio"),
        patch_size={"audio": 5},
    )
    dataset = _unchanged(config)
    assert (dataset.info.task, dataset.info.class_names) == ("regression", ("sentiment",))
    assert [*dataset.info.modalities] == ["text", "audio"]
    assert dataset.info.modalities["audio"].patch_size == 5
    assert dataset.info.modalities["text"].patch_size == 1
    _assert_outlined(config, dataset.info, modalities=_published(config, dataset.info))
    _assert_examples(dataset, "valid", _cleaned(_expected(config, "valid")))
    for field in ({"modalities": ("audio", "speech")}, {"patch_size": {"speech": 2}}):
        with pytest.raises(ValueError, match=rf"data.{next(iter(field))}: unknown .*'speech'"):
            registry.open_dataset(dataclasses.replace(config, **field))


@pytest.mark.parametrize("policy", ["mean", "drop"])
def test_what_is_not_finite_is_treated_as_asked(sentiments, policy):
    config = dataclasses.replace(
        sentiments("mosi", "mult_noalign"), target="value", not_finite=policy
    )
    dataset = _unchanged(config)
    means = finite_means(_expected(config, "train"))
    for split in SPLITS:
        _assert_examples(dataset, split, _cleaned(_expected(config, split), policy, means))
    whole = registry.open_dataset(sentiments("mosi", "mult_noalign"))
    if policy == "drop":  # One step of each example.
        for one, other in zip(dataset.source("test"), whole.source("test"), strict=True):
            assert one["masks"]["audio"].sum() == other["masks"]["audio"].sum() - 1
    assert dataset.card.policy == policy


def test_a_file_of_another_variant_is_told_by_its_name(sentiments):
    config = sentiments("mosi", "mult_noalign")
    wrong = dataclasses.replace(config, variant="mult_aligned", file="mosi_data_noalign.pkl")
    with pytest.raises(DataFileError, match="of the variant mult_noalign, not mult_aligned: set"):
        registry.open_dataset(wrong)
    with pytest.raises(DataFileError, match=r"one file aligned_50.pkl in .*there is no aligned"):
        registry.open_dataset(dataclasses.replace(config, variant="mmsa_aligned"))


def test_a_file_under_another_name_is_prepared_for_itself(sentiments, tmp_path):
    first = sentiments("mosi", "mult_aligned")
    counts = {"train": 3, "valid": 1, "test": 1}
    shutil.copy(next(pathlib.Path(first.manual_dir).iterdir()), tmp_path)
    sentiment_pickles.write(tmp_path / "mine.pkl", "mosi", "mult_aligned", counts)
    mine = dataclasses.replace(first, manual_dir=str(tmp_path), file="mine.pkl")
    assert registry.open_dataset(first).info.num_examples == COUNTS
    assert registry.open_dataset(mine).info.num_examples == counts


def test_of_two_files_of_a_name_that_in_the_folder_of_the_dataset_is_taken(tmp_path):
    for name in ("MOSI", "MOSEI"):
        (tmp_path / name / "Processed").mkdir(parents=True)
        (tmp_path / name / "Processed" / "unaligned_50.pkl").touch()
    config = SentimentData(name="mosi", variant="mmsa_unaligned")
    assert builders.sentiment_path(config, tmp_path).parts[-3] == "MOSI"
    (tmp_path / "mosi_again").mkdir()
    (tmp_path / "mosi_again" / "unaligned_50.pkl").touch()
    with pytest.raises(DataFileError, match=r"expected one file .*; found \["):
        builders.sentiment_path(config, tmp_path)


@pytest.mark.parametrize("variant", ["mult_aligned", "mmsa_aligned"])
def test_a_file_of_another_size_is_refused(sentiments, tmp_path, variant):
    config = sentiments("mosi", variant)
    registry.open_dataset(config)
    shutil.copytree(config.manual_dir, tmp_path / "raw")
    (file,) = (tmp_path / "raw").rglob("*.pkl")
    file.write_bytes(file.read_bytes() + b"more")
    other = dataclasses.replace(config, manual_dir=str(tmp_path / "raw"))
    with pytest.raises(
        ValueError, match=rf"prepared from .*{file.name} of .*; remove the prepared"
    ):
        registry.open_dataset(other)


@pytest.fixture
def copied(sentiments, tmp_path):
    """Prepared data that a test may damage: its config and folder."""
    config = sentiments("mosi", "mult_aligned")
    registry.open_dataset(config)
    shutil.copytree(config.data_dir, tmp_path / "data")
    config = dataclasses.replace(config, data_dir=str(tmp_path / "data"))
    return config, registry.prepare_dataset(config).data_path


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("dataset_info.json", None),
        ("dataset_info.json", "cut"),
        ("metadata.json", None),
        ("metadata.json", "cut"),
        ("cmu_mosi-train.array_record-00000", None),
        ("cmu_mosi-train.array_record-00000", "cut"),
        ("cmu_mosi-train.array_record-00000", "changed"),
    ],
)
def test_damaged_data_is_named(copied, file, damage):
    config, version = copied
    content = bytearray((version / file).read_bytes())
    if damage is None:
        (version / file).unlink()
    elif damage == "cut":
        (version / file).write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 255
        (version / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"the prepared data in {version} .*; remove it"):
        registry.open_dataset(config).source("train")


# VGGSound


@pytest.fixture(scope="module")
def vggsound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vggsound")
    vggsound_hdf5.write(folder / "raw", classes=2, train=6, test=2)
    return VggSoundData(data_dir=str(folder / "data"), manual_dir=str(folder / "raw"))


def test_clips_are_those_of_the_files(vggsound):
    dataset = _unchanged(vggsound)
    assert dataset.info.num_examples == {"train": 4, "valid": 2, "test": 2}
    assert dataset.info.class_names == tuple(sorted(vggsound_hdf5.class_names(2)))
    assert (dataset.info.task, dataset.info.metrics) == ("single_label", ("ranking",))
    shapes = {name: spec.shape for name, spec in dataset.info.modalities.items()}
    assert shapes == vggsound_hdf5.SHAPES
    _assert_outlined(vggsound, dataset.info, num_outputs=10)
    for split in SPLITS:
        expected = []
        prefix = "test" if split == "test" else "train"
        with h5py.File(f"{vggsound.manual_dir}/vgg_{prefix}.h5py") as file:
            names = sorted(set(file["class_name"][:]))
            for example in dataset.source(split):
                of, row = example["id"].split("/")
                assert of == prefix
                inputs = {key: file[key][int(row)] for key in shapes}
                label = names.index(file["class_name"][int(row)])
                expected.append({"id": example["id"], "inputs": inputs, "label": label})
        _assert_examples(dataset, split, expected)
        assert dataset.card.splits[split].labels == dict.fromkeys(
            dataset.info.class_names, len(expected) // 2
        )
    ids = [example["id"] for split in ("train", "valid") for example in dataset.source(split)]
    assert sorted(ids) == [f"train/{row:06d}" for row in range(6)]


def test_clips_need_their_files_once(vggsound):
    _assert_same_without(vggsound.manual_dir, vggsound)


def test_what_another_version_has_prepared_is_named(vggsound, tmp_path):
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


# AV-MNIST


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "unpacked"])
def digits(request, tmp_path_factory):
    """As the files are published, and unpacked, with a folder of recordings."""
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
    dataset = _unchanged(digits)
    shapes = {name: spec.shape for name, spec in dataset.info.modalities.items()}
    assert shapes == {"image": (28, 28, 1), "sound": (64, 32, 1)}
    _assert_outlined(digits, dataset.info)
    assert {name: spec.num_tokens for name, spec in dataset.info.modalities.items()} == {
        "image": 16,
        "sound": 32,
    }
    assert dataset.info.class_names == tuple("0123456789")
    options = av_mnist.AvMnistOptions(train_pairs=4, valid_pairs=2, test_pairs=3)
    raw = av_mnist.read_av_mnist(digits.manual_dir, options)
    for split in SPLITS:
        _assert_examples(dataset, split, list(raw.read(split)))
    stored = builder.PreparedSplit(registry.prepare_dataset(digits), ["train"])[0]["inputs"]
    assert (stored["image"].dtype, stored["sound"].dtype) == (np.uint8, np.float32)


def test_pairs_of_digits_need_their_files_once(digits):
    _assert_same_without(digits.manual_dir, digits)


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


# A folder of .npz files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("npz")
    npz_examples.write(directory / "my data, (1)", **{**COUNTS, "train": 8})
    return FolderData(data_dir=str(directory / "data"), manual_dir=str(directory / "my data, (1)"))


def test_examples_of_a_folder_are_those_of_its_files(folder):
    dataset = _unchanged(dataclasses.replace(folder, patch_size={"image": (7, 14), "sound": 2}))
    assert dataset.info.class_names == npz_examples.CLASSES
    assert dataset.info.modalities["image"].patch_size == (7, 14)
    raw = read_npz_folder(folder.manual_dir)
    for split in SPLITS:
        _assert_examples(dataset, split, list(raw.read(split)))
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


@pytest.mark.parametrize("moved", [False, True])
def test_prepared_data_does_where_the_raw_data_is_gone(folder, shapes, tmp_path, moved):
    for name, config, gone in (
        ("npz", folder, {"manual_dir": str(tmp_path / "gone")}),
        ("tfds", shapes, {"builder": "gone"}),
    ):
        before = registry.open_dataset(config)
        about = json.loads(json.dumps(before.prepared))
        there = dataclasses.replace(config, **gone)
        if moved:
            shutil.copytree(config.data_dir, tmp_path / name)
            about["data_dir"] = str(tmp_path / "gone")
            there = dataclasses.replace(there, data_dir=str(tmp_path / name))
        after = registry.open_dataset(there, before.info.statistics, about)
        assert after.info == before.info
        assert after.fingerprint("test") == before.fingerprint("test")
        with pytest.raises(DataFileError):
            registry.open_dataset(there, None, about | {"config": "another"})


def test_a_folder_is_prepared_again_when_it_has_changed(folder, tmp_path):
    shutil.copytree(folder.manual_dir, tmp_path / "same")
    config = dataclasses.replace(folder, manual_dir=str(tmp_path / "same"))
    before = _unchanged(config).source("train")[0]
    npz_examples.write_example(tmp_path / "same", "train/000.npz", sound=np.full((2, 5), 7.0))
    after = _unchanged(config).source("train")[0]
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
    dataset = _unchanged(config)
    assert (dataset.info.task, dataset.info.class_names) == (task, tuple(names))
    raw = read_npz_folder(tmp_path / "raw")
    for split in labels:
        _assert_examples(dataset, split, list(raw.read(split)))


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
    example = _unchanged(config).source("train")[2]
    np.testing.assert_array_equal(example["inputs"]["x"][example["masks"]["x"]].tolist(), expected)


# Datasets of TFDS


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
    with builder.quiet():
        Shapes(data_dir=directory).download_and_prepare(file_format="array_record")
    return TfdsData(
        builder="shapes",
        data_dir=directory,
        modalities=("way", "picture", "times"),
        splits={"train": "train[:50%]", "valid": "train[50%:]", "test": "test"},
    )


def test_examples_of_tfds_are_those_of_its_splits(shapes):
    dataset = _unchanged(dataclasses.replace(shapes, patch_size={"picture": (3, 2)}))
    assert dataset.info.num_examples == {"train": 4, "valid": 4, "test": 3}
    assert dataset.info.class_names == ("round", "square")
    assert dataset.card.variant == "shapes_1.2.0"
    seen = {}
    for split in SPLITS:
        expected = []
        for example in dataset.source(split):
            of = shape(int(example["id"].removeprefix("shape")))
            inputs = {"way": of["way"], "picture": of["picture"], "times": of["times"][:, None]}
            expected.append({"id": of["id"], "inputs": inputs, "label": of["label"]})
        inputs = [{name: v for name, v in e["inputs"].items() if len(v)} for e in expected]
        expected = [{**e, "inputs": i} for e, i in zip(expected, inputs, strict=True)]
        _assert_examples(dataset, split, expected)
        seen[split] = {record["id"] for record in expected}
    assert seen["train"] | seen["valid"] == {f"shape{i}" for i in range(8)}
    assert seen["test"] == {"shape100", "shape101", "shape102"}
    stored = builder.PreparedSplit(registry.prepare_dataset(shapes), ["train"])[0]["inputs"]
    assert stored["picture"].dtype == np.uint8


def test_patches_and_a_second_opening_prepare_nothing_again(shapes, monkeypatch):
    registry.open_dataset(shapes)
    monkeypatch.setattr(builders.FromTfds, "download_and_prepare", None)
    info = registry.open_dataset(dataclasses.replace(shapes, patch_size={"picture": 2})).info
    assert info.modalities["picture"].patch_size == 2
    _assert_outlined(shapes, registry.open_dataset(shapes).info)


def test_a_number_of_tfds_may_be_predicted(shapes):
    config = dataclasses.replace(shapes, modalities=("times",), label="size", task="regression")
    dataset = _unchanged(config)
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
def test_what_tfds_does_not_have_is_named(shapes, changes, message):
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
