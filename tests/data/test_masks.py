"""Steps that are missing within a sequence: masked arrays, and masks that are given beside them."""

import numpy as np
import pytest
from pydantic.dataclasses import dataclass

from sft_jax.data import registry
from sft_jax.data.arrays import from_arrays
from sft_jax.data.card import Card
from sft_jax.data.dataset import Dataset, compute_statistics
from sft_jax.data.records import RawData
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.data_config import STRICT

RNG = np.random.default_rng(0)
VALUES = RNG.normal(3, 2, (8, 5, 2))
REAL = RNG.random((8, 5)) < 0.6
REAL[:, 0] = True
LABELS = np.arange(8) % 2
FILLER = -9999.0


def _dataset(values, masks=None, labels=LABELS, names=("a", "b"), **options):
    """Training and validation are of the same examples."""
    splits = ("train", "valid")
    masks = masks if masks is None else {split: {"x": masks} for split in splits}
    inputs = {split: {"x": values} for split in splits}
    return from_arrays(inputs, dict.fromkeys(splits, labels), names, masks=masks, **options)


def _filled(values=VALUES, real=REAL, filler=FILLER):
    return np.where(real[..., None], values, np.array(filler, values.dtype))


def _masked(values=VALUES, real=REAL, filler=FILLER):
    missing = np.broadcast_to(~real[..., None], values.shape)
    return np.ma.MaskedArray(_filled(values, real, filler), missing)


def _assert_gaps(dataset, values=VALUES, real=REAL):
    """Real steps are standardised by their own mean and deviation, the others are masked and 0."""
    steps = values[real].astype(float)
    np.testing.assert_allclose(dataset.info.statistics["x"].mean, steps.mean(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.info.statistics["x"].std, steps.std(0), rtol=1e-12)
    for i, example in enumerate(dataset.source("train")):
        seen, mask = example["inputs"]["x"], example["masks"]["x"]
        length = real[i].shape[0]
        np.testing.assert_array_equal(mask[:length], real[i])
        assert not mask[length:].any()
        assert not seen[~mask].any()
        expected = (values[i][real[i]] - steps.mean(0)) / steps.std(0)
        np.testing.assert_allclose(seen[mask], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "masks"),
    [
        (_masked(), None),
        (list(_masked()), None),
        ([list(example) for example in _masked()], None),  # Of masked rows.
        (_filled(), REAL),
        (_filled(filler=np.nan), list(REAL)),
        (_filled(filler=np.inf), REAL.tolist()),
        (_filled(filler=1e300), REAL),
        (_masked(VALUES, REAL | (np.arange(5) == 1)), REAL | (np.arange(5) != 1)),  # Both.
    ],
    ids=["masked", "list", "rows", "mask", "nan", "inf", "beyond", "both"],
)
def test_missing_steps_are_masked_and_not_in_the_statistics(values, masks):
    _assert_gaps(_dataset(values, masks))


@pytest.mark.parametrize("dtype", ["u1", "i8", "u8", "f2", "f4", ">f8", bool])
def test_masked_arrays_of_any_dtype(dtype):
    values = RNG.integers(0, 2 if dtype is bool else 100, VALUES.shape).astype(dtype)
    filler = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1
    _assert_gaps(_dataset(_masked(values, filler=filler)), values)


def test_masked_images():
    values = RNG.normal(size=(8, 4, 3, 2))
    real = RNG.random((8, 4, 3)) < 0.5
    real[:, 0, 0] = True
    _assert_gaps(_dataset(_masked(values, real)), values, real)
    _assert_gaps(_dataset(_filled(values, real), real), values, real)


def test_lists_of_ragged_arrays_some_of_them_masked():
    lengths = (1, 5, 2, 3, 4, 5, 1, 2)
    real = [REAL[i, :length] for i, length in enumerate(lengths)]
    real[3] = np.ones(3, bool)
    values = [VALUES[i, :length] for i, length in enumerate(lengths)]
    masked = [_masked(*pair) for pair in zip(values, real, strict=True)]
    masked[3] = values[3]
    expected = np.concatenate([v[r] for v, r in zip(values, real, strict=True)])
    for dataset in (_dataset(masked), _dataset(values, [*real[:3], None, *real[4:]])):
        np.testing.assert_allclose(dataset.info.statistics["x"].mean, expected.mean(0))
        for i, example in enumerate(dataset.source("valid")):
            np.testing.assert_array_equal(
                np.flatnonzero(example["masks"]["x"]), *np.nonzero(real[i])
            )


def test_an_example_that_is_masked_throughout_lacks_the_modality():
    real = REAL.copy()
    real[2] = False
    dataset = _dataset(_masked(real=real))
    _assert_gaps(dataset, real=real)
    assert dataset.card.splits["train"].lengths == {"x": {5: 7, 0: 1}}
    assert "train: 1 example without x" in dataset.card.warnings()
    with pytest.raises(ValueError, match="no example has any step of x, so it cannot be"):
        _dataset(_masked(real=np.zeros_like(REAL)))


def test_a_masked_number_beside_others_is_treated_as_not_finite():
    values = np.ma.array(VALUES, mask=np.zeros(VALUES.shape, bool))
    values[1, 2, 0] = np.ma.masked
    with pytest.raises(ValueError, match="'train/1': x holds 1 nan; to read it all the same, set"):
        _dataset(values)
    steps = VALUES.reshape(-1, 2)
    mean = np.delete(steps[:, 0], 7).mean()
    for policy, expected in (("zero", 0.0), ("mean", mean)):
        dataset = _dataset(values, not_finite=policy)
        changed = VALUES.copy()
        changed[1, 2, 0] = expected
        _assert_gaps(dataset, changed, np.ones((8, 5), bool))
        assert dataset.card.splits["train"].not_finite == {"x": {"nan": 1}}
    dropped = _dataset(values, not_finite="drop")
    assert dropped.source("train")[1]["masks"]["x"].sum() == 4
    integers = np.ma.array(np.arange(80).reshape(8, 5, 2), mask=values.mask)
    assert _dataset(integers, not_finite="zero").card.splits["train"].not_finite["x"] == {"nan": 1}


