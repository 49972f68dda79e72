import ml_dtypes
import numpy as np
import pytest

from sft_jax.data.cleaning import clean, finite_means

VALUES = np.array([[1.0, np.nan], [np.inf, 2.0], [3.0, -np.inf], [1e300, 4.0], [5.0, 6.0]])
BFLOAT16 = ml_dtypes.bfloat16
COUNTS = {"nan": 1, "inf": 2, "-inf": 1}  # 1e300 is infinite as float32.


def test_what_is_not_finite_is_counted_before_it_is_treated():
    for policy in ("zero", "drop", "error"):
        assert clean(VALUES, policy).counts == COUNTS
    assert clean(VALUES, "mean", np.zeros(2)).counts == COUNTS


def test_each_policy_does_what_it_says():
    zero = clean(VALUES, "zero").values
    np.testing.assert_array_equal(zero, [[1, 0], [0, 2], [3, 0], [0, 4], [5, 6]])
    mean = clean(VALUES, "mean", np.array([7.0, 8.0])).values
    np.testing.assert_array_equal(mean, [[1, 8], [7, 2], [3, 8], [7, 4], [5, 6]])
    drop = clean(VALUES, "drop")
    np.testing.assert_array_equal(drop.values, [[5, 6]])
    np.testing.assert_array_equal(drop.mask, [True])


def test_drop_leaves_out_a_whole_row_of_an_image():
    image = np.ones((3, 2, 1))
    image[1, 0] = np.nan
    np.testing.assert_array_equal(clean(image, "drop").values, np.ones((2, 2, 1)))


@pytest.mark.parametrize("dtype", ["u1", "i8", "f2", "f4", ">f4", "f8", ">f8", bool, BFLOAT16])
def test_finite_numbers_are_cast_only(dtype):
    values = np.array([[0, 1], [1, 0]], dtype)
    cleaned, mask, counts = clean(values, "error")
    assert counts == {}
    assert mask.all()
    assert cleaned.dtype == (np.uint8 if dtype == "u1" else np.float32)
    np.testing.assert_array_equal(cleaned, values.astype(float))


@pytest.mark.parametrize("values", [[2**24, 2**24 + 1], [1.0, 0.1], [1e-60, 1.0], [np.nan, 0.1]])
@pytest.mark.parametrize("dtype", ["f8", ">f8", "i8", "u4", "longdouble"])
def test_what_float32_does_not_hold_is_kept_in_float64(dtype, values):
    original = np.nan_to_num(np.array([values])).astype(dtype) + np.array(2**30 + 1, dtype)
    cleaned = clean(original, "error").values
    assert cleaned.dtype == np.float64
    np.testing.assert_array_equal(cleaned, original.astype(float))


def test_means_are_over_what_is_finite_of_each_feature():
    records = [
        {"id": "a", "inputs": {"x": VALUES[:3]}, "label": 0},
        {"id": "b", "inputs": {"x": VALUES[3:], "y": np.full((2, 1), np.nan)}, "label": 0},
    ]
    means = finite_means(records)
    np.testing.assert_allclose(means["x"], [3, 4])
    np.testing.assert_array_equal(means["y"], [0])


def test_means_lose_no_digit_and_leave_gaps_out():
    values = np.array([[np.nan], [0.1], [0.1], [-9999.0], [0.1]])
    record = {"id": "a", "inputs": {"x": values}, "masks": {"x": values[:, 0] != -9999}, "label": 0}
    assert finite_means([record] * 1000)["x"] == 0.1  # A plain sum gives 0.10000000000000189.
    values += 2.0**40
    assert finite_means([record] * 1000)["x"] == 2.0**40 + 0.1
