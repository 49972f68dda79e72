"""Windowed attention against attention over all keys and summaries with masks, and its cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.ops.attention import saliency
from sft_jax.ops.windowed import WindowPattern, windowed_attention, windowed_saliency
from sft_jax.ops.windows import adaptive_windows

HEADS, SIZE = 2, 3
CASES = [
    (WindowPattern(4, 2, 3), 17),  # Whole windows.
    (WindowPattern(4, 2, 3), 22),
    (WindowPattern(4, 5, 3), 15),  # A reach beyond the next window.
    (WindowPattern(3, 0, 30), 14),  # More summaries than tokens.
    (WindowPattern(8, 3, 2), 6),  # Less than a window.
    (WindowPattern(4, 2, 3), 1),  # CLS alone.
]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"window": 0}, "WindowPattern.window must be an integer >= 1, got 0"),
        ({"reach": -1}, "WindowPattern.reach must be an integer >= 0, got -1"),
        ({"summaries": 0}, "WindowPattern.summaries must be an integer >= 1, got 0"),
    ],
)
def test_wrong_pattern(attributes, message):
    with pytest.raises(ValueError, match=message):
        WindowPattern(**attributes)


def test_is_dense_where_a_query_sees_as_many_keys_as_there_are():
    assert WindowPattern(32, 16, 16).is_dense(80)
    assert not WindowPattern(32, 16, 16).is_dense(81)


def _dense(query, key, value, mask, pattern):
    """Attention over all tokens and summaries at once, by n x (n + s) masks, and its saliency."""
    length, summaries = mask.shape[1], pattern.summaries
    query, key, value = (jnp.where(mask[..., None, None], a, 0) for a in (query, key, value))
    windows = adaptive_windows(mask[:, 1:], summaries)
    member = (
        jax.nn.one_hot(windows.index, length - 1, dtype=query.dtype) * windows.member[..., None]
    )
    member = jnp.pad(member.sum(axis=2), ((0, 0), (0, 0), (1, 0)))  # [b, s, n]
    size = member.sum(axis=-1)
    share = member / jnp.maximum(size, 1)[..., None]
    keys, values = (
        jnp.concatenate([a, jnp.einsum("bsn,bnhe->bshe", share, a)], axis=1) for a in (key, value)
    )
    sizes = jnp.concatenate([jnp.ones_like(mask, query.dtype), size], axis=1)

    position = np.arange(length)
    start = (position - 1) // pattern.window * pattern.window + 1 - pattern.reach
    near = (start[:, None] <= position) & (position < start[:, None] + pattern.num_local)
    near |= (position == 0) | (position[:, None] == 0)
    far = np.broadcast_to(position[:, None] > 0, (length, summaries))
    visible = (
        np.concatenate([near, far], axis=1) & jnp.concatenate([mask, size > 0], axis=1)[:, None]
    )
    visible &= mask[..., None]

    logits = jnp.einsum("bqhe,bkhe->bhqk", query, keys) / np.sqrt(SIZE)
    logits += jnp.log(jnp.maximum(sizes, 1))[:, None, None]
    exponential = jnp.where(visible[:, None], jnp.exp(logits), 0)
    total = exponential.sum(axis=-1)
    total = jnp.where(total == 0, 1, total)
    weights = exponential / total[..., None]
    attended = jnp.einsum("bhqk,bkhe->bqhe", weights, values)
    spread = weights[..., :length] + jnp.einsum("bhqs,bsn->bhqn", weights[..., length:], share)
    return attended, jnp.log(total), saliency(spread, mask)


def _windowed(query, key, value, mask, pattern):
    attended, log_sum_exp = windowed_attention(query, key, value, mask, pattern)
    return attended, log_sum_exp, windowed_saliency(query, key, mask, log_sum_exp, pattern)


def _inputs(length):
    """Query, key and value, NaN at padding: scattered, late, none, all."""
    random = np.random.default_rng(length)
    mask = random.random((4, length)) < 0.6
    mask[1] = np.arange(length) < length // 2
    mask[2], mask[3] = True, False
    mask[1, 0] = True
    arrays = random.normal(size=(3, 4, length, HEADS, SIZE))
    return np.where(mask[..., None, None], arrays, np.nan), mask


@functools.cache
def _computed(pattern, length):
    """Attended values, log-sum-exp and saliency by both ways, and gradients of all the inputs."""
    with jax.enable_x64(True):
        arrays, mask = _inputs(length)

        def total(arrays, attention):
            found = attention(*arrays, jnp.asarray(mask), pattern)
            return sum(jnp.sin(a + jnp.arange(a.size).reshape(a.shape)).sum() for a in found), found

        def both(arrays):
            step = jax.value_and_grad(total, has_aux=True)
            for attention in (_windowed, _dense):
                (_, found), gradients = step(arrays, attention)
                yield *found, gradients

        return jax.device_get(jax.jit(lambda arrays: list(both(arrays)))(arrays))


@pytest.mark.parametrize(("pattern", "length"), CASES)
def test_equals_dense_attention_over_tokens_and_summaries(pattern, length):
    windowed, dense = _computed(pattern, length)
    _, mask = _inputs(length)
    for name, found, expected in zip(
        ("attended", "log_sum_exp", "saliency", "gradients"), windowed, dense, strict=True
    ):
        assert np.isfinite(found).all(), name
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10, err_msg=name)
    attended, log_sum_exp, received, gradients = windowed
    assert not attended[~mask].any()
    assert not log_sum_exp.swapaxes(1, 2)[~mask].any()
    assert not received[~mask[:, 1:]].any()
    assert not gradients[:, ~mask].any()
