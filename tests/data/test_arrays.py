import json

import numpy as np
import pytest

from sft_jax.data import pipeline
from sft_jax.data.arrays import from_arrays
from sft_jax.data.dataset import DatasetInfo

RNG = np.random.default_rng(0)
LENGTHS = (3, 1, 4)
WAYS = [RNG.normal(3, 2, (length, 2)) for length in LENGTHS]
PICTURES = RNG.integers(0, 256, (3, 5, 4, 1), np.uint8)


def _dataset(inputs=None, labels=(0, 1, 0), **options):
    """Training and validation are of the same examples."""
    inputs = {"way": WAYS, "picture": PICTURES} if inputs is None else inputs
    splits = ("train", "valid")
    names = options.pop("class_names", ("no", "yes"))
    return from_arrays(
        dict.fromkeys(splits, inputs), dict.fromkeys(splits, labels), names, **options
    )


def test_lists_of_any_lengths_are_padded_and_standardised():
    dataset = _dataset(patch_size={"picture": (2, 4)})
    assert dataset.info.num_examples == {"train": 3, "valid": 3}
    assert dataset.info.modalities["way"].shape == (4, 2)
    assert dataset.info.modalities["picture"].shape == (5, 4, 1)
    assert dataset.info.modalities["picture"].num_tokens == 3
    steps = np.concatenate(WAYS)
    np.testing.assert_allclose(dataset.info.statistics["way"].mean, steps.mean(0), rtol=1e-6)
    for i, example in enumerate(dataset.source("valid")):
        assert (example["id"], example["label"]) == (f"valid/{i}", i % 2)
        np.testing.assert_array_equal(example["masks"]["way"], np.arange(4) < LENGTHS[i])
        expected = (WAYS[i] - steps.mean(0)) / steps.std(0)
        np.testing.assert_allclose(example["inputs"]["way"][: LENGTHS[i]], expected, atol=1e-5)
        assert not example["inputs"]["way"][LENGTHS[i] :].any()
        assert example["masks"]["picture"].all()
        pixels = (PICTURES[i] - PICTURES.mean()) / PICTURES.std()
        np.testing.assert_allclose(example["inputs"]["picture"], pixels, atol=1e-5)


def test_examples_may_lack_modalities_and_images_may_differ_in_size():
    pictures = [np.ones((5, 4, 1)), None, np.zeros((2, 6, 1))]
    dataset = _dataset({"way": [None, *WAYS[1:]], "picture": pictures})
    assert dataset.info.modalities["picture"].shape == (5, 6, 1)
    first, second, third = dataset.source("train")
    assert not first["masks"]["way"].any()
    assert not second["masks"]["picture"].any()
    mask = third["masks"]["picture"]
    assert mask[:2].all()
    assert not mask[2:].any()
    lengths = dataset.card.splits["train"].lengths
    assert lengths == {"way": {0: 1, 1: 1, 4: 1}, "picture": {5: 1, 0: 1, 2: 1}}


def test_a_modality_may_be_missing_from_a_split():
    labels = {"train": [0, 1], "valid": [1], "test": [0]}
    inputs = {
        "train": {"way": WAYS[:2], "picture": PICTURES[:2]},
        "valid": {"way": WAYS[2:]},
        "test": {"picture": PICTURES[2:]},
    }
    dataset = from_arrays(inputs, labels, ("no", "yes"))
    assert not dataset.source("valid")[0]["masks"]["picture"].any()
    assert not dataset.source("test")[0]["masks"]["way"].any()
    with pytest.raises(ValueError, match="no example has any step of picture"):
        from_arrays(inputs | {"train": {"way": WAYS[:2]}}, labels, ("no", "yes"))


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("single_label", np.array([0, 1, 1])),
        ("ordinal", [1, 0, 1]),
        ("multi_label", np.array([[0, 1], [1, 1], [0, 0]])),
        ("multi_label", np.array([[False, True]] * 3)),
        ("regression", np.array([[0.5, -1.0], [2.0, 1e-3], [0.0, 3.0]])),
        ("regression", [[1, 2.5], [3, 4], [5, 6]]),
    ],
)
def test_labels_of_each_task_get_into_batches(task, labels):
    dataset = _dataset(labels=labels, task=task)
    assert dataset.info.task == task
    values = json.loads(json.dumps(dataset.info.to_json()))
    assert DatasetInfo.from_json(values) == dataset.info
    assert dataset.card.class_names == ("no", "yes")
    json.dumps(dataset.card.to_json())
    ((batch, ids),) = pipeline.eval_batches(dataset.source("train"), 3)
    np.testing.assert_array_equal(batch.labels, np.asarray(labels, np.float32))
    assert ids.tolist() == ["train/0", "train/1", "train/2"]


