"""Adaptive windows by their properties; the authors' windows by their numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import ReferenceWindows
from sft_jax.ops.pool.windows import adaptive_windows

SIZES = [(1, 1), (7, 4), (12, 5), (38, 3), (49, 1), (49, 16), (49, 49), (3, 5)]


def _masks(length):
    """Full and empty sequences, padding at the end and at the start, and holes everywhere."""
    positions, random = np.arange(length), np.random.default_rng(length)
    return np.stack(
        [
            np.ones(length, bool),
            np.zeros(length, bool),
            positions == length // 2,
            *(positions < real for real in {1, length // 3, length - 1}),
            positions >= length // 2,
            positions % 2 == 0,
            *(random.random((4, length)) < [[0.1], [0.3], [0.6], [0.9]]),
        ]
    )


def _members(windows, example):
    """The positions in each window of an example."""
    index, member = np.asarray(windows.index)[example], np.asarray(windows.member)[example]
    return [i[m].tolist() for i, m in zip(index, member, strict=True)]


@pytest.mark.parametrize(("length", "k"), SIZES)
def test_adaptive_windows_divide_the_real_tokens(length, k):
    masks = _masks(length)
    windows = jax.jit(adaptive_windows, static_argnums=1)(jnp.asarray(masks), k)
    assert windows.index.shape == windows.member.shape == (len(masks), k, -(-length // k))
    assert ((windows.index >= 0) & (windows.index < length)).all()
    for example, mask in enumerate(masks):
        real = np.flatnonzero(mask).tolist()
        actual = _members(windows, example)
        # Each once, in their order: windows are contiguous in rank.
        assert list(itertools.chain(*actual)) == real
        sizes = [len(window) for window in actual]
        if len(real) >= k:
            assert min(sizes) >= 1
            assert max(sizes) - min(sizes) <= 1
        else:
            assert sizes == [1] * len(real) + [0] * (k - len(real))


def test_adaptive_windows_by_hand():
    mask = jnp.asarray([[True] * 7, [True, False, True, True, False, True, True]])
    windows = adaptive_windows(mask, 3)
    assert _members(windows, 0) == [[0, 1], [2, 3], [4, 5, 6]]
    assert _members(windows, 1) == [[0], [2, 3], [5, 6]]


@pytest.mark.parametrize(
    ("length", "k", "tokens"),
    [(38, 3, 2), (50, 3, 2), (500, 3, 2), (12, 5, 4), (38, 5, 5), (1200, 5, 5), (50, 5, 5)],
)
def test_reference_windows_give_the_authors_number_of_tokens(length, k, tokens):
    windows = ReferenceWindows.from_k(length, k)
    assert windows.num_windows(length) == tokens
    index = jax.eval_shape(lambda mask: windows(mask).index, np.ones((1, length), bool))
    assert index.shape == (1, tokens, windows.kernel)


def test_reference_windows_leave_out_padding_and_the_rest():
    mask = jnp.asarray([[True] * 7, [True, False, True, True, True, True, True]])
    windows = ReferenceWindows(kernel=3, stride=3, padding=1)(mask)
    assert _members(windows, 0) == [[0, 1], [2, 3, 4], [5, 6]]
    assert _members(windows, 1) == [[0], [2, 3, 4], [5, 6]]
    windows = ReferenceWindows(kernel=3, stride=3)(mask)
    assert _members(windows, 0) == [[0, 1, 2], [3, 4, 5]]
