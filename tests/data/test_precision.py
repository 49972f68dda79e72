"""Numbers far from 0 keep what varies in them, whatever their type and whoever reads them."""

import dataclasses
import json
import pickle

import h5py
import npz_examples
import numpy as np
import pytest
import sentiment_pickles
import tensorflow_datasets as tfds
import vggsound_hdf5

from sft_jax.data import prepared, registry
from sft_jax.data.arrays import from_arrays
from sft_jax.data.card import Card
from sft_jax.data.dataset import Dataset, DatasetInfo, Standardisation, compute_statistics
from sft_jax.data.moments import Moments
from sft_jax.data.precision import faults
from sft_jax.data.sets.npz_folder.entry import FolderData
from sft_jax.data.sets.sentiment.entry import MoseiData
from sft_jax.data.sets.tfds.entry import TfdsData
from sft_jax.data.sets.vggsound.entry import VggSoundData
from sft_jax.structs import ModalitySpec

SECONDS = np.arange(32)[:, None] * 0.5 + np.arange(10) * 0.05
COUNT = np.arange(320).reshape(32, 10)
NOISE = np.random.default_rng(0).normal(size=(32, 10))


def _seen(column, **options):
    """Inputs of a model made of a column, `[n, steps]`."""
    labels, splits = np.arange(len(column)) % 2, ("train", "valid")
    inputs = {"x": column[..., None]}
    dataset = from_arrays(
        dict.fromkeys(splits, inputs), dict.fromkeys(splits, labels), ("a", "b"), **options
    )
    return np.stack(
        [example["inputs"]["x"][..., 0] for example in dataset.source("train")]
    ), dataset


def _assert_kept(seen, original):
    """Mean 0, deviation 1, and as many values as were given."""
    assert seen.dtype == np.float32
    original = np.asarray(original, np.longdouble)
    np.testing.assert_allclose(seen.mean(dtype=np.float64), 0, atol=2e-4)
    np.testing.assert_allclose(seen.std(dtype=np.float64), 1, atol=1e-5)
    assert len(np.unique(seen)) == len(np.unique(original))
    expected = (original - original.mean()) / original.std()
    np.testing.assert_allclose(seen, expected.astype(float), atol=2e-4)


@pytest.mark.parametrize(
    "column",
    [
        *((1.7e9 + SECONDS).astype(dtype) for dtype in ("f8", ">f8", "longdouble")),
        *((1_700_000_000 + COUNT).astype(dtype) for dtype in ("i8", "u8", "i4", "u4", ">i8")),
        101_325 + 0.003 * NOISE,
        (101_325 + 0.003 * NOISE).astype("f4"),
        (1000 + 3 * NOISE).astype("f2"),
        2**44 - COUNT,
        1e-60 * NOISE,
        1e37 * NOISE,
        -1e11 + NOISE,
    ],
    ids=lambda column: f"{column.dtype.str} {column.flat[0]:.3g}",
)
def test_columns_with_an_offset_keep_their_values(column):
    _assert_kept(_seen(column)[0], column)
    by_step = column.reshape(-1, 1)  # Each value an example.
    _assert_kept(_seen(by_step)[0], by_step)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (2**60 + COUNT, "'train/0': x holds int64 as large as 1152921504606846985; expected at m"),
        (-(2**60) - COUNT, "'train/0': x holds int64 as large as 1152921504606846985"),
        (COUNT.astype("u8") + np.uint64(2**63), "'train/0': x holds uint64 .* subtract an offset"),
        (np.datetime64("2024-01-01", "s") + COUNT, r"x is datetime64\[s\], expected numbers: subt"),
        (COUNT.astype("m8[s]"), r"x is timedelta64\[s\], expected numbers: subtract a first time"),
        (NOISE + 1j, "x is complex128, expected numbers"),
        (NOISE.astype(object), "x is object, expected numbers"),
    ],
)
def test_integers_beyond_float64_are_refused(column, message):
    with pytest.raises(ValueError, match=message):
        _seen(column)


def test_numbers_beyond_float32_are_still_not_finite():
    column = 1.7e9 + SECONDS
    column[3, 2] = 1e39
    with pytest.raises(ValueError, match=r"'train/3': x holds 1 inf; .* not_finite"):
        _seen(column)
    seen, dataset = _seen(column, not_finite="mean")
    others = np.delete(column.reshape(-1), 32)
    np.testing.assert_allclose(dataset.info.statistics["x"].mean, others.mean(), rtol=1e-15)
    assert abs(seen[3, 2]) < 1e-6
    assert len(np.unique(seen)) == len(np.unique(others)) + 1


# By every reader.


