"""Selection among all modalities, beside a computation in numpy example by example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import Tokens
from sft_jax.ops.pool import Pool
from sft_jax.ops.pool.joint import joint_scores, joint_top_k

LENGTHS, WIDTH, BATCH = (5, 3, 4), 6, 4

joint_top_k = jax.jit(joint_top_k, static_argnums=1)


@functools.cache
def _case():
    """All real; padding and no second modality; the last modality alone; nothing at all."""
    random = np.random.default_rng(0)
    masks = [np.ones((BATCH, length), bool) for length in LENGTHS]
    masks[0][1, [0, 3]] = False
    masks[1][1] = False
    for mask in masks[:2]:
        mask[2] = False
    for mask in masks:
        mask[3] = False
    tokens, saliency = [], []
    for mask in masks:
        values = random.normal(size=(*mask.shape, WIDTH)).astype(np.float32)
        values[~mask] = np.nan
        tokens.append(Tokens(jnp.asarray(values), jnp.asarray(mask)))
        saliency.append(jnp.asarray(np.where(mask, random.uniform(size=mask.shape), np.nan)))
    present = np.stack([mask.any(axis=1) for mask in masks], axis=1)
    cls = random.normal(size=(BATCH, len(LENGTHS), WIDTH)).astype(np.float32)
    cls[~present] = np.nan
    return tokens, saliency, Tokens(jnp.asarray(cls), jnp.asarray(present))


def _normed(row):
    row = np.asarray(row, np.float64)
    return (row - row.mean()) / np.sqrt(row.var() + 1e-5)


def _by_hand(example):
    """Score of each real token by its position in the concatenation."""
    tokens, saliency, cls = _case()
    scores, start = {}, 0
    for m, own in enumerate(tokens):
        real = np.flatnonzero(own.mask[example])
        given = []
        for other in set(range(len(tokens))) - {m}:
            if not cls.mask[example, other]:
                continue
            query = _normed(cls.values[example, other])
            logits = [query @ _normed(own.values[example, j]) / WIDTH**0.5 for j in real]
            given.append(np.exp(logits) / np.exp(logits).sum())
        for rank, j in enumerate(real):
            attention = np.mean([weights[rank] for weights in given]) if given else 0
            scores[start + j] = len(real) * (saliency[m][example, j] + attention)
        start += own.mask.shape[1]
    return scores


@pytest.mark.parametrize("k", [1, 4, 14])
def test_the_largest_scores_of_all_modalities_are_kept(k):
    kept, index = joint_top_k(*[_case()[0], k], *_case()[1:])
    values = np.concatenate([own.values for own in _case()[0]], axis=1)
    assert kept.values.shape == (BATCH, k, WIDTH)
    for example in range(BATCH):
        scores = _by_hand(example)
        expected = sorted(scores, key=scores.get, reverse=True)[:k]
        assert np.asarray(index)[example, : len(expected)].tolist() == expected
        np.testing.assert_array_equal(kept.mask[example], np.arange(k) < len(expected))
        unchanged = [*values[example, expected], *np.zeros((k - len(expected), WIDTH))]
        np.testing.assert_array_equal(kept.values[example], unchanged)


def test_scores_are_those_by_hand():
    scores = np.concatenate(jax.jit(joint_scores)(*_case()), axis=1)
    for example in range(BATCH):
        expected = np.zeros(sum(LENGTHS))
        for position, score in _by_hand(example).items():
            expected[position] = score
        np.testing.assert_allclose(scores[example], expected, rtol=1e-5, atol=1e-6)


def test_the_cls_of_another_modality_learns_through_the_scores():
    tokens, saliency, cls = _case()

    def total(values):
        kept, _ = joint_top_k(tokens, 4, saliency, cls.replace(values=values))
        return (kept.values**2).sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(cls.values))
    assert np.isfinite(gradient).all()
    # Without another modality there is no token that it could attend to.
    assert (np.abs(gradient).max(axis=2) > 0).tolist() == [
        [True] * 3, [True, False, True], [False] * 3, [False] * 3
    ]  # fmt: skip


@pytest.mark.parametrize("attributes", [{"module": "a:B"}, {"function": min, "needs": ("noise",)}])
def test_joint_pools_have_a_function_of_tokens_and_saliency(attributes):
    with pytest.raises(ValueError, match=r"Pool\(joint=True\) with .* the saliency alone"):
        Pool(**attributes, joint=True)
