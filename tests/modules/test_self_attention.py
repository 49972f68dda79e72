"""Self-attention with a pattern or of the first tokens, and how a config asks for it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft

from sft_jax import BlockSparsePattern, ModalitySpec, Tokens, WindowPattern
from sft_jax.config import ModelConfig
from sft_jax.modules.attention import SelfAttention
from sft_jax.modules.block import Block
from sft_jax.modules.factory import build_model
from sft_jax.ops.attention.block_sparse import to_dense

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
        apply = functools.partial(sparse.apply, mutable=["intermediates"])
        (attended, _), sparse_state = apply(variables, tokens)
        weights, sparse_weights = (
            sown["intermediates"]["weights"][0] for sown in (state, sparse_state)
        )
        return (expected, weights), (attended, to_dense(sparse_weights))

    (attended, weights), (sparse, sparse_weights) = both()
    real = np.asarray(tokens.mask)
    np.testing.assert_allclose(sparse[real], attended[real], rtol=1e-5, atol=1e-6)
    by_query = real[:, None, :, None]
    np.testing.assert_allclose(sparse_weights * by_query, weights * by_query, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("name", ["sft", "late", "concat", "unimodal", "mbt", "mult"])
def test_a_config_chooses_kernel_and_parts_of_every_model(name):
    config = ModelConfig(name=name, attention_kernel="tiled", parts=3, modality="sight")
    model = build_model(config, tiny_sft.MODALITIES, 4)
    assert (model.attention_kernel, model.parts) == ("tiled", 3)


@pytest.mark.parametrize(
    ("attention", "pattern"),
    [("dense", None), ("windowed", WindowPattern()), ("block_sparse", BlockSparsePattern())],
)
def test_a_config_chooses_the_attention_within_a_modality(attention, pattern):
    config = ModelConfig(unimodal_attention=attention)
    model = build_model(config, tiny_sft.MODALITIES, 4)
    assert (model.unimodal_pattern, model.pre_pooling_pattern) == (pattern, None)


@pytest.mark.parametrize("kernel", ["plain", "tiled"])
def test_the_first_tokens_alone_are_as_among_all(kernel):
    tokens = _tokens().replace(sizes=jnp.full((2, 9), 2.0))
    for module in (SelfAttention(2, kernel=kernel), Block(2, kernel=kernel)):
        variables = tiny_sft.normal_variables(module, tokens)
        whole, first = jax.jit(
            lambda module=module, variables=variables: [
                module.apply(variables, tokens, first) for first in (None, 3)
            ]
        )()
        expected = jax.tree.map(lambda array: array[:, :3], whole)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), first, expected
        )


def _windowed(length, **attributes):
    modalities = {"sight": ModalitySpec(length, 3)}
    return tiny_sft.sft(modalities=modalities, n_post=0, pool="attn", k=2, **attributes)


def test_windows_hide_nothing_up_to_72_tokens():
    def program(length, pattern):
        model = _windowed(length, unimodal_pattern=pattern, pre_pooling_pattern=pattern)
        inputs = model.example_inputs()
        return str(jax.make_jaxpr(model.apply)(tiny_sft.variables(model), inputs))

    # With CLS they are one more.
    assert program(71, WindowPattern()) == program(71, None)
    assert program(72, WindowPattern()) != program(72, None)


def test_windows_ignore_padding_and_train_every_parameter():
    length = 90
    pattern = WindowPattern()
    # Fused blocks, so that the pooled tokens, weighted by saliency, count.
    model = _windowed(length, unimodal_pattern=pattern, pre_pooling_pattern=pattern)
    model = model.clone(n_post=1)
    variables = tiny_sft.variables(model)
    mask = np.ones((2, length), bool)
    mask[0, [3, 40]] = mask[1, 50:] = False
    values = np.random.default_rng(0).normal(size=(2, length, 3)).astype(np.float32)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(variables, values):
        logits = model.apply(variables, {"sight": values}, {"sight": mask})
        return jnp.sin(logits).sum(), logits

    gradient, logits = run(variables, np.where(mask[..., None], values, 0))
    again = run(variables, np.where(mask[..., None], values, np.nan))
    jax.tree.map(np.testing.assert_array_equal, again, (gradient, logits))
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert leaf.any()
    dense = model.clone(unimodal_pattern=None, pre_pooling_pattern=None)
    expected = jax.jit(dense.apply)(variables, {"sight": values}, {"sight": mask})
    assert (abs(logits - expected) > 1e-4).any(axis=1).all()


def test_saliency_is_computed_only_where_a_pool_looks_at_it(monkeypatch):
    variables = tiny_sft.variables(tiny_sft.sft(n_pre=0))

    def refuse(*_):
        raise RuntimeError("saliency is computed")

    monkeypatch.setattr("sft_jax.ops.attention.kernels.saliency", refuse)
    for attributes in ({"pool": "max"}, {"pool": "tome"}, {"pool": "attn", "k": 0}):
        model = tiny_sft.sft(n_pre=0, **attributes)
        jax.eval_shape(model.apply, variables, tiny_sft.inputs())
    with pytest.raises(RuntimeError, match="saliency is computed"):
        jax.eval_shape(tiny_sft.sft(n_pre=0, pool="attn").apply, variables, tiny_sft.inputs())
