"""The pools with parameters against what their papers say, one token at a time."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft

from sft_jax import Tokens
from sft_jax.modules.learned_pools import PerceiverPool, TokenLearner

K, WIDTH, HEADS = 3, 4, 2
MASK = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0], [0] * 6], bool)
MODULES = {"token_learner": TokenLearner(K), "perceiver": PerceiverPool(K, HEADS)}
# Softmax does not change when one number is added to all logits.
WITHOUT_GRADIENT = {
    "token_learner": "['params']['mlp_out']['bias']",
    "perceiver": "['params']['key']['bias']",
}
every_pool = pytest.mark.parametrize("pool", MODULES)


def _values(seed=0):
    values = np.random.default_rng(seed).normal(size=(*MASK.shape, WIDTH)).astype(np.float32)
    return np.where(MASK[..., None], values, np.float32(np.nan))


@functools.cache
def _variables(pool):
    tokens = Tokens(jnp.zeros((*MASK.shape, WIDTH)), jnp.asarray(MASK))
    return tiny_sft.normal_variables(MODULES[pool], tokens)


@functools.cache
def compiled(pool):
    """A function params values and mask: pooled tokens, gradients in parameters and values."""

    def total(variables, values, mask):
        kept = MODULES[pool].apply(variables, Tokens(values, mask))
        return (kept.values**2).sum(), kept

    step = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))

    def run(values, mask):
        gradients, kept = step(_variables(pool), jnp.asarray(values), jnp.asarray(mask))
        return kept, gradients

    return run


def _normed(x, params):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * params["scale"] + params["bias"]


def _dense(x, params):
    return x @ params["kernel"] + params["bias"]


def _softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _token_learner(params, tokens):
    hidden = _dense(_normed(tokens, params["norm"]), params["mlp_in"])
    hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    logits = _dense(hidden, params["mlp_out"])
    return np.stack([_softmax(logits[:, slot]) @ tokens for slot in range(K)])


def _perceiver(params, tokens):
    normed = _normed(tokens, params["token_norm"])
    query = _dense(_normed(params["queries"], params["query_norm"]), params["query"])
    key, value = _dense(normed, params["key"]), _dense(normed, params["value"])
    attended = np.zeros((K, WIDTH))
    size = WIDTH // HEADS
    for slot in range(K):
        for head in (slice(start, start + size) for start in range(0, WIDTH, size)):
            weights = _softmax(key[:, head] @ query[slot, head] / math.sqrt(size))
            attended[slot, head] = weights @ value[:, head]
    return params["queries"] + _dense(attended, params["out"])


@every_pool
def test_the_slots_are_those_of_the_paper(pool):
    values = _values()
    kept, _ = compiled(pool)(values, MASK)
    by_hand = {"token_learner": _token_learner, "perceiver": _perceiver}[pool]
    for example, mask in enumerate(MASK[:3]):
        expected = by_hand(_variables(pool)["params"], values[example][mask])
        # The GELU that is used is an approximation.
        np.testing.assert_allclose(kept.values[example], expected, rtol=1e-3, atol=1e-3)
    assert kept.mask.tolist() == [[True] * K] * 3 + [[False] * K]
    assert (kept.values[3] == 0).all()


@every_pool
def test_the_order_of_the_tokens_has_no_effect(pool):
    values = _values()
    order = np.random.default_rng(1).permutation(MASK.shape[1])
    kept, (_, value_gradient) = compiled(pool)(values, MASK)
    again, (_, permuted_gradient) = compiled(pool)(values[:, order], MASK[:, order])
    np.testing.assert_allclose(again.values, kept.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(permuted_gradient, value_gradient[:, order], rtol=1e-4, atol=1e-5)


@every_pool
def test_every_parameter_learns_and_nothing_from_examples_without_tokens(pool):
    _, (param_gradients, value_gradient) = compiled(pool)(_values(), MASK)
    for path, gradient in jax.tree.leaves_with_path(param_gradients):
        assert np.isfinite(gradient).all()
        learns = jax.tree_util.keystr(path) != WITHOUT_GRADIENT[pool]
        assert (abs(gradient) > 1e-4).any() == learns
    assert (np.asarray(value_gradient)[~MASK] == 0).all()
    assert (np.asarray(value_gradient)[MASK] != 0).all()
    _, gradients = compiled(pool)(_values(), np.zeros_like(MASK))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients))


@every_pool
def test_bfloat16_tokens_stay_bfloat16(pool):
    module = MODULES[pool].clone(dtype=jnp.bfloat16)
    tokens = Tokens(jnp.zeros((*MASK.shape, WIDTH), jnp.bfloat16), jnp.asarray(MASK))
    kept = jax.eval_shape(module.apply, _variables(pool), tokens)
    assert kept.values.dtype == jnp.bfloat16


def test_a_token_of_size_two_is_attended_to_like_two():
    values = _values()[:1]
    ones = np.ones((1, 6), bool)
    twice = np.concatenate([values, values[:, :1]], axis=1)
    sizes = jnp.asarray([[2.0, 1, 1, 1, 1, 1]])
    apply = jax.jit(MODULES["perceiver"].apply)
    expected = apply(_variables("perceiver"), Tokens(jnp.asarray(twice), jnp.ones((1, 7), bool)))
    pooled = apply(_variables("perceiver"), Tokens(jnp.asarray(values), jnp.asarray(ones), sizes))
    np.testing.assert_allclose(pooled.values, expected.values, rtol=1e-5, atol=1e-6)


def test_queries_start_small():
    shape = Tokens(jnp.zeros((1, 2, 64)), jnp.ones((1, 2), bool))
    init = jax.jit(lambda key: PerceiverPool(100, 2).init(key, shape)["params"]["queries"])
    queries = init(jax.random.key(0, impl="rbg"))
    assert queries.shape == (100, 64)
    assert np.std(queries) == pytest.approx(0.02, rel=0.05)
