"""Sums, counts and products beyond float16 whose result float16 holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import BlockSparsePattern, ReferenceWindows, Tokens, WindowPattern
from sft_jax.ops.attention.block_sparse import block_sparse_attention
from sft_jax.ops.attention.plain import apply_weights, attention_weights
from sft_jax.ops.attention.tiled import tiled_attention
from sft_jax.ops.attention.windowed import windowed_attention
from sft_jax.ops.losses import example_losses
from sft_jax.ops.modalities import mean_over_present
from sft_jax.ops.pool import reduce
from sft_jax.ops.pool.windows import adaptive_windows

MEANS = {
    "window": lambda tokens: reduce.window_mean(tokens, adaptive_windows(tokens.mask, 1)).values,
    "reference_window": lambda tokens: (
        reduce.window_mean(
            tokens,
            ReferenceWindows(tokens.mask.shape[1], 1)(tokens.mask),
            tokens.mask.shape[1],
        ).values
    ),
    "weighted": lambda tokens: (
        reduce.window_weighted_mean(
            tokens, jnp.ones(tokens.mask.shape, jnp.float16), adaptive_windows(tokens.mask, 1)
        ).values
    ),
    "tokens": reduce.masked_mean,
}
KERNELS = {
    "plain": lambda q, k, v, mask: apply_weights(attention_weights(q, k, mask), v),
    "blocked": tiled_attention,
    "windowed": lambda *arrays: windowed_attention(*arrays, WindowPattern(8, 4, 2))[0],
    "block_sparse": lambda *arrays: block_sparse_attention(*arrays, BlockSparsePattern(8, 2))[0],
}


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize(("length", "value"), [(5, 30_000.0), (70_000, 3.0)])
def test_means(mean, length, value):
    tokens = Tokens(jnp.full((1, length, 2), value, jnp.float16), jnp.ones((1, length), bool))
    result = MEANS[mean](tokens)
    assert result.dtype == jnp.float16
    np.testing.assert_array_equal(result, np.full(result.shape, value, np.float16))


def test_mean_over_modalities():
    present = jnp.ones(2, bool)
    value = jnp.full((2, 3), 40_000, jnp.float16)
    result = mean_over_present([value] * 3, [present] * 3)
    assert result.dtype == jnp.float16
    np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("largest_logit", "largest_value"), [(300, 1), (0.1, 10_000)])
def test_attention(kernel, largest_logit, largest_value):
    random = np.random.default_rng(0)
    shape = (1, 48, 1, 4)
    query, key = random.uniform(0.5, 1, (2, *shape)) * largest_logit
    # The logits differ by whole numbers, which float16 holds.
    query, key = np.round(query), np.round(key)
    value = random.uniform(1, 2, shape) * largest_value
    half = [jnp.asarray(array, jnp.float16) for array in (query, key, value)]
    single = [array.astype(jnp.float32) for array in half]
    mask = jnp.ones(shape[:2], bool)
    run = jax.jit(KERNELS[kernel])
    np.testing.assert_allclose(run(*half, mask), run(*single, mask), rtol=0.01)


def test_losses():
    outputs = jnp.full((1, 2), 600, jnp.float16)
    labels = jnp.zeros((1, 2), jnp.float16)
    np.testing.assert_array_equal(example_losses("regression", outputs, labels), [360_000])
