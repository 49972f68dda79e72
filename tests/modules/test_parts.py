"""Groups of examples that pass through the blocks of a modality one after the other."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft

from sft_jax.modules import batch_groups

BATCH = 6


@pytest.fixture(autouse=True)
def _short_sequences_too(monkeypatch):
    monkeypatch.setattr(batch_groups, "_MIN_TOKENS_TO_SPLIT", 1)


def _model(**attributes):
    """One modality, and no blocks but its own: the others know no parts."""
    modalities = {"sight": tiny_sft.MODALITIES["sight"]}
    return tiny_sft.sft(**{"modalities": modalities, "n_post": 0, "readout": "mean"} | attributes)


def _inputs(batch=BATCH):
    mask = tiny_sft.masks()["sight"]
    values = tiny_sft.inputs(batch=batch)["sight"]
    return {"sight": values}, {"sight": np.concatenate([mask, mask[::-1]])[:batch]}


@functools.cache
def _computed(parts, kernel="plain"):
    """Logits and gradient of the parameters."""
    model = _model(parts=parts, attention_kernel=kernel)

    def total(variables, inputs, masks):
        logits = model.apply(variables, inputs, masks)
        return (logits * jnp.cos(jnp.arange(logits.size).reshape(logits.shape))).sum(), logits

    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, logits), gradient = step(tiny_sft.variables(model), *_inputs())
    return logits, gradient


@pytest.mark.parametrize(("parts", "kernel"), [(2, "tiled"), (3, "plain")])
def test_parts_change_neither_logits_nor_gradients(parts, kernel):
    chex.assert_trees_all_close(_computed(parts, kernel), _computed(1), rtol=1e-4, atol=1e-5)


def _program(parts, batch, **keywords):
    model = _model(parts=parts)
    apply = functools.partial(model.apply, **keywords)
    return str(jax.make_jaxpr(apply)(tiny_sft.variables(model), *_inputs(batch)))


def test_parts_that_do_not_divide_a_batch_are_fewer():
    assert _program(4, BATCH) == _program(2, BATCH) != _program(1, BATCH)
    assert _program(3, BATCH - 1) == _program(1, BATCH - 1)


def test_intermediates_are_those_of_the_whole_batch():
    looking = {"mutable": ["intermediates"], "capture_intermediates": True}
    assert _program(2, BATCH, **looking) == _program(1, BATCH, **looking)


@pytest.mark.parametrize("impl", ["threefry2x32", None])
def test_parts_change_nothing_that_is_drawn_at_random(impl):
    """Keys of either kind, typed or raw."""
    key = jax.random.PRNGKey(0) if impl is None else jax.random.key(0, impl=impl)
    same = {"sight": np.ones((BATCH, 12, 3), np.float32)}

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
    def train(parts, variables):
        model = _model(pool="random", k=1, dropout=0.5, parts=parts)
        rngs = {"dropout": key, "pool": key}
        logits = model.apply(variables, same, train=True, rngs=rngs)
        return (logits**2).sum(), logits

    variables = tiny_sft.normal_variables(_model(k=1), same)
    (_, logits), gradient = train(1, variables)
    for parts in (2, 3):
        in_parts = train(parts, variables)
        chex.assert_trees_all_close(in_parts, ((_, logits), gradient), rtol=1e-4, atol=1e-5)
    assert all((logits[0] != other).any() for other in logits[1:])
