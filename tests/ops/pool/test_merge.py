"""Token merging against a loop over single tokens, and its conserved sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparing import slow_but

from sft_jax import Tokens
from sft_jax.ops.pool.merge import merge_tokens

LENGTH = 11
COUNTS = (11, 8, 3, 1, 0)


@functools.cache
def compiled(k):
    """The merged tokens, and the gradient in values of the sum of sizes * values."""

    def total(values, mask, sizes):
        merged = merge_tokens(Tokens(values, mask, sizes), k)
        return (merged.sizes[..., None] * merged.values).sum(), merged

    return jax.jit(jax.grad(total, has_aux=True))


def _case(sized=False):
    random = np.random.default_rng(3)
    mask = np.arange(LENGTH) < np.array(COUNTS)[:, None]
    mask = random.permuted(mask, axis=1)
    values = random.normal(size=(*mask.shape, 4)).astype(np.float32)
    values = np.where(mask[..., None], values, np.float32([np.nan, np.inf, -1e30, 0]))
    sizes = random.integers(1, 4, mask.shape) if sized else np.ones(mask.shape)
    return values, mask, np.where(mask, sizes, np.nan).astype(np.float32)


def _merge(values, mask, sizes=None, *, k):
    _, merged = compiled(k)(*(None if a is None else jnp.asarray(a) for a in (values, mask, sizes)))
    return merged


def _expected(values, sizes, k):
    """Merges the tokens of one example without padding, token by token."""
    kept = [(np.float64(value), float(size)) for value, size in zip(values, sizes, strict=True)]
    while len(kept) > k:
        sources, targets = kept[0::2], kept[1::2]
        edges = []
        for i, (source, _) in enumerate(sources):
            cosines = [
                source @ target / np.linalg.norm(source) / np.linalg.norm(target)
                for target, _ in targets
            ]
            edges.append((max(cosines), i, int(np.argmax(cosines))))
        surplus = len(kept) - max(k, (len(kept) + 1) // 2)
        members = [[target] for target in targets]
        merged = set()
        for _, i, j in sorted(edges, reverse=True)[:surplus]:
            members[j].append(sources[i])
            merged.add(i)
        kept = []
        for rank in range(len(sources) + len(targets)):
            if rank % 2 == 0 and rank // 2 not in merged:
                kept.append(sources[rank // 2])
            if rank % 2:
                size = sum(size for _, size in members[rank // 2])
                total = sum(value * size for value, size in members[rank // 2])
                kept.append((total / size, size))
    return kept


@pytest.mark.parametrize("k", slow_but([1, 3, 6], 3))
def test_agrees_with_a_loop_over_single_tokens(k):
    values, mask, sizes = _case(sized=True)
    merged = _merge(values, mask, sizes, k=k)
    for example, real in enumerate(mask):
        expected = _expected(values[example][real], sizes[example][real], k)
        assert merged.mask[example].tolist() == [slot < len(expected) for slot in range(k)]
        actual = zip(merged.values[example], merged.sizes[example], strict=True)
        for (value, size), (expected_value, expected_size) in zip(actual, expected, strict=False):
            np.testing.assert_allclose(value, expected_value, rtol=1e-4, atol=1e-6)
            assert size == expected_size
        assert (merged.values[example, len(expected) :] == 0).all()
        assert (merged.sizes[example, len(expected) :] == 0).all()


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_sums_are_conserved_and_every_token_has_its_share(k, sized):
    values, mask, sizes = _case(sized)
    gradient, merged = compiled(k)(*map(jnp.asarray, (values, mask, sizes)))
    expected = np.where(mask, sizes, 0)
    np.testing.assert_array_equal(merged.sizes.sum(axis=1), expected.sum(axis=1))
    total = (np.where(mask[..., None], values, 0) * expected[..., None]).sum(axis=1)
    actual = (merged.sizes[..., None] * merged.values).sum(axis=1)
    np.testing.assert_allclose(actual, total, rtol=1e-5, atol=1e-5)
    shares = np.broadcast_to(expected[..., None], values.shape)
    np.testing.assert_allclose(gradient, shares, rtol=1e-6)


@pytest.mark.parametrize("k", [LENGTH, LENGTH + 2])
def test_k_of_the_length_or_more_changes_nothing_but_gaps(k):
    values, mask, sizes = _case()
    merged = _merge(values, mask, sizes, k=k)
    for example, real in enumerate(mask):
        count = real.sum()
        np.testing.assert_array_equal(merged.values[example, :count], values[example][real])
        assert merged.mask[example].tolist() == [slot < count for slot in range(k)]
    np.testing.assert_array_equal(merged.sizes, merged.mask)


X, Y, Z = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.2]


@pytest.mark.parametrize(
    ("tokens", "expected", "sizes"),
    [
        ([X, Y, Z, Z], [X, Y, Z], [1, 1, 2]),  # The most similar pair, and in order.
        ([Y, Z, Z, X], [Y, Z, X], [1, 2, 1]),
        ([X, Z, X, Y, Y, X], [Z, Y, X], [1, 2, 3]),  # Two into one.
        ([X, X, X, X, X, X], [X, X, X], [4, 1, 1]),  # Ties: the first of B.
    ],
)
def test_by_hand(tokens, expected, sizes):
    values = np.float32([tokens])
    merged = _merge(values, np.ones(values.shape[:2], bool), k=3)
    np.testing.assert_allclose(merged.values[0], np.float32(expected), rtol=1e-6)
    assert merged.sizes[0].tolist() == sizes


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_tokens_does_not_change_the_merge(scale):
    values, mask, sizes = _case()
    values = np.where(mask[..., None], values, 0)
    expected = _merge(values, mask, sizes, k=3)
    actual = _merge(values * np.float32(scale), mask, sizes, k=3)
    np.testing.assert_array_equal(actual.sizes, expected.sizes)
    np.testing.assert_allclose(actual.values / scale, expected.values, rtol=1e-5, atol=1e-6)


def test_values_keep_their_type_and_sizes_are_float32():
    tokens = Tokens(jnp.zeros((1, 4, 2), jnp.bfloat16), jnp.ones((1, 4), bool))
    merged = jax.eval_shape(functools.partial(merge_tokens, k=2), tokens)
    assert (merged.values.dtype, merged.sizes.dtype) == (jnp.bfloat16, jnp.float32)