@pytest.mark.parametrize(
    ("policy", "expected"), [("zero", [[0, 1]]), ("mean", [[4, 1]]), ("drop", [])]
)
def test_numbers_that_are_not_finite_follow_the_policy(policy, expected):
    values = [np.array([[3.0, 1.0], [5.0, 1.0]]), np.array([[np.nan, 1.0]])]
    dataset = _dataset({"x": values}, labels=[0, 1], not_finite=policy)
    example = dataset.source("valid")[1]
    standardised = dataset.info.statistics["x"].apply(np.reshape(expected, (-1, 2)))
    np.testing.assert_array_equal(example["inputs"]["x"][example["masks"]["x"]], standardised)
    assert dataset.card.splits["train"].not_finite == {"x": {"nan": 1}}


def _changed(split, **values):
    """Arguments in which something of a split is another."""
    original = {
        "inputs": {"train": {"way": WAYS}, "valid": {"way": WAYS}},
        "labels": {"train": [0, 1, 0], "valid": [0, 1, 0]},
    }
    for field, value in values.items():
        original[field][split] = value
    return original


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            {"inputs": {"train": {"way": WAYS}}, "labels": {"train": [0, 1, 0]}},
            {},
            r"inputs have no split \['valid'\], only \['train'\]",
        ),
        (_changed("test", inputs={"way": WAYS}), {}, r"of splits \['test', 'train', 'valid'\], la"),
        (_changed("train", labels=[0, 1]), {}, "split 'train': .* differ: {'way': 3, 'labels': 2}"),
        (
            _changed("valid", inputs={"way": [], "x": []}, labels=[]),
            {},
            r"no example has any of \['x",
        ),
        (_changed("valid", inputs={"way": []}, labels=[]), {}, "split 'valid' has no examples"),
        (_changed("valid", inputs={"way": WAYS, "x": [None] * 3}), {}, r"has any of \['x'\]"),
        (
            _changed("train", inputs={"way": [np.ones(3)] * 3}),
            {},
            r"train/0: way is of shape \[3\]",
        ),
        (
            _changed("valid", inputs={"way": [*WAYS[:2], np.ones((2, 3))]}),
            {},
            r"valid/2: way is of shape \[2, 3\], expected 2 axes, at least 2, the last of \(2,\)",
        ),
        (
            _changed("train", inputs={"way": [np.ones((2, 2, 2))] * 3}),
            {},
            "valid/0: way is of shape",
        ),
        (
            _changed("valid", inputs={"way": [[["a", "b"]]] * 3}),
            {},
            "valid/0: way is strings .* series",
        ),
        (
            _changed("valid", inputs={"way": [*WAYS[:2], WAYS[2] * np.inf]}),
            {},
            "'valid/2': way holds .* set not_finite",
        ),
        (_changed("valid", labels=[0, 1, 2]), {}, "'valid/2': label 2 is not one of the 2 classes"),
        (_changed("train", labels=[0.0, 1.0, 0.0]), {}, "'train/0': label 0.0 is not one of the 2"),
        (_changed("train", labels=[0, -1, 0]), {}, "'train/1': label -1 is not one of the 2"),
        (_changed("train"), {"task": "multi_label"}, "'train/0': label 0 is not an array of 2"),
        (_changed("train"), {"not_finite": "zeros"}, "not_finite='zeros' is not one of error, ze"),
        (_changed("train"), {"task": "multi"}, "task='multi' is not one of single_label, mul"),
        (
            _changed("train"),
            {"patch_size": {"wya": 2}},
            r"patch_size: unknown modality \['wya'\], k",
        ),
        (_changed("train"), {"patch_size": {"way": 5}}, "patch_size=5 exceeds length=4"),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(**arguments, class_names=("no", "yes"), **options)


def test_there_must_be_a_modality():
    with pytest.raises(ValueError, match="inputs have no modality"):
        _dataset({})
