import numpy as np
import pytest

from sft_jax.data.cleaning import clean, finite_means

VALUES = np.array([[1.0, np.nan], [np.inf, 2.0], [3.0, -np.inf], [1e300, 4.0], [5.0, 6.0]])
COUNTS = {"nan": 1, "inf": 2, "-inf": 1}  # 1e300 is infinite as float32.


def test_what_is_not_finite_is_counted_before_it_is_treated():
    for policy in ("zero", "drop", "error"):
        assert clean(VALUES, policy)[1] == COUNTS
    assert clean(VALUES, "mean", np.zeros(2))[1] == COUNTS


def test_each_policy_does_what_it_says():
    zero, _ = clean(VALUES, "zero")
    np.testing.assert_array_equal(zero, [[1, 0], [0, 2], [3, 0], [0, 4], [5, 6]])
    mean, _ = clean(VALUES, "mean", np.array([7.0, 8.0]))
    np.testing.assert_array_equal(mean, [[1, 8], [7, 2], [3, 8], [7, 4], [5, 6]])
    drop, _ = clean(VALUES, "drop")
    np.testing.assert_array_equal(drop, [[5, 6]])
    assert zero.dtype == mean.dtype == drop.dtype == np.float32


def test_drop_leaves_out_a_whole_row_of_an_image():
    image = np.ones((3, 2, 1))
    image[1, 0] = np.nan
    np.testing.assert_array_equal(clean(image, "drop")[0], np.ones((2, 2, 1)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64, bool])
def test_finite_numbers_are_cast_only(dtype):
    values = np.array([[0, 1], [1, 0]], dtype)
    cleaned, counts = clean(values, "error")
    assert counts == {}
    assert cleaned.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(cleaned, values)


def test_means_are_over_what_is_finite_of_each_feature():
    records = [
        {"id": "a", "inputs": {"x": VALUES[:3]}, "label": 0},
        {"id": "b", "inputs": {"x": VALUES[3:], "y": np.full((2, 1), np.nan)}, "label": 0},
    ]
    means = finite_means(records)
    np.testing.assert_allclose(means["x"], [3, 4])
    np.testing.assert_array_equal(means["y"], [0])
