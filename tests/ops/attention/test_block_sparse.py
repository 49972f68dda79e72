"""Block-sparse attention against attention that is computed densely and masked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from sft_jax import BlockSparsePattern
from sft_jax.ops.attention.block_sparse import block_sparse_attention, received, to_dense
from sft_jax.ops.attention.plain import apply_weights, attention_weights, saliency
from sft_jax.profile.flops import count

FULL = BlockSparsePattern()
HEADS, SIZE = 2, 3
CASES = [
    *((FULL, length) for length in (1, 20, 33, 40, 79, 97)),
    (BlockSparsePattern(4, 1), 14),
    (BlockSparsePattern(4, 4), 9),
    (BlockSparsePattern(1, 1), 3),
]


def test_golden_pattern():
    arrays, _ = reference.load("sparse_masks")
    assert len(arrays) == 14
    for name, keep in arrays.items():
        np.testing.assert_array_equal(FULL.allowed(len(keep)), keep, err_msg=name)


def test_up_to_one_stride_and_one_the_pattern_is_dense():
    assert all(FULL.allowed(length).all() for length in (1, 2, 24, 25, 32, 33))
    assert not FULL.allowed(34).all()
    assert BlockSparsePattern(8, 8).allowed(50).all()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"stride": 0}, "BlockSparsePattern.stride must be an integer >= 1, got 0"),
        ({"expressivity": 0}, "BlockSparsePattern.expressivity must be an integer >= 1, got 0"),
        ({"stride": 7}, "BlockSparsePattern.expressivity=8 exceeds stride=7"),
    ],
)
def test_wrong_pattern(attributes, message):
    with pytest.raises(ValueError, match=message):
        BlockSparsePattern(**attributes)


def _dense(query, key, value, mask, pattern):
    """Masked attention by the formula, its weights and their saliency."""
    query, key, value = (jnp.where(mask[..., None, None], a, 0) for a in (query, key, value))
    logits = jnp.einsum("bqhe,bnhe->bhqn", query, key) / np.sqrt(SIZE)
    visible = pattern.allowed(mask.shape[1]) & mask[:, None, None]
    exponential = jnp.where(visible, jnp.exp(logits), 0)
    total = exponential.sum(axis=-1, keepdims=True)
    weights = exponential / jnp.where(total == 0, 1, total)
    return jnp.einsum("bhqn,bnhe->bqhe", weights, value), weights, saliency(weights, mask)


def _sparse(query, key, value, mask, pattern):
    attended, weights = block_sparse_attention(query, key, value, mask, pattern)
    return attended, to_dense(weights), received(weights, mask)


def _inputs(length, dtype=np.float64):
    """Query, key and value, NaN at padding: scattered, first half, none, all."""
    random = np.random.default_rng(length)
    mask = random.random((4, length)) < 0.6
    mask[1] = np.arange(length) >= length // 2
    mask[2], mask[3] = True, False
    arrays = random.normal(size=(3, 4, length, HEADS, SIZE))
    return np.where(mask[..., None, None], arrays, np.nan).astype(dtype), mask


@functools.cache
def _computed(pattern, length):
    """Attended values, weights and saliency by both ways, and gradients of all the inputs."""
    with jax.enable_x64(True):
        arrays, mask = _inputs(length)
        # What comes out for padding is nobody's business.
        shapes = [mask[..., None, None], mask[:, None, :, None], mask[:, 1:]]

        def total(arrays, attention):
            actual = attention(*arrays, jnp.asarray(mask), pattern)
            actual = [jnp.where(real, a, 0) for real, a in zip(shapes, actual, strict=True)]
            return sum(
                jnp.sin(a + jnp.arange(a.size).reshape(a.shape)).sum() for a in actual
            ), actual

        def both(arrays):
            step = jax.value_and_grad(total, has_aux=True)
            for attention in (_sparse, _dense):
                (_, actual), gradients = step(arrays, attention)
                yield *actual, gradients

        return jax.device_get(jax.jit(lambda arrays: list(both(arrays)))(arrays))


@pytest.mark.parametrize(("pattern", "length"), CASES)
def test_equals_masked_dense_attention(pattern, length):
    sparse, dense = _computed(pattern, length)
    for name, actual, expected in zip(
        ("attended", "weights", "saliency", "gradients"), sparse, dense, strict=True
    ):
        assert np.isfinite(actual).all(), name
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12, err_msg=name)
    attended, weights, received, _ = sparse
    _, mask = _inputs(length)
    assert (weights.sum(axis=-1)[2] > 1 - 1e-12).all()
    assert not weights[np.broadcast_to(~mask[:, None, None], weights.shape)].any()
    assert not attended[3].any()
    assert not received[~mask[:, 1:]].any()


@pytest.mark.parametrize("length", [20, 40])
def test_gradients_are_those_of_real_tokens_alone(length):
    *_, gradients = _computed(FULL, length)[0]
    _, mask = _inputs(length)
    assert not gradients[:, ~mask].any()
    assert gradients[:, mask].any(axis=(1, 2, 3)).all()


def test_a_query_that_sees_no_real_key_gets_0():
    pattern = BlockSparsePattern(4, 1)
    mask = np.zeros((1, 13), bool)
    mask[0, [1, 10]] = True  # Neither is a summary key, nor in the window of 5 to 8.
    arrays = np.ones((3, 1, 13, HEADS, SIZE), np.float32)

    def total(arrays):
        attended, weights = block_sparse_attention(*arrays, jnp.asarray(mask), pattern)
        return (attended**2).sum(), (attended, to_dense(weights))

    gradients, (attended, weights) = jax.jit(jax.grad(total, has_aux=True))(arrays)
    assert (attended[0, [0, 1, 4, 9, 12]] > 0.99).all()
    assert not attended[0, 5:9].any()
    assert not weights[0, :, 5:9].any()
    assert np.isfinite(gradients).all()


def test_low_precision_has_float32_weights():
    arrays, mask = _inputs(40, jnp.bfloat16)
    attend = functools.partial(block_sparse_attention, mask=jnp.asarray(mask), pattern=FULL)
    attended, weights = jax.eval_shape(attend, *map(jnp.asarray, arrays))
    assert attended.dtype == jnp.bfloat16
    assert weights.local.dtype == weights.summary.dtype == jnp.float32


def test_what_goes_unseen_is_not_computed():
    batch, length = 2, 1201
    mask = jax.ShapeDtypeStruct((batch, length), bool)
    heads = jax.ShapeDtypeStruct((batch, length, 5, 8), np.float32)

    def sparse(query, key, value, mask):
        attended, weights = block_sparse_attention(query, key, value, mask, FULL)
        return attended.sum() + received(weights, mask).sum()

    def dense(query, key, value, mask):
        weights = attention_weights(query, key, mask)
        return apply_weights(weights, value).sum() + saliency(weights, mask).sum()

    ours, theirs = (
        count(jax.grad(f, argnums=(0, 1, 2)), heads, heads, heads, mask) for f in (sparse, dense)
    )
    assert theirs.largest_bytes == 4 * batch * 5 * length**2
    assert ours.matmul_flops <= 0.35 * theirs.matmul_flops
    assert ours.largest_bytes <= 0.35 * theirs.largest_bytes
