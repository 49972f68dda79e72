"""Events planted in two sequences: where they lie, and how well anyone can tell if they agree."""

import dataclasses

import numpy as np
import pytest
from opened import SPLITS, assert_examples, assert_outlined

from sft_jax.data import registry
from sft_jax.data.sets.matching.best import best_accuracies
from sft_jax.data.sets.matching.entry import MatchingData
from sft_jax.data.sets.matching.generator import BLOCK, DISTRACTOR_FEATURES, Planting, make_block

PLANTING = Planting(events=3, bits=2, length=7, flip=0.1, lean=0.2, loudness=2.5, seed=1)


def test_stored_examples_are_those_made_from_the_seed(tmp_path):
    config = MatchingData(
        data_dir=str(tmp_path),
        events=2,
        length=4,
        train_examples=BLOCK + 2,
        valid_examples=3,
        test_examples=2,
    )
    dataset = registry.open_dataset(config)
    assert_outlined(config, dataset.info)
    raw = config.read(tmp_path)
    for split in SPLITS:
        assert_examples(dataset, split, list(raw.read(split)))
    first, second = (dataset.source(split)[0]["inputs"]["left"] for split in ("valid", "test"))
    assert not np.array_equal(first, second)
    assert dataclasses.replace(config, data_seed=1).stored_form(tmp_path) != config.stored_form(
        tmp_path
    )


def test_events_alone_lie_where_they_are_planted():
    block = make_block(PLANTING, "train", 0)
    for name, tokens in block.tokens.items():
        own = tokens[..., :-DISTRACTOR_FEATURES].reshape(BLOCK, 7, 3, 3)
        expected = np.zeros_like(own)
        for event in range(3):
            value = block.values[name][:, event]
            code = np.stack([np.ones(BLOCK), 2 * (value & 1) - 1, 2 * (value >> 1) - 1], axis=1)
            expected[np.arange(BLOCK), block.positions[name][:, event], event] = code
        np.testing.assert_array_equal(own, expected)
        planted = expected.any(axis=(2, 3))
        assert (planted.sum(axis=1) == 3).all()
        norms = np.linalg.norm(tokens, axis=-1)
        np.testing.assert_allclose(norms[planted], 3**0.5, rtol=1e-6)
        np.testing.assert_allclose(norms[~planted], 2.5 * 3**0.5, rtol=1e-5)
        # Every place is equally likely.
        assert abs(planted.mean(axis=0) - 3 / 7).max() < 5 * (3 / 7 * 4 / 7 / BLOCK) ** 0.5


def test_positions_are_known_without_the_examples():
    config = MatchingData(events=3, length=5, test_examples=BLOCK + 4)
    planted = config.planted("test")
    for i, record in enumerate(config.read(None).read("test")):
        for name, values in record["inputs"].items():
            marks = values[planted[name][i], [0, 2, 4]]
            np.testing.assert_array_equal(marks, 1)
    assert planted["left"].shape == (BLOCK + 4, 3)


@pytest.mark.parametrize("changes", [{}, {"bits": 1, "lean": 0.0}, {"flip": 0.5, "lean": 0.4}])
def test_the_best_accuracy_is_that_of_simulated_examples(changes):
    planting = dataclasses.replace(PLANTING, length=3, **changes)
    block = make_block(planting, "train", 0, size=20_000)
    count = 2**planting.bits
    table = np.zeros((2, count, count))
    np.add.at(table, (block.agree.astype(int), *block.values.values()), 1 / block.agree.size)
    best = best_accuracies(planting.bits, planting.flip, planting.lean)
    one = max(table.sum(axis=axis).max(axis=0).sum() for axis in (1, 2))
    tolerance = 5 * 0.5 / block.agree.size**0.5
    assert best["both"] == pytest.approx(table.max(axis=0).sum(), abs=tolerance)
    assert best["one"] == pytest.approx(one, abs=tolerance)
    assert best["none"] == pytest.approx(0.5)


def test_the_best_accuracy_of_one_bit_is_known():
    best = best_accuracies(bits=1, flip=0.1, lean=0.0)
    assert best == pytest.approx({"both": 0.9**2 + 0.1**2, "one": 0.5, "none": 0.5})
    assert best_accuracies(bits=3, flip=0.0, lean=0.2)["both"] == pytest.approx(1)
    assert best_accuracies(bits=3, flip=0.0, lean=0.2)["one"] == pytest.approx(0.7)


def test_more_events_than_tokens_are_refused():
    with pytest.raises(ValueError, match="events=9 do not fit length=8: it must be at least"):
        MatchingData(events=9, length=8)
