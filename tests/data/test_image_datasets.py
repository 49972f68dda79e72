"""Datasets of images: statistics, padding and errors of arrays with several axes."""

import json

import numpy as np
import pytest

from sft_jax.data import pipeline
from sft_jax.data.dataset import Dataset, DatasetInfo, Standardisation, compute_statistics
from sft_jax.structs import ModalitySpec

SPEC = ModalitySpec((3, 4), 2, patch_size=2)


def _examples():
    random = np.random.default_rng(0)
    examples = []
    for number in range(3):
        mask = random.random((3, 4)) < 0.5
        mask[2, 1] = True
        values = np.where(mask[..., None], random.normal(3, 2, (3, 4, 2)), np.nan)
        image = {"inputs": {"a": values.astype(np.float32)}, "masks": {"a": mask}}
        examples.append({"id": f"no{number}", "label": 0, **image})
    return examples


def _dataset(examples, statistics):
    info = DatasetInfo({"a": SPEC}, ("no", "yes"), statistics, {"train": len(examples)})
    return Dataset(info, {"train": examples}.__getitem__)


NO_CHANGE = {"a": Standardisation(mean=(0.0, 0.0), std=(1.0, 1.0))}


def test_statistics_are_of_each_channel_over_the_real_pixels():
    examples = _examples()
    real = np.array(
        [
            e["inputs"]["a"][row, column]
            for e in examples
            for row in range(3)
            for column in range(4)
            if e["masks"]["a"][row, column]
        ],
        np.float64,
    )
    statistics = compute_statistics(examples)["a"]
    np.testing.assert_allclose(statistics.mean, real.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, real.std(axis=0), rtol=1e-6)


def test_images_are_standardised_and_batched_and_padding_is_zero():
    examples = _examples()
    dataset = _dataset(examples, compute_statistics(examples))
    assert DatasetInfo.from_json(json.loads(json.dumps(dataset.info.to_json()))) == dataset.info
    ((batch, _),) = pipeline.eval_batches(dataset.source("train"), 3)
    assert (batch.inputs["a"].shape, batch.masks["a"].shape) == ((3, 3, 4, 2), (3, 3, 4))
    pixels = batch.inputs["a"][batch.masks["a"]]
    np.testing.assert_allclose(pixels.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(pixels.std(axis=0), 1, rtol=1e-5)
    assert (batch.inputs["a"][~batch.masks["a"]] == 0).all()


def _broken(change):
    examples = _examples()
    change(examples[1])
    return examples


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["inputs"]["a"].__setitem__((2, 1, 0), np.inf), "not finite at step 2, 1: "),
        (
            lambda e: e["masks"].update(a=np.ones(3, bool)),
            r"mask of a is of shape \[3\], expected \[3, 4\]",
        ),
        (lambda e: e["masks"].update(a=np.ones((3, 4), int)), "mask of a is int"),
    ],
)
def test_faults_of_an_image_are_named(change, message):
    for load in (
        compute_statistics,
        lambda examples: _dataset(examples, NO_CHANGE).source("train"),
    ):
        with pytest.raises(ValueError, match=f"example 'no1': .*{message}"):
            load(_broken(change))


def test_an_image_may_be_smaller_along_any_axis():
    small = _broken(lambda e: e["inputs"].update(a=e["inputs"]["a"][:2, :3]))
    small[1]["masks"]["a"] = small[1]["masks"]["a"][:2, :3]
    prepared = _dataset(small, NO_CHANGE).source("train")[1]
    expected = np.zeros((3, 4), bool)
    expected[:2, :3] = small[1]["masks"]["a"]
    np.testing.assert_array_equal(prepared["masks"]["a"], expected)
    values = small[1]["inputs"]["a"][small[1]["masks"]["a"]]
    np.testing.assert_array_equal(prepared["inputs"]["a"][expected], values)
    large = _broken(lambda e: e["inputs"].update(a=np.ones((3, 5, 2), np.float32)))
    with pytest.raises(ValueError, match=r"\[3, 5, 2\], expected \[up to 3, up to 4, 2\]"):
        _dataset(large, NO_CHANGE).source("train")