def _folder(tmp_path, column):
    rows = []
    for i, values in enumerate(column):
        for split in ("train", "valid", "test") if i < 2 else ("train",):
            rows.append([f"{split}/{i}.npz", split, "ab"[i % 2]])
            npz_examples.write_example(tmp_path / "raw", rows[-1][0], x=values)
    npz_examples.write_manifest(tmp_path / "raw", rows)
    return FolderData(data_dir=str(tmp_path / "data"), manual_dir=str(tmp_path / "raw"))


class Times(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Times, in float64 and as integers."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        tensor = tfds.features.Tensor
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    # Without `encoding` TFDS itself would store float32.
                    "x": tensor(shape=(10,), dtype=np.float64, encoding="bytes"),
                    "count": tensor(shape=(10,), dtype=np.int64),
                    "label": tfds.features.ClassLabel(num_classes=2),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, (x, count) in enumerate(zip(1.7e9 + SECONDS, 1_700_000_000 + COUNT, strict=True)):
            yield i, {"x": x, "count": count, "label": i % 2}


def _times(tmp_path, modality):
    builder = Times(data_dir=tmp_path)
    with prepared.quiet():
        builder.download_and_prepare(file_format="array_record")
    return TfdsData(
        builder=f"times:{builder.version}",
        data_dir=str(tmp_path),
        modalities=(modality,),
        splits={"train": "train", "valid": "train[:2]", "test": "train[2:4]"},
    )


def _assert_read(config, name):
    """A model sees the values of the reader, standardised by their own mean and deviation."""
    raw = [record["inputs"].get(name) for record in registry.read_raw(config).read("train")]
    examples = registry.open_dataset(config).source("train")
    assert len(raw) == len(examples) > 1
    steps = np.concatenate([values for values in raw if values is not None]).astype("longdouble")
    seen = np.concatenate([example["inputs"][name][example["masks"][name]] for example in examples])
    expected = (steps - steps.mean(0)) / steps.std(0)
    np.testing.assert_allclose(seen, expected.astype(float), atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("column", [1.7e9 + SECONDS, 1_700_000_000 + COUNT], ids=["f8", "i8"])
def test_a_folder_of_files_keeps_them(tmp_path, column):
    config = _folder(tmp_path, column)
    _assert_read(config, "x")
    stored = registry.prepare_dataset(config).records(["train"])[0]["inputs"]["x"]
    assert stored.dtype == np.float64
    np.testing.assert_array_equal(stored[:, 0], column[0])


@pytest.mark.parametrize("modality", ["x", "count"])
def test_tfds_keeps_them(tmp_path, modality):
    _assert_read(_times(tmp_path, modality), modality)


def test_sentiments_keep_them(tmp_path):
    path = tmp_path / "mosei_senti_data_noalign.pkl"
    counts = {"train": 4, "valid": 2, "test": 2}
    sentiment_pickles.write(path, "mosei", "mult_noalign", counts)
    content = pickle.loads(path.read_bytes())
    for split in counts:
        content[split]["vision"][content[split]["vision"].any(axis=-1)] += 1.7e9
    path.write_bytes(pickle.dumps(content))
    folders = {"data_dir": str(tmp_path / "data"), "manual_dir": str(tmp_path)}
    config = MoseiData(variant="mult_noalign", not_finite="zero", **folders)
    config = dataclasses.replace(config, file=path.name)
    _assert_read(config, "vision")


def test_clips_keep_them(tmp_path):
    for path in vggsound_hdf5.write(tmp_path / "raw", classes=2, train=6, test=2):
        with h5py.File(path, "r+") as file:
            values = file["rgb"][:].astype(float) + 1.7e9
            del file["rgb"]
            file["rgb"] = values
    folders = {"data_dir": str(tmp_path / "data"), "manual_dir": str(tmp_path / "raw")}
    _assert_read(VggSoundData(modalities=("rgb",), **folders), "rgb")


# Statistics


def test_statistics_survive_json_to_the_last_digit():
    info = _seen(1.7e9 + SECONDS)[1].info
    again = DatasetInfo.from_json(json.loads(json.dumps(info.to_json())))
    assert again == info
    assert again.statistics["x"].mean[0] == pytest.approx(1.7e9 + SECONDS.mean(), rel=1e-15)
    # What was saved when they were rounded loads, and is that of the same data.
    values = info.to_json()
    for saved in values["statistics"].values():
        for name in ("mean", "std"):
            saved[name] = [float(np.float32(number)) for number in saved[name]]
    once = DatasetInfo.from_json(values)
    assert once != info
    assert info.differences(once) == once.differences(info) == []
    values["statistics"]["x"]["std"] = [1.0]
    assert info.differences(DatasetInfo.from_json(values)) == ["statistics"]


def test_numbers_of_numpy_are_saved_as_plain_ones():
    info = DatasetInfo(
        modalities={"x": ModalitySpec(2, 2)},
        class_names=("a", "b"),
        statistics={"x": Standardisation(np.ones(2, np.float32), (np.float16(2), 3))},
        num_examples={"train": np.int64(4)},
    )
    assert DatasetInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert info.statistics["x"] == Standardisation((1.0, 1.0), (2.0, 3.0))


def test_given_examples_are_standardised_in_float64():
    examples = [
        {"id": str(i), "inputs": {"x": values[:, None]}, "label": i % 2}
        for i, values in enumerate(1.7e9 + SECONDS)
    ]
    statistics = compute_statistics(examples)
    seen = np.stack([statistics["x"].apply(example["inputs"]["x"]) for example in examples])
    _assert_kept(seen[..., 0], 1.7e9 + SECONDS)


def test_numbers_beyond_float32_once_standardised_are_named():
    examples = [{"id": "far", "inputs": {"x": np.full((2, 1), 1e30)}, "label": 0}]
    info = DatasetInfo(
        modalities={"x": ModalitySpec(2, 1)},
        class_names=("a", "b"),
        statistics={"x": Standardisation((0.0,), (1e-10,))},
        num_examples={"train": 1},
    )
    with pytest.raises(ValueError, match="example 'far': x is beyond float32 once it is stand"):
        Dataset(info, {"train": examples}.__getitem__).source("train")


@pytest.mark.parametrize("value", [0.1, 1e6 / 3, -1.7e9, 2.0**52])
def test_a_feature_that_never_changes_stays_so_over_many_parts(value):
    total = Moments.from_values(np.zeros((0, 1)))
    for count in (1000, 1, 3333):
        total += Moments.from_values(np.full((count, 1), value))
    assert (total.mean[0], total.squares[0], total.std[0]) == (value, 0.0, 1.0)
    assert faults(total, {"float64": 3}) == []


# What the card says


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            (101_325 + 0.003 * NOISE).astype("f4"),
            "train: x, feature 0: read as float32, which rounds 101325 by up to 0.006, beside a",
        ),
        ((1000 + 3 * NOISE).astype("f2"), "train: x, feature 0: read as float16, which rounds 99"),
        (
            np.where(COUNT == 7, 1e20, NOISE),
            "train: x, feature 0: neighbours differ by ",
        ),
        (1e-200 * NOISE, "train: x, feature 0: varies by no more than float64 rounds"),
    ],
)
def test_the_card_warns_of_what_is_lost(column, message):
    for values in (column, column.reshape(-1, 1)):
        card = _seen(values)[1].card
        (warning,) = [text for text in card.warnings() if text.startswith("train")]
        assert warning.startswith(message)
        again = Card.from_json(json.loads(json.dumps(card.to_json())))
        assert again.warnings() == card.warnings()