def test_dropped_steps_take_their_mask_along():
    values = _filled()
    values[0, 0, 0] = np.nan
    dataset = _dataset(values, REAL, not_finite="drop")
    mask = dataset.source("train")[0]["masks"]["x"]
    np.testing.assert_array_equal(mask, [*REAL[0, 1:], False])
    assert dataset.card.splits["train"].moments["x"].count == REAL.sum() - 1


def test_a_masked_array_may_mask_nothing():
    _assert_gaps(_dataset(np.ma.array(VALUES)), real=np.ones((8, 5), bool))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (REAL.astype(int), "'train/0': mask of x is int64, expected bool"),
        (REAL[..., None], r"'train/0': mask of x is of shape \[5, 1\], expected \[5\]"),
        (REAL[:, :3], r"'train/0': mask of x is of shape \[3\], expected \[5\]"),
        (REAL[:3], "split 'train': the numbers of examples differ: .*'mask of x': 3"),
        (np.ma.array(REAL, mask=REAL), "'train/0': mask of x is itself masked"),
    ],
)
def test_masks_must_fit(masks, message):
    with pytest.raises(ValueError, match=message):
        _dataset(VALUES, masks)


def test_masks_must_be_of_something():
    inputs = dict.fromkeys(("train", "valid"), dict.fromkeys(["x"], VALUES))
    labels = dict.fromkeys(inputs, LABELS)
    for masks, message in (
        ({"test": {"x": REAL}}, r"masks: unknown split \['test'\], known: \['train', 'valid'\]"),
        ({"train": {"y": REAL}}, r"masks of split 'train': unknown modality \['y'\], known"),
    ):
        with pytest.raises(ValueError, match=message):
            from_arrays(inputs, labels, ("a", "b"), masks=masks)
    dataset = from_arrays(inputs, labels, ("a", "b"), masks={"valid": {"x": REAL}})
    assert dataset.source("train")[0]["masks"]["x"].all()
    np.testing.assert_array_equal(dataset.source("valid")[3]["masks"]["x"], REAL[3])


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("single_label", np.ma.array(LABELS, mask=LABELS == 1)),
        ("regression", np.ma.masked_greater(VALUES[:, 0], 5)),
        ("multi_label", list(np.ma.array(VALUES[:, 0] > 3, mask=VALUES[:, 0] > 5))),
    ],
)
def test_masked_labels_are_refused(task, labels):
    with pytest.raises(ValueError, match=r"'train/\d': its label is masked; leave such exam"):
        _dataset(VALUES, labels=labels, task=task)


def test_labels_of_a_masked_array_may_mask_nothing():
    dataset = _dataset(VALUES, labels=np.ma.array(LABELS, mask=False))
    assert [example["label"] for example in dataset.source("train")] == LABELS.tolist()
    numbers = np.ma.array(VALUES[:, 0])
    dataset = _dataset(VALUES, labels=numbers, task="regression")
    np.testing.assert_array_equal(dataset.source("train")[1]["label"], VALUES[1, 0])


class Table:
    """A table of another library: an index of its own, and its rows by position as an array."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(["names", "of", "columns"])

    def __getitem__(self, index):
        return self.values[-1 - index]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


def test_tables_are_taken_in_their_order():
    dataset = _dataset(Table(VALUES), Table(REAL), Table(LABELS), Table(np.array(["a", "b"])))
    _assert_gaps(dataset)
    assert [example["label"] for example in dataset.source("train")] == LABELS.tolist()
    assert dataset.info.class_names == ("a", "b")


def test_rows_that_are_no_array_are_named():
    with pytest.raises(ValueError, match=r"train/1: x is no array: .*inhomogeneous"):
        _dataset([[[1.0, 2.0]], [[1.0, 2.0], [3.0]]], labels=[0, 1])


# Not through `from_arrays`


def _records():
    pairs = enumerate(zip(_masked(), LABELS, strict=True))
    return [{"id": str(i), "inputs": {"x": values}, "label": label} for i, (values, label) in pairs]


def test_masked_arrays_of_readers_are_stored_with_their_masks(tmp_path):
    raw = RawData("small", (), {"x": (5, 2)}, ("a", "b"), "single_label", {"train": 8},
        lambda _: iter(_records()))  # fmt: skip

    @dataclass(frozen=True, config=STRICT)
    class Small(DatasetEntry):
        """Eight examples, to train and to validate on."""

        def read(self, folder):
            return raw

        def split_names(self, card):
            return {"train": ["train"], "valid": ["train"]}

    config = Small(data_dir=str(tmp_path))
    info = _dataset(VALUES, REAL).info
    records = registry.prepare_dataset(config).records
    _assert_gaps(Dataset(info, lambda split: records([split])))
    _assert_gaps(registry.open_dataset(config))
    moments = Card.count("small", raw, "error").splits["train"].moments["x"]
    np.testing.assert_allclose(moments.mean, VALUES[REAL].mean(0))


def test_masked_arrays_of_given_examples_keep_their_masks():
    info = _dataset(VALUES, REAL).info
    statistics = compute_statistics(_records())
    np.testing.assert_allclose(statistics["x"].mean, info.statistics["x"].mean)
    _assert_gaps(Dataset(info, lambda _: _records()))
    seen = statistics["x"].apply(_masked())
    np.testing.assert_array_equal(seen.mask[..., 0], ~REAL)
