"""Self-attention with a pattern, and how a config asks for it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import BlockSparsePattern, ModalitySpec, Tokens
from sft_jax.config import ModelConfig
from sft_jax.modules.attention import SelfAttention
from sft_jax.modules.factory import build_model
from sft_jax.ops.block_sparse import to_dense

# Wide enough for its first window to hold all tokens.
DENSE = BlockSparsePattern(stride=8, expressivity=2)


def _tokens():
    values = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    mask = np.ones((2, 9), bool)
    mask[1, [0, 5, 7]] = False
    return Tokens(jnp.asarray(values), jnp.asarray(mask))


def test_a_pattern_that_hides_nothing_changes_nothing():
    tokens = _tokens()

    @jax.jit
    def both():
        dense, sparse = SelfAttention(2), SelfAttention(2, pattern=DENSE)
        variables = dense.init(jax.random.key(0, impl="rbg"), tokens)
        apply = functools.partial(dense.apply, mutable=["intermediates"])
        (expected, _), state = apply(variables, tokens)
        (attended, _), of_sparse = functools.partial(sparse.apply, mutable=["intermediates"])(
            variables, tokens
        )
        weights, of_pattern = (of["intermediates"]["weights"][0] for of in (state, of_sparse))
        return (expected, weights), (attended, to_dense(of_pattern))

    (attended, weights), (found, found_weights) = both()
    real = np.asarray(tokens.mask)
    np.testing.assert_allclose(found[real], attended[real], rtol=1e-5, atol=1e-6)
    by_query = real[:, None, :, None]
    np.testing.assert_allclose(found_weights * by_query, weights * by_query, rtol=1e-5, atol=1e-6)


def test_tokens_with_sizes_are_refused():
    tokens = _tokens().replace(sizes=jnp.ones((2, 9)))
    attention = SelfAttention(2, pattern=DENSE)
    with pytest.raises(ValueError, match=r"tokens.sizes must be None where .* a pattern"):
        jax.eval_shape(attention.init, jax.random.key(0), tokens)


def test_a_config_chooses_the_attention_before_pooling():
    config = ModelConfig(pre_pooling_attention="block_sparse")
    modalities = {"sight": ModalitySpec(50, 3)}
    assert build_model(config, modalities, 4).pre_pooling_pattern == BlockSparsePattern()
    config = dataclasses.replace(config, pre_pooling_attention="dense")
    assert build_model(config, modalities, 4).pre_pooling_pattern is None
