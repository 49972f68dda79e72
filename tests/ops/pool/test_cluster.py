"""Weighted k-medoids against plain loops, and cases in which the authors' code fails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import Tokens
from sft_jax.ops.pool.cluster import pairwise_l1, weighted_k_medoids
from sft_jax.ops.pool.select import select_top_k

FIT = jax.jit(weighted_k_medoids, static_argnames=("k", "iterations"))


def _by_loops(values, mask, saliency, k, iterations):
    """The positions of the centres of one example."""
    real = np.flatnonzero(mask)
    if len(real) <= k:
        return real.tolist()
    values = np.where(mask[:, None], values, 0)
    distance = abs(values[:, None] - values[None]).sum(axis=-1)
    centres = sorted(real, key=lambda i: -saliency[i])[:k]
    for _ in range(iterations):
        nearest = {j: int(np.argmin([distance[j, c] for c in centres])) for j in real}
        for slot in range(k):
            members = [j for j in real if nearest[j] == slot]
            if members:
                costs = [sum(distance[i, j] * saliency[j] for j in members) for i in members]
                centres[slot] = members[int(np.argmin(costs))]
    return [int(c) for c in centres]


def _case():
    random = np.random.default_rng(0)
    mask = random.random((6, 20)) < 0.7
    mask[0] = True
    mask[4, 2:] = False
    mask[5] = False
    values = random.normal(size=(6, 20, 3))
    values = np.where(mask[..., None], values, [np.nan, np.inf, -1e30])
    return values, mask, random.random((6, 20))


def test_distances():
    values = np.random.default_rng(0).normal(size=(2, 5, 11)).astype(np.float32)
    expected = abs(values[:, :, None] - values[:, None]).sum(axis=-1)
    np.testing.assert_allclose(pairwise_l1(jnp.asarray(values)), expected, rtol=1e-6)


def test_distances_of_bfloat16_are_added_in_float32():
    values = jnp.ones((1, 2, 1000), jnp.bfloat16).at[0, 1].set(0)
    assert pairwise_l1(values).tolist() == [[[0, 1000], [1000, 0]]]


@pytest.mark.parametrize("iterations", [0, 1, 5])
@pytest.mark.parametrize("k", [1, 4])
def test_medoids_agree_with_loops(k, iterations):
    values, mask, saliency = _case()
    with jax.enable_x64(True):
        tokens = Tokens(jnp.asarray(values), jnp.asarray(mask))
        fitted = FIT(tokens, jnp.asarray(saliency), k=k, iterations=iterations)
    actual, index = jax.device_get(fitted)
    for example, positions in enumerate(index):
        one = values[example], mask[example], saliency[example]
        expected = _by_loops(*one, k, iterations)
        filled = actual.mask[example]
        assert filled.tolist() == [slot < len(expected) for slot in range(k)]
        assert positions[filled].tolist() == expected
        np.testing.assert_array_equal(actual.values[example][filled], values[example][expected])
        assert (actual.values[example][~filled] == 0).all()


def test_the_iterations_matter():
    values, mask, saliency = _case()
    tokens = Tokens(jnp.asarray(values, jnp.float32), jnp.asarray(mask))
    saliency = jnp.asarray(saliency, jnp.float32)
    _, first = FIT(tokens, saliency, k=4, iterations=0)
    _, last = FIT(tokens, saliency, k=4, iterations=5)
    _, top = select_top_k(tokens, saliency, 4)
    np.testing.assert_array_equal(first[:4], top[:4])
    assert (first[:4] != last[:4]).any(axis=1).sum() >= 2


def test_an_empty_cluster_keeps_its_centre():
    # Equal tokens all join the first of the centres that are equal to them. The authors'
    # code then takes the minimum of nothing.
    values = jnp.asarray([[[5.0], [0.0], [0.0], [0.0], [6.0], [9.0]]])
    tokens = Tokens(values, jnp.ones((1, 6), bool))
    saliency = jnp.asarray([[0.1, 0.2, 0.9, 0.8, 0.3, 0.1]])
    actual, index = FIT(tokens, saliency, k=3, iterations=5)
    assert actual.mask.all()
    assert index[0, 1] == 3
    assert actual.values[0, :, 0].tolist() == [0, 0, 6]
    every, index = FIT(tokens.replace(values=jnp.zeros((1, 6, 1))), saliency, k=3, iterations=5)
    assert index[0, 1:].tolist() == [3, 4]
    assert every.mask.all()


def test_the_saliency_of_padding_makes_no_difference():
    values, mask, saliency = _case()
    tokens = Tokens(jnp.asarray(values, jnp.float32), jnp.asarray(mask))
    fit = functools.partial(FIT, tokens, k=3, iterations=2)
    for garbage in (0.0, np.nan, np.inf):
        spoiled = np.where(mask, saliency, garbage).astype(np.float32)
        actual, _ = fit(jnp.asarray(spoiled))
        assert np.isfinite(actual.values).all()
        if garbage == 0:
            expected = actual
        np.testing.assert_array_equal(actual.values, expected.values)