@pytest.mark.parametrize(
    "column",
    [1.7e9 + SECONDS, 1_700_000_000 + COUNT, NOISE.astype("f4"), np.sign(NOISE), 0 * NOISE],
)
def test_the_card_does_not_warn_of_what_is_kept(column):
    assert _seen(column)[1].card.warnings() == []


def test_features_that_are_lost_are_listed():
    values = np.float32(1e6 + 0.1 * np.random.default_rng(0).normal(size=(50, 8)))
    values[:, 3] = 1.0
    (fault,) = faults(Moments.from_values(values), {"float32": 1})
    assert fault.startswith(", features 0, 1, 2, 4, 5 and 2 more: read as float32")


def test_the_card_warns_of_numbers_to_predict_that_are_rounded():
    for offset, expected in ((1.7e9, ["train", "valid"]), (17.0, [])):
        labels = dict.fromkeys(("train", "valid"), offset + np.arange(8.0)[:, None])
        inputs = {"x": NOISE[:8, :, None]}
        card = from_arrays(
            {"train": inputs, "valid": inputs}, labels, ("when",), task="regression"
        ).card
        warnings = card.warnings()
        assert [text.split(":")[0] for text in warnings] == expected
        assert all("label when, from 1700000000 to 1700000007, is" in text for text in warnings)


def test_cards_of_older_versions_are_read():
    card = _seen(NOISE)[1].card
    values = card.to_json()
    for split in values["splits"].values():
        del split["types"], split["moments"]["x"]["changes"], split["moments"]["x"]["log_changes"]
    again = Card.from_json(json.loads(json.dumps(values)))
    assert again.warnings() == []
    np.testing.assert_array_equal(
        again.splits["train"].moments["x"].mean, card.splits["train"].moments["x"].mean
    )
