"""Windowed attention against attention over all keys and summaries with masks, and its cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax.ops.attention.plain import saliency
from sft_jax.ops.attention.windowed import WindowPattern, windowed_attention
from sft_jax.ops.pool.windows import adaptive_windows
from sft_jax.profile.flops import count

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


def test_a_window_over_all_keys_is_dense():
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
        np.concatenate([near, far], axis=1)[None]
        & jnp.concatenate([mask, size > 0], axis=1)[:, None]
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
    return attended, saliency(spread, mask)


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
    """Attended values and saliency by both ways, and gradients of all the inputs."""
    with jax.enable_x64(True):
        arrays, mask = _inputs(length)

        def total(arrays, attention):
            attended, received = attention(*arrays, jnp.asarray(mask), pattern)
            # What padding attends to has no meaning.
            actual = jnp.where(mask[..., None, None], attended, 0), received
            return sum(
                jnp.sin(a + jnp.arange(a.size).reshape(a.shape)).sum() for a in actual
            ), actual

        def both(arrays):
            step = jax.value_and_grad(total, has_aux=True)
            for attention in (windowed_attention, _dense):
                (_, actual), gradients = step(arrays, attention)
                yield *actual, gradients

        return jax.device_get(jax.jit(lambda arrays: list(both(arrays)))(arrays))


@pytest.mark.parametrize(("pattern", "length"), CASES)
def test_equals_dense_attention_over_tokens_and_summaries(pattern, length):
    windowed, dense = _computed(pattern, length)
    _, mask = _inputs(length)
    for name, actual, expected in zip(
        ("attended", "saliency", "gradients"), windowed, dense, strict=True
    ):
        assert np.isfinite(actual).all(), name
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10, err_msg=name)
    _, received, gradients = windowed
    assert not received[~mask[:, 1:]].any()
    assert not gradients[:, ~mask].any()


def test_logits_of_any_size_give_weights():
    pattern, length = CASES[1]
    arrays, mask = _inputs(length)
    real = jnp.ones_like(mask)
    query, key, value = np.nan_to_num(arrays)
    attend = jax.jit(functools.partial(windowed_attention, pattern=pattern))
    single = (a.astype(np.float32) for a in (1e5 * query, key, value))
    assert all(np.isfinite(actual).all() for actual in attend(*single, real))
    with jax.enable_x64(True):
        # Up to some hundred, which the exponential of a float64 is finite for.
        arguments = (100 * query, key, value, real)
        expected = jax.jit(functools.partial(_dense, pattern=pattern))(*arguments)
        jax.tree.map(np.testing.assert_allclose, attend(*arguments), expected)


def test_padding_has_no_effect_beside_very_negative_logits():
    arrays, _ = _inputs(30)
    mask = np.ones((4, 30), bool)
    mask[:, 20:] = False
    positive = np.abs(np.nan_to_num(arrays)).astype(np.float32) + 1
    attend = jax.jit(
        jax.value_and_grad(
            lambda arrays: (
                windowed_attention(*arrays, jnp.asarray(mask), WindowPattern(4, 2, 3))[0][:, :20]
            ).sum()
        )
    )
    total, gradients = attend((-300 * positive[0], positive[1], jnp.ones_like(positive[2])))
    np.testing.assert_allclose(total, 4 * 20 * HEADS * SIZE, rtol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_low_precision_has_a_float32_saliency():
    heads = jax.ShapeDtypeStruct((2, 22, HEADS, SIZE), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((2, 22), bool)

    def all_of(query, key, value, mask):
        actual = windowed_attention(query, key, value, mask, CASES[1][0])
        return sum(a.astype(np.float32).sum() for a in actual), actual

    step = jax.grad(all_of, argnums=(0, 1, 2), has_aux=True)
    gradients, (attended, received) = jax.eval_shape(step, heads, heads, heads, mask)
    assert all(gradient.dtype == jnp.bfloat16 for gradient in gradients)
    assert attended.dtype == jnp.bfloat16
    assert received.dtype == jnp.float32


def _training_cost(length, wrap=lambda f: f):
    heads = jax.ShapeDtypeStruct((2, length, 5, 8), np.float32)
    mask = jax.ShapeDtypeStruct((2, length), bool)

    @wrap
    def loss(query, key, value, mask):
        attended, received = windowed_attention(query, key, value, mask, WindowPattern())
        return (attended**2).sum() + (received**2).sum()

    return count(jax.value_and_grad(loss, argnums=(0, 1, 2)), heads, heads, heads, mask)


def test_cost_grows_linearly_with_the_length():
    short, long = _training_cost(512), _training_cost(2048)
    assert long.matmul_flops < 4.4 * short.matmul_flops
    assert long.elementwise_flops < 4.4 * short.elementwise_flops
    assert long.largest_bytes < 4.4 * short.largest_bytes
    assert long.largest_bytes < 2048**2


def test_rematerialisation_can_keep_what_attention_returns():
    policy = jax.checkpoint_policies.save_only_these_names("attention")
    plain, kept, again = (
        _training_cost(512, wrap).matmul_flops
        for wrap in (
            lambda f: f,
            functools.partial(jax.checkpoint, policy=policy),
            jax.checkpoint,
        )
    )
    assert plain <= kept < again
