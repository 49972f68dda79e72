"""Numbers are drawn from ranges, by the seed alone."""

import re

import numpy as np
import pytest

from sft_jax.sweep.grid import read_fields, read_grid
from sft_jax.sweep.ranges import sample

FIELDS = read_fields("optim.lr=loguniform(1e-4, 1e-2);model.k=integers(1,3);model.name=sft,mbt")


def test_draws_stay_within_their_ranges():
    drawn = sample(FIELDS, 200, seed=0)
    rates = np.log10([float(one["optim.lr"]) for one in drawn])
    assert rates.min() >= -4
    assert rates.max() <= -2
    assert np.abs(np.mean(rates) + 3) < 0.15  # Uniform in the logarithm.
    for field, values in (("model.k", {"1", "2", "3"}), ("model.name", {"sft", "mbt"})):
        assert {one[field] for one in drawn} == values
    narrow = sample({"model.dropout": ["uniform(0.12345678,0.12345679)"]}, 1, seed=0)
    assert 0.12345678 <= float(narrow[0]["model.dropout"]) <= 0.12345679


def test_a_larger_number_adds_draws_to_the_same():
    few, many = (sample(FIELDS, number, seed=3) for number in (3, 8))
    assert many[:3] == few
    assert sample(FIELDS, 3, seed=4) != few
    fewer = {field: FIELDS[field] for field in ("optim.lr", "model.name")}
    rates = [[one["optim.lr"] for one in sample(fields, 3, seed=3)] for fields in (fewer, FIELDS)]
    assert rates[0] == rates[1]


def test_equal_draws_count_once():
    fields = {"model.k": ["integers(1,4)"]}
    drawn = sample(fields, 4, seed=0)
    assert sorted(one["model.k"] for one in drawn) == ["1", "2", "3", "4"]
    with pytest.raises(ValueError, match="--random=5: 500 draws gave only 4 different"):
        sample(fields, 5, seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lr=uniform(1)", "--grid: optim.lr=uniform(1): expected uniform(LOW,HIGH)"),
        ("optim.lr=uniform(2,1)", "--grid: optim.lr=uniform(2,1): expected"),
        ("optim.lr=loguniform(0,1)", "--grid: optim.lr=loguniform(0,1): expected"),
        ("model.k=integers(1,2.5)", "--grid: model.k=integers(1,2.5): expected"),
        ("optim.lr=1,uniform(1,2)", "--grid: optim.lr has the range uniform(1,2) and other"),
    ],
)
def test_wrong_ranges_are_refused(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        sample(read_fields(text), 1, seed=0)


def test_a_range_needs_a_number_of_draws():
    with pytest.raises(ValueError, match=r"optim\.lr has a range of numbers: give the"):
        read_grid("optim.lr=uniform(1,2)")
    with pytest.raises(ValueError, match="--random=0 must be at least 1"):
        sample(FIELDS, 0, seed=0)
