"""CMU-MOSEI and CMU-MOSI from their files to examples."""

import dataclasses
import functools
import pathlib
import shutil

import numpy as np
import pytest
import sentiment_pickles
from opened import (
    COUNTS,
    SPLITS,
    assert_examples,
    assert_outlined,
    assert_same_without,
    cleaned,
    unchanged,
)

from sft_jax.data import registry
from sft_jax.data.cleaning import finite_means
from sft_jax.data.dataset import compute_statistics
from sft_jax.data.records import DataFileError
from sft_jax.data.registry import DATASETS
from sft_jax.data.sets.sentiment.entry import MosiData
from sft_jax.data.sets.sentiment.files import sentiment_class


def _published(config, info):
    """The modalities if the longest example were as long as in the published files."""
    steps = sentiment_pickles.steps(config.name, config.variant)
    specs = info.modalities.items()
    return {name: dataclasses.replace(spec, length=steps[name]) for name, spec in specs}


def _file_name(dataset, variant):
    source, alignment = variant.split("_")
    published = DATASETS[dataset].mult_files
    return published[alignment] if source == "mult" else f"{alignment}_50.pkl"


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
        return DATASETS[dataset](
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
    dataset = unchanged(config)
    info = dataset.info
    assert (info.task, info.metrics, len(info.class_names)) == ("ordinal", ("sentiment",), 7)
    assert_outlined(config, info, modalities=_published(config, info))
    assert [*info.modalities] == ["vision", "audio", "text"]
    for split in SPLITS:
        expected = _expected(config, split)
        assert_examples(
            dataset,
            split,
            cleaned(expected),
            lambda label: sentiment_class(float(label[0])),
        )
        card = dataset.card.splits[split]
        assert card.n_examples == COUNTS[split]
        for modality in info.modalities:
            lengths = [len(record["inputs"].get(modality, ())) for record in expected]
            assert card.lengths[modality] == {
                length: lengths.count(length) for length in {*lengths}
            }
        assert card.not_finite["audio"] == {"-inf": COUNTS[split]}
    # One example of training has no vision.
    assert dataset.card.splits["train"].lengths["vision"][0] == 1
    assert not dataset.source("train")[4]["masks"]["vision"].any()


@pytest.mark.parametrize("variant", ["mult_noalign", "mmsa_aligned"])
def test_sentiments_need_their_file_once(sentiments, variant):
    config = sentiments("mosei", variant)
    assert_same_without(config.manual_dir, config)


def test_statistics_are_those_of_the_training_split(sentiments):
    config = sentiments("mosi", "mult_aligned")
    expected = compute_statistics(unchanged(config).source("train"))
    for name, statistics in registry.open_dataset(config).info.statistics.items():
        np.testing.assert_allclose(statistics.mean, expected[name].mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(statistics.std, expected[name].std, rtol=1e-5)


def test_a_sentiment_may_be_a_number_of_fewer_modalities(sentiments):
    config = dataclasses.replace(
        sentiments("mosi", "mult_noalign"),
        target="value",
        modalities=("text", "audio"),
        patch_size={"audio": 5},
    )
    dataset = unchanged(config)
    assert (dataset.info.task, dataset.info.class_names) == ("regression", ("sentiment",))
    assert [*dataset.info.modalities] == ["text", "audio"]
    assert dataset.info.modalities["audio"].patch_size == 5
    assert dataset.info.modalities["text"].patch_size == 1
    assert_outlined(config, dataset.info, modalities=_published(config, dataset.info))
    assert_examples(dataset, "valid", cleaned(_expected(config, "valid")))
    for field in ({"modalities": ("audio", "speech")}, {"patch_size": {"speech": 2}}):
        with pytest.raises(ValueError, match=rf"data.{next(iter(field))}: unknown .*'speech'"):
            registry.open_dataset(dataclasses.replace(config, **field))


@pytest.mark.parametrize("policy", ["mean", "drop"])
def test_numbers_that_are_not_finite_follow_the_policy(sentiments, policy):
    config = dataclasses.replace(
        sentiments("mosi", "mult_noalign"), target="value", not_finite=policy
    )
    dataset = unchanged(config)
    means = finite_means(_expected(config, "train"))
    for split in SPLITS:
        assert_examples(dataset, split, cleaned(_expected(config, split), policy, means))
    whole = registry.open_dataset(sentiments("mosi", "mult_noalign"))
    if policy == "drop":  # One step of each example.
        for one, other in zip(dataset.source("test"), whole.source("test"), strict=True):
            assert one["masks"]["audio"].sum() == other["masks"]["audio"].sum() - 1
    assert dataset.card.policy == policy


def test_a_file_of_another_variant_is_named(sentiments):
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


def test_the_file_in_the_folder_of_the_dataset_wins(tmp_path):
    for name in ("MOSI", "MOSEI"):
        (tmp_path / name / "Processed").mkdir(parents=True)
        (tmp_path / name / "Processed" / "unaligned_50.pkl").touch()
    config = MosiData(variant="mmsa_unaligned")
    assert config.path_in(tmp_path).parts[-3] == "MOSI"
    (tmp_path / "mosi_again").mkdir()
    (tmp_path / "mosi_again" / "unaligned_50.pkl").touch()
    with pytest.raises(DataFileError, match=r"expected one file .*; found \["):
        config.path_in(tmp_path)


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
