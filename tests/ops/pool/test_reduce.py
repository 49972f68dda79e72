"""Pooling within windows against plain loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sft_jax import ReferenceWindows, Tokens
from sft_jax.ops.pool import reduce
from sft_jax.ops.pool.windows import adaptive_windows

K = 3
MASK = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 0, 1, 1, 0, 1, 0],
        [0, 0, 0, 1, 0, 1, 0],  # Fewer than k.
        [0, 0, 0, 0, 0, 0, 0],  # Absent.
    ],
    bool,
)


def _max(tokens, saliency):
    return reduce.window_max(tokens, adaptive_windows(tokens.mask, K))


def _avg(tokens, saliency):
    return reduce.window_mean(tokens, adaptive_windows(tokens.mask, K))


def _attn(tokens, saliency):
    return reduce.window_weighted_mean(tokens, saliency, adaptive_windows(tokens.mask, K))


POOLS = {name: jax.jit(pool) for name, pool in {"max": _max, "avg": _avg, "attn": _attn}.items()}
every_pool = pytest.mark.parametrize("pool", POOLS)


def _case():
    """Tokens with impossible values at every padded position, and saliencies."""
    random = np.random.default_rng(0)
    values = random.normal(size=(*MASK.shape, 3)).astype(np.float32)
    values = np.where(MASK[..., None], values, np.float32([np.nan, np.inf, -1e30]))
    saliency = np.where(MASK, random.random(MASK.shape), 0).astype(np.float32)
    return Tokens(jnp.asarray(values), jnp.asarray(MASK)), jnp.asarray(saliency)


def _by_loops(pool, values, mask, saliency):
    """The pooled tokens and mask of one example."""
    real = np.flatnonzero(mask)
    if len(real) >= K:
        edges = [j * len(real) // K for j in range(K + 1)]
        groups = [real[a:b] for a, b in itertools.pairwise(edges)]
    else:
        groups = [[i] for i in real]
    pooled = np.zeros((K, values.shape[-1]))
    for slot, group in enumerate(groups):
        match pool:
            case "max":
                pooled[slot] = np.max(values[group], axis=0)
            case "attn":
                pooled[slot] = np.average(values[group], axis=0, weights=saliency[group])
            case _:
                pooled[slot] = np.mean(values[group], axis=0)
    return pooled, np.arange(K) < len(groups)


@every_pool
def test_pools_agree_with_loops(pool):
    tokens, saliency = _case()
    pooled = POOLS[pool](tokens, saliency)
    arrays = (np.asarray(a) for a in (tokens.values, tokens.mask, saliency))
    expected = [_by_loops(pool, *example) for example in zip(*arrays, strict=True)]
    np.testing.assert_array_equal(pooled.mask, [mask for _, mask in expected])
    np.testing.assert_allclose(pooled.values, [values for values, _ in expected], rtol=1e-5)


@every_pool
def test_the_order_within_a_window_does_not_matter(pool):
    tokens, saliency = _case()
    # The windows of the first example are 0-1, 2-3 and 4-6.
    order = jnp.asarray([1, 0, 3, 2, 6, 4, 5])
    again = POOLS[pool](tokens.replace(values=tokens.values[:, order]), saliency[:, order])
    expected = POOLS[pool](tokens, saliency)
    np.testing.assert_allclose(again.values[0], expected.values[0], rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 0.0])
def test_the_scale_of_saliency_does_not_change_the_mean(scale):
    tokens, saliency = _case()
    actual = POOLS["attn"](tokens, scale * saliency)
    expected = POOLS["attn" if scale else "avg"](tokens, saliency)
    np.testing.assert_allclose(actual.values, expected.values, rtol=1e-5)


def test_weighted_mean_is_differentiable_in_values_and_saliency():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        mask = jnp.ones((2, 7), bool)
        values = jnp.asarray(random.normal(size=(2, 7, 2)))
        saliency = jnp.asarray(0.1 + random.random((2, 7)))
        pool = jax.jit(lambda v, s: _attn(Tokens(v, mask), s).values)
        check_grads(pool, (values, saliency), order=1, modes=["rev"])


def test_a_constant_stays_what_it_is_at_any_length():
    length, k = 1200, 5
    tokens = Tokens(jnp.ones((1, length, 1)), jnp.ones((1, length), bool))
    saliency = jnp.full((1, length), 1 / length)
    ours = reduce.window_weighted_mean(tokens, saliency, adaptive_windows(tokens.mask, k))
    np.testing.assert_allclose(ours.values, np.ones((1, k, 1)), rtol=1e-6)
    windows = ReferenceWindows.from_k(length, k)
    theirs = reduce.window_weighted_mean(
        tokens, saliency, windows(tokens.mask), epsilon=1e-5 * windows.kernel
    )
    np.testing.assert_allclose(theirs.values, np.full((1, k, 1), 0.9881), atol=5e-5)
