"""Choice of the threshold of a cascade, and its cost."""

import numpy as np
import pytest
import tiny_baselines
import tiny_sft

from sft_jax.modules.budget import with_budget
from sft_jax.profile.cascade import check_cascade, choose_threshold, stage_flops, stopping_stages
from sft_jax.profile.flops import forward_cost, forward_stages


def _accuracy(confidence, right, threshold):
    stops = stopping_stages(confidence, threshold)
    return right[stops, np.arange(len(stops))].mean()


def test_an_example_stops_where_it_is_first_sure():
    confidence = np.array([[0.9, 0.5, 0.5, 0.7], [0.4, 0.8, 0.6, 0.9], [0.4, 0.4, 0.4, 0.4]])
    assert stopping_stages(confidence, 0.7).tolist() == [0, 1, 2, 1]
    assert stopping_stages(confidence, 0.0).tolist() == [0, 0, 0, 0]
    assert stopping_stages(np.ones((3, 2)), 1.0).tolist() == [2, 2]


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_lowest_that_keeps_the_accuracy(seed, tolerance):
    random = np.random.default_rng(seed)
    # Rounded, so that confidences occur several times, 1 too.
    confidence = np.round(random.uniform(0.5, 1.04, (3, 40)), 2).clip(max=1)
    right = random.uniform(size=(3, 40)) < np.array([[0.6], [0.7], [0.8]])
    threshold = choose_threshold(confidence, right, tolerance)
    enough = right[-1].mean() - tolerance - 1e-9
    assert _accuracy(confidence, right, threshold) >= enough
    lower = [t for t in np.unique(confidence) if t < threshold]
    # The greatest confidence below the threshold acts as the threshold does.
    assert all(_accuracy(confidence, right, t) < enough for t in [0, *lower[:-1]] if threshold)


def test_sure_and_right_examples_all_stop_at_once():
    confidence, right = np.full((2, 5), 0.9), np.ones((2, 5), bool)
    assert choose_threshold(confidence, right, 0.0) == 0


def test_a_useless_first_stage_is_never_the_end():
    confidence = np.ones((2, 5))
    right = np.array([[False] * 5, [True] * 5])
    assert choose_threshold(confidence, right, 0.5) == 1
    assert choose_threshold(confidence, right, 1.0) == 0


def test_the_part_before_fusion_is_counted_once():
    model, names = tiny_sft.sft(), ["sight", "sound"]
    first, second = stage_flops(model, [1, 3], names)
    one, three = (forward_stages(with_budget(model, k)) for k in (1, 3))
    assert second - first == sum(three[stage].flops for stage in ("fused", "head"))
    # The largest k is pooled to at once; the smaller is a part of it.
    more_pooling = three["pooling"].flops - one["pooling"].flops
    assert first == forward_cost(with_budget(model, 1)).flops + more_pooling


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny_baselines.make("late"), "LateFusion can't be cut before fusion"),
        (tiny_sft.sft(task="regression"), "the task is 'regression'; the largest probability"),
        (tiny_sft.sft(pool="none"), "pool='none' keeps all tokens"),
    ],
)
def test_models_without_a_cascade_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        check_cascade(model, [0, 2], 0.0)
