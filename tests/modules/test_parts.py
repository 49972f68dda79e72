"""Groups of examples that pass through the blocks of a modality one after the other."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft

BATCH = 6


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


@pytest.mark.parametrize(("parts", "kernel"), [(2, "blocked"), (3, "plain")])
def test_parts_change_neither_logits_nor_gradients(parts, kernel):
    chex.assert_trees_all_close(_computed(parts, kernel), _computed(1), rtol=1e-4, atol=1e-5)


def _program(parts, batch, **keywords):
    model = _model(parts=parts)
    apply = functools.partial(model.apply, **keywords)
    return str(jax.make_jaxpr(apply)(tiny_sft.variables(model), *_inputs(batch)))


def test_parts_that_do_not_divide_a_batch_are_fewer():
    assert _program(4, BATCH) == _program(2, BATCH) != _program(1, BATCH)
    assert _program(3, BATCH - 1) == _program(1, BATCH - 1)


def test_who_looks_at_the_intermediates_sees_the_batch_as_a_whole():
    looking = {"mutable": ["intermediates"], "capture_intermediates": True}
    assert _program(2, BATCH, **looking) == _program(1, BATCH, **looking)


def test_dropout_and_random_pools_differ_by_part():
    model = _model(pool="random", k=1, dropout=0.5, parts=2)
    same = {"sight": np.ones((2, 12, 3), np.float32)}
    variables = tiny_sft.normal_variables(model, model.example_inputs())
    keys = {name: jax.random.key(0, impl="rbg") for name in ("dropout", "pool")}

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def train(variables):
        logits = model.apply(variables, same, train=True, rngs=keys)
        return (logits**2).sum(), logits

    gradient, logits = train(variables)
    assert all(np.isfinite(leaf).all() for leaf in (logits, *jax.tree.leaves(gradient)))
    assert (logits[0] != logits[1]).any()
