"""Modality dropout: how often modalities are dropped, and what always stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.ops.modalities import drop_modalities

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
def test_modalities_are_dropped_whole_at_the_rate_but_never_all(rate):
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
    found = drop_modalities(key, image_masks, 0.5)["sight"]
    assert found.shape == (BATCH, 3, 2)
    np.testing.assert_array_equal(found[..., 1], expected)
    assert not found[..., 0].any()
