"""Modality dropout: rates, and modalities that always stay; means and joins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import Tokens
from sft_jax.ops.modalities import (
    drop_modalities,
    first_tokens,
    join,
    mean_over_present,
    sum_over_present,
)

BATCH = 4000


def _masks():
    """A third of the examples has both modalities, a third one, a third none."""
    kind = np.arange(BATCH) % 3
    steps = np.array([True, False, True])
    return {
        "sight": jnp.asarray((kind < 2)[:, None] & steps),
        "sound": jnp.asarray((kind < 1)[:, None] & steps[:2]),
    }


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_modalities_are_dropped_whole_but_never_all(rate):
    masks = _masks()
    dropped = drop_modalities(jax.random.key(0, impl="rbg"), masks, rate)
    kept = {}
    for name, mask in dropped.items():
        whole = np.asarray(mask == masks[name]).all(axis=1)
        assert (whole | ~np.asarray(mask).any(axis=1)).all()
        kept[name] = np.asarray(mask).any(axis=1)
    both, one = np.arange(BATCH) % 3 == 0, np.arange(BATCH) % 3 == 1
    assert (kept["sight"] | kept["sound"])[both].all()
    assert kept["sight"][one].all()
    # Dropped with the rate, except in half of the cases in which both would be.
    expected = rate - rate**2 / 2
    for name in masks:
        assert 1 - kept[name][both].mean() == pytest.approx(expected, abs=0.04)


def test_draws_differ_by_key_and_by_example():
    masks = _masks()
    first, other = (
        np.asarray(drop_modalities(jax.random.key(seed, impl="rbg"), masks, 0.5)["sight"][::3, 0])
        for seed in (0, 1)
    )
    assert 0.3 < (first != other).mean() < 0.7


def test_images_are_dropped_whole_too():
    masks = _masks()
    image_masks = masks | {"sight": masks["sight"][..., None] & np.array([[[False, True]]])}
    key = jax.random.key(0, impl="rbg")
    expected = drop_modalities(key, masks, 0.5)["sight"]
    actual = drop_modalities(key, image_masks, 0.5)["sight"]
    assert actual.shape == (BATCH, 3, 2)
    np.testing.assert_array_equal(actual[..., 1], expected)
    assert not actual[..., 0].any()


def test_means_and_sums_are_over_the_modalities_of_each_example():
    values = [jnp.array([[1.0], [2.0], [jnp.nan]]), jnp.array([[3.0], [jnp.inf], [4.0]])]
    present = [jnp.array([True, True, False]), jnp.array([True, False, False])]
    assert mean_over_present(values, present).tolist() == [[2], [2], [0]]
    assert sum_over_present(values, present).tolist() == [[4], [2], [0]]


def test_the_first_tokens_keep_their_sizes():
    tokens = Tokens(jnp.zeros((1, 3, 2)), jnp.ones((1, 3), bool), jnp.asarray([[1.0, 2, 3]]))
    assert first_tokens(tokens, 2).sizes.tolist() == [[1, 2]]
    assert first_tokens(tokens.replace(sizes=None), 2).sizes is None


def test_sequences_without_sizes_have_size_1_beside_others():
    mask = jnp.array([[True, False]])
    plain, sized = (
        Tokens(jnp.ones((1, 2, 3)), mask),
        Tokens(jnp.zeros((1, 2, 3)), ~mask, 4.0 * mask),
    )
    assert join(plain, plain).sizes is None
    joined = join(plain, sized)
    assert joined.sizes.tolist() == [[1, 1, 4, 0]]
    assert joined.mask.tolist() == [[True, False, False, True]]
    assert joined.values[0, :, 0].tolist() == [1, 1, 0, 0]
