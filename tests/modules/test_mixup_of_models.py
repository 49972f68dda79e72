"""Mixup in every model: no share, the whole share, and one program for every layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_baselines
import tiny_sft

from sft_jax.ops.mixup import Mixup

PARTNER = jnp.asarray([2, 0, 1])


@functools.cache
def _compiled(name):
    model = tiny_sft.sft() if name == "sft" else tiny_baselines.make(name)
    variables = (tiny_sft if name == "sft" else tiny_baselines).variables(model)
    depth = model.n_pre + model.n_post
    return jax.jit(functools.partial(model.apply, variables)), depth, model.mixed_modalities


def _logits(name, masks, share, layer):
    apply, _, modalities = _compiled(name)
    shares = {m: jnp.asarray(share, jnp.float32) for m in modalities}
    mixup = Mixup(PARTNER, shares, jnp.asarray(layer))
    return np.asarray(apply(tiny_sft.inputs(), masks, mixup=mixup))


every_model = pytest.mark.parametrize("name", ["sft", *tiny_baselines.RIGHT])


@every_model
def test_a_whole_share_changes_nothing_and_none_gives_the_partner(name):
    apply, depth, _ = _compiled(name)
    masks = tiny_sft.masks()
    plain = _logits(name, masks, np.zeros(3), -1)
    for layer in range(depth):
        kept, swapped = (_logits(name, masks, np.full(3, share), layer) for share in (1, 0))
        np.testing.assert_allclose(kept, plain, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(swapped, plain[PARTNER], rtol=1e-5, atol=1e-6)
        mixed = _logits(name, masks, np.full(3, 0.6), layer)
        assert np.isfinite(mixed).all()
        # The second alone has sight and sound in common with its partner throughout.
        assert (abs(mixed - plain) > 1e-4).any(axis=1)[1]
    assert apply._cache_size() == 1


@every_model
def test_a_layer_that_is_not_there_mixes_nothing(name):
    _, depth, _ = _compiled(name)
    masks = tiny_sft.masks()
    plain = _logits(name, masks, np.full(3, 0.6), -1)
    np.testing.assert_array_equal(_logits(name, masks, np.full(3, 0.6), depth), plain)


def test_the_faithful_bottleneck_is_not_mixed():
    # The last of three layers fuses; examples swapped before it keep what it has fused.
    masks = {n: np.ones_like(mask) for n, mask in tiny_sft.masks().items()}
    for name, same in (("bottleneck", True), ("bottleneck_faithful", False)):
        model = tiny_baselines.make(name, n_post=3)
        variables = tiny_baselines.variables(model)
        apply = jax.jit(functools.partial(model.apply, variables))
        shares = {m: jnp.zeros(3) for m in masks}
        plain = apply(tiny_sft.inputs(), masks, mixup=Mixup(PARTNER, shares, jnp.asarray(-1)))
        swapped = apply(tiny_sft.inputs(), masks, mixup=Mixup(PARTNER, shares, jnp.asarray(2)))
        assert np.allclose(swapped, plain[PARTNER], rtol=1e-5, atol=1e-6) == same
