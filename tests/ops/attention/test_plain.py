"""Attention weights and saliency against JAX's own attention and hand-written loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.ops.attention import cudnn
from sft_jax.ops.attention.cudnn import cudnn_attention
from sft_jax.ops.attention.plain import (
    apply_weights,
    attention_weights,
    cls_attention,
    saliency,
)

MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
MASKED_THROUGHOUT = 2


def _query_key_value(dtype=np.float32):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=(3, 5, 2, 4)), dtype) for _ in range(3)]


def _attend(query, key, value, mask):
    return apply_weights(attention_weights(query, key, mask), value)


def test_attention_agrees_with_jax():
    query, key, value = _query_key_value()
    real = MASK[:MASKED_THROUGHOUT]
    query, key, value = (a[:MASKED_THROUGHOUT] for a in (query, key, value))
    for mask in (np.ones_like(real), real):
        expected = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None])
        actual = _attend(query, key, value, jnp.asarray(mask))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_queries_need_not_be_as_many_as_keys():
    query, key, _ = _query_key_value()
    actual = attention_weights(query[:, :2], key, jnp.asarray(MASK))
    expected = attention_weights(query, key, jnp.asarray(MASK))[:, :, :2]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_key_of_size_two_counts_as_two_equal_keys():
    query, key, value = _query_key_value()
    sizes = jnp.asarray(np.where(MASK, [2, 1, 1, 1, 1], np.nan), np.float32)
    actual = apply_weights(attention_weights(query, key, jnp.asarray(MASK), sizes), value)
    twice = [jnp.concatenate([a, a[:, :1]], axis=1) for a in (key, value, jnp.asarray(MASK))]
    np.testing.assert_allclose(actual, _attend(query, *twice), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e4, 1e18])
def test_masked_keys_get_no_weight(size):
    query, key, _ = _query_key_value()
    key = jnp.where(MASK[..., None, None], key, size)
    weights = np.asarray(attention_weights(query, key, jnp.asarray(MASK)))
    masked = np.broadcast_to(~MASK[:, None, None], weights.shape)
    assert (weights[masked] == 0).all()
    np.testing.assert_allclose(weights[:MASKED_THROUGHOUT].sum(-1), 1, rtol=1e-6)


def test_no_real_key_gives_0_and_finite_gradients():
    arrays = _query_key_value()

    def total(query, key, value):
        attended = _attend(query, key, value, jnp.asarray(MASK))
        return (attended**2 + attended).sum(), attended

    gradients, attended = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*arrays)
    assert (attended[MASKED_THROUGHOUT] == 0).all()
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert (gradient[MASKED_THROUGHOUT] == 0).all()
        assert (gradient[:MASKED_THROUGHOUT] != 0).any()
    assert (np.asarray(gradients[1])[~MASK] == 0).all()
    assert (np.asarray(gradients[2])[~MASK] == 0).all()


@pytest.mark.parametrize(
    ("dtype", "weights_dtype"),
    [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_weights_are_float32_at_least(dtype, weights_dtype):
    with jax.enable_x64(dtype == "float64"):
        query, key, value = _query_key_value(dtype)
        weights = attention_weights(query, key, jnp.asarray(MASK))
        assert weights.dtype == weights_dtype
        assert apply_weights(weights, value).dtype == dtype


def test_saliency_is_the_mean_attention_of_real_tokens():
    random = np.random.default_rng(1)
    weights = random.random((3, 2, 6, 6)).astype(np.float32)
    mask = np.pad(MASK, ((0, 0), (1, 0)), constant_values=True)
    expected = np.zeros((3, 5))
    for example in range(3):
        queries = [i for i in range(1, 6) if mask[example, i]]
        for j in queries:
            received = [weights[example, head, i, j] for head in range(2) for i in queries]
            expected[example, j - 1] = sum(received) / len(received)
    actual = np.asarray(saliency(jnp.asarray(weights), jnp.asarray(mask)))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert (actual[~MASK] == 0).all()


def test_saliency_has_finite_gradients_without_a_real_token():
    weights = jnp.full((1, 2, 4, 4), 0.25)
    mask = jnp.asarray([[True, False, False, False]])
    gradient = jax.grad(lambda w: saliency(w, mask).sum())(weights)
    assert (gradient == 0).all()


def test_cudnn_elsewhere_is_an_error_that_says_so():
    arrays = _query_key_value()
    with pytest.raises(ValueError, match=r"cudnn' takes bfloat16 or float16 .*, got float32 and"):
        cudnn_attention(*arrays, jnp.asarray(MASK))
    arrays = [array.astype(jnp.bfloat16) for array in arrays]
    for attend in (cudnn_attention, jax.jit(cudnn_attention)):
        with pytest.raises(NotImplementedError, match="attention_kernel='cudnn' needs an NVIDIA"):
            attend(*arrays, jnp.asarray(MASK))


def test_the_feature_of_cudnn_for_sizes_has_their_gradient(monkeypatch):
    def attend(query, key, value, scale):
        weights = jax.nn.softmax(scale * jnp.einsum("bqhe,bnhe->bhqn", query, key))
        return apply_weights(weights, value)

    monkeypatch.setattr(cudnn, "_attend", attend)
    sizes = jnp.asarray(np.random.default_rng(1).uniform(0.2, 3, MASK.shape), np.float32)

    def total(sizes, attention):
        attended = attention(*_query_key_value(), jnp.asarray(MASK), sizes)
        return (attended * jnp.cos(jnp.arange(attended.size)).reshape(attended.shape)).sum()

    def plain(query, key, value, mask, sizes):
        return apply_weights(attention_weights(query, key, mask, sizes), value)

    actual, expected = (jax.grad(total)(sizes, f) for f in (cudnn._padded, plain))
    assert abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_attention_of_cls_is_its_row_in_float64():
    with jax.enable_x64(True):
        query, key, _ = _query_key_value(np.float64)
        actual = np.asarray(cls_attention(query[:, :1], key, jnp.asarray(MASK)))
    query, key = np.asarray(query), np.asarray(key)
    expected = np.zeros((3, 4))
    for b in range(MASKED_THROUGHOUT):
        for h in range(2):
            exponentials = np.exp(key[b, :, h] @ query[b, 0, h] / 2) * MASK[b]
            expected[b] += (exponentials / exponentials.sum())[1:] / 2
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert actual.dtype == np.float64
