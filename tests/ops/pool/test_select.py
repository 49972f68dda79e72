"""Selection of tokens, and frequencies of the random selections."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import ReferenceWindows, Tokens
from sft_jax.ops.pool import select
from sft_jax.ops.pool.windows import adaptive_windows

DRAWS = 20_000

top_k_and_rest = jax.jit(select.top_k_and_rest, static_argnames="k")


def _positions(batch, length, mask=True):
    """Tokens that hold their own position."""
    values = jnp.broadcast_to(jnp.arange(length, dtype=jnp.float32)[:, None], (batch, length, 1))
    return Tokens(values, jnp.broadcast_to(jnp.asarray(mask), (batch, length)))


def _noise(length, draws=DRAWS):
    return jax.random.gumbel(jax.random.key(0), (draws, length))


def _assert_frequencies(drawn, expected):
    """Each row of 0s and 1s is a draw; allows four standard deviations."""
    spread = np.sqrt(expected * (1 - expected) / len(drawn))
    np.testing.assert_array_less(abs(drawn.mean(axis=0) - expected), 4 * spread + 1e-9)


def test_top_k_descends_and_ties_go_to_the_earlier():
    score = jnp.asarray([[0.1, 0.3, 0.2, 0.3, 0.1, 0.3]])
    selected, index = select.select_top_k(_positions(1, 6), score, 5)
    assert index.tolist() == [[1, 3, 5, 2, 0]]
    assert selected.values[..., 0].tolist() == index.tolist()


def test_top_k_never_takes_padding():
    tokens = _positions(1, 5, [False, True, True, False, True])
    score = jnp.asarray([[9.0, 0.0, 0.0, jnp.nan, 0.5]])
    selected, index = select.select_top_k(tokens, score, 3)
    assert index.tolist() == [[4, 1, 2]]
    assert selected.mask.all()


@pytest.mark.parametrize(
    ("saliency", "expected"),
    [
        ([0.1, 0.3, 0.0, 0.3, 0.1, 0.2], [1, 3, (0 * 1 + 4 * 1 + 5 * 2) / 4]),
        ([0.0, 0.2, 0.0, 0.1, 0.0, 0.0], [1, 3, (0 + 4 + 5) / 3]),  # All of the rest have 0.
        ([2e-37, 0.2, 0.0, 0.1, 1e-37, 0.0], [1, 3, 4 / 3]),
    ],
)
def test_the_rest_is_a_mean_weighted_by_saliency(saliency, expected):
    tokens = _positions(1, 6, [True, True, False, True, True, True])
    saliency = jnp.asarray([saliency]).at[0, 2].set(jnp.nan)
    actual = top_k_and_rest(tokens, saliency, k=3)
    assert actual.mask.all()
    np.testing.assert_allclose(actual.values[0, :, 0], expected, rtol=1e-6)


def test_with_one_slot_the_rest_is_everything():
    saliency = jnp.asarray([[0.1, 0.2, 0.1, 9.0]])
    actual = top_k_and_rest(_positions(1, 4, [True, True, True, False]), saliency, k=1)
    np.testing.assert_allclose(actual.values[0], [[1.0]], rtol=1e-6)


@pytest.mark.parametrize("k", [3, 4, 8])
def test_up_to_k_tokens_are_kept_unfused(k):
    tokens = _positions(1, 6, [False, True, True, False, True, False])
    saliency = jnp.asarray([[9.0, 0.1, 0.3, 9.0, 0.2, 9.0]])
    actual = top_k_and_rest(tokens, saliency, k=k)
    assert actual.values[0, :, 0].tolist() == [2, 4, 1] + [0] * (k - 3)
    assert actual.mask[0].tolist() == [True] * 3 + [False] * (k - 3)


def test_saliency_learns_from_the_fused_token_alone():
    def total(saliency):
        return top_k_and_rest(_positions(1, 4), saliency, k=3).values.sum()

    gradient = jax.grad(total)(jnp.asarray([[0.2, 0.4, 0.3, 0.2]]))
    # Of the mean (0 * s0 + 3 * s3) / (s0 + s3).
    np.testing.assert_allclose(gradient, [[-3.75, 0, 0, 3.75]], rtol=1e-5)


def test_channel_top_k_sorts_each_feature():
    random = np.random.default_rng(0)
    values = random.normal(size=(2, 6, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0]], bool)
    actual = select.channel_top_k(Tokens(jnp.asarray(values), jnp.asarray(mask)), 4)
    assert actual.mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    for example in range(2):
        expected = np.sort(values[example, mask[example]], axis=0)[::-1][:4]
        np.testing.assert_array_equal(actual.values[example, : len(expected)], expected)


def test_channel_top_k_passes_gradients_to_kept_values():
    values = jnp.asarray([[[1.0, 6.0], [3.0, 5.0], [2.0, 4.0]]])

    def total(values):
        return select.channel_top_k(Tokens(values, jnp.ones((1, 3), bool)), 2).values.sum()

    assert jax.grad(total)(values).tolist() == [[[0, 1], [1, 1], [1, 0]]]


def test_draws_follow_the_weights_without_replacement():
    weights = np.array([0.05, 0.3, 0.0, 0.15, 0.1])
    draw = jax.jit(functools.partial(select.draw_tokens, k=2))
    every = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (DRAWS, 5))
    _, index = draw(_positions(DRAWS, 5), every, _noise(5))
    drawn = np.eye(5)[np.asarray(index)]
    share = weights / weights.sum()
    _assert_frequencies(drawn[:, 0], share)
    # The second is drawn from what the first leaves.
    second = [
        sum(share[i] * share[j] / (1 - share[i]) for i in range(5) if i != j) for j in range(5)
    ]
    _assert_frequencies(drawn[:, 1], np.array(second))
    assert drawn.sum(axis=1).max() == 1


def test_weight_zero_is_drawn_last_but_before_padding():
    mask = [True, False, True, True]
    weights = jnp.broadcast_to(jnp.asarray([0.0, 0.9, 0.5, 1e-20]), (1000, 4))
    tokens = _positions(1000, 4, mask)
    actual, index = jax.jit(functools.partial(select.draw_tokens, k=3))(
        tokens, weights, _noise(4, 1000)
    )
    assert actual.mask.all()
    assert set(map(tuple, index.tolist())) == {(2, 3, 0)}


@pytest.mark.parametrize("mask", [[True] * 7, [True, False, True, True, True, False, True]])
def test_window_draws_are_uniform_over_the_members(mask):
    tokens = _positions(DRAWS, 7, mask)
    windows = adaptive_windows(tokens.mask, 3)
    actual, index = jax.jit(select.draw_from_windows)(tokens, windows, _noise(7))
    assert actual.mask.all()
    np.testing.assert_array_equal(actual.values[..., 0], index)
    drawn = np.eye(7)[np.asarray(index)]
    for slot in range(3):
        members = windows.index[0, slot][windows.member[0, slot]]
        expected = np.zeros(7)
        expected[members] = 1 / len(members)
        _assert_frequencies(drawn[:, slot], expected)


def test_fixed_windows_are_contiguous_and_give_no_padding():
    # The authors' code draws the first slot here from 0, 4 and 8, and can select padding.
    tokens = _positions(1000, 10)
    windows = ReferenceWindows(kernel=3, stride=3, padding=1)(tokens.mask)
    actual, index = jax.jit(select.draw_from_windows)(tokens, windows, _noise(10, 1000))
    assert actual.mask.all()
    drawn = [set(slot) for slot in np.asarray(index).T.tolist()]
    assert drawn == [{0, 1}, {2, 3, 4}, {5, 6, 7}, {8, 9}]
