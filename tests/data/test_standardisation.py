"""Statistics that modalities are standardised by."""

import numpy as np
import pytest
from small_examples import make_dataset, make_example

from sft_jax.data.dataset import (
    Standardisation,
    compute_statistics,
)


def test_statistics_leave_padding_out():
    examples = [
        make_example(0, real=4),
        make_example(1, real=2),
        make_example(2, real=0),
    ]
    for example in examples:
        example["inputs"]["a"][~example["masks"]["a"]] = np.nan
    real = np.concatenate([e["inputs"]["a"][e["masks"]["a"]] for e in examples]).astype(np.float64)
    assert len(real) == 6
    statistics = compute_statistics(examples)["a"]
    np.testing.assert_allclose(statistics.mean, real.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.std, real.std(0), rtol=1e-14)


def test_statistics_are_accumulated_in_float64():
    examples = [make_example(n) for n in range(2000)]
    for example in examples:
        example["inputs"]["a"] = example["inputs"]["a"] * 0.01 + np.float32(1000)
    real = np.concatenate([e["inputs"]["a"][e["masks"]["a"]] for e in examples])
    expected = real.astype(np.longdouble).std(0)
    np.testing.assert_allclose(compute_statistics(examples)["a"].std, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_constant_feature_becomes_zero(value):
    examples = [make_example(n) for n in range(100)]
    for example in examples:
        example["inputs"]["a"][:, 1] = value
    statistics = compute_statistics(examples)
    assert statistics["a"].std[1] == 1.0
    for example in make_dataset(examples, statistics).source("train"):
        np.testing.assert_array_equal(example["inputs"]["a"][:, 1], 0.0)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,), (1.0, 1.0)), ((0.0,), (0.0,)), ((float("nan"),), (1.0,))]
)
def test_statistics_must_be_usable(mean, std):
    with pytest.raises(ValueError, match="deviations"):
        Standardisation(mean=mean, std=std)


def test_a_modality_without_a_step_cannot_be_standardised():
    with pytest.raises(ValueError, match="no example has any step of a"):
        compute_statistics([make_example(0, real=0)])
