"""Blocks with wider MLPs, recomputed for the gradient, and with products of higher precision."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_baselines
import tiny_sft

from sft_jax.modules.block import Block
from sft_jax.modules.elastic import Fusion, Trunk, part
from sft_jax.modules.mult import CrossmodalLayer
from sft_jax.structs import Tokens

TOKENS = Tokens(jax.random.normal(jax.random.key(0), (2, 5, 8)), jnp.ones((2, 5), bool))
LAYERS = {
    "sft": (functools.partial(Block, 2, 0.3), (TOKENS,)),
    "crossmodal": (functools.partial(CrossmodalLayer, 2, 0.3), (TOKENS, TOKENS)),
}
MODELS = {
    "sft": functools.partial(tiny_sft.sft, n_post=5),
    "crossmodal": functools.partial(tiny_baselines.make, "crossmodal"),
}


def _loss(module, inputs, variables):
    outputs = module.apply(variables, *inputs, train=True, rngs={"dropout": jax.random.key(1)})
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(outputs) if leaf.dtype != bool)


@pytest.mark.parametrize("name", LAYERS)
def test_blocks_computed_again_give_the_same_gradient(name):
    make, inputs = LAYERS[name]
    variables = tiny_sft.normal_variables(make(), *inputs)
    wanted, got = (
        jax.jit(jax.value_and_grad(functools.partial(_loss, module, inputs)))(variables)
        for module in (make(), make(remat=True))
    )
    chex.assert_trees_all_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_whose_blocks_are_computed_again_stores_less(name):
    def stored_bytes(model):
        loss = functools.partial(_loss, model, (tiny_sft.inputs(),))
        variables = tiny_sft.normal_variables(model, model.example_inputs())
        residuals = jax.eval_shape(lambda v: jax.vjp(loss, v)[1], variables)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    assert stored_bytes(MODELS[name](remat=True)) < 0.75 * stored_bytes(MODELS[name]())


def test_hidden_features_of_weight_0_change_nothing():
    narrow, wide = Block(2), Block(2, mlp_ratio=2)
    variables = tiny_sft.normal_variables(narrow, TOKENS)
    shapes = jax.eval_shape(wide.init, jax.random.key(0), TOKENS)

    def widened(array, like):
        return np.pad(array, [(0, to - n) for n, to in zip(array.shape, like.shape, strict=True)])

    wider = jax.tree.map(widened, variables, shapes)
    kernels = [wider["params"][name]["kernel"].shape for name in ("mlp_in", "mlp_out")]
    assert kernels == [(8, 16), (16, 8)]
    wanted = narrow.apply(variables, TOKENS).values
    np.testing.assert_allclose(wide.apply(wider, TOKENS).values, wanted, rtol=1e-5, atol=1e-5)


def _precisions(function, *arguments):
    """Precisions of the products of a program, without compiling it."""
    text = jax.jit(function).lower(*arguments).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products
    return {re.search(r"precision = \[(\w+), (\w+)\]", line).groups() for line in products}


@pytest.mark.parametrize("precision", ["high", "highest"])
def test_all_products_of_training_have_the_precision(precision):
    model = tiny_sft.sft(matmul_precision=precision)
    gradient = jax.grad(functools.partial(_loss, model, (tiny_sft.inputs(),)))
    assert _precisions(gradient, tiny_sft.variables(model)) == {2 * (precision.upper(),)}


def test_parts_of_a_model_have_its_precision():
    model = tiny_sft.sft(matmul_precision="highest")
    variables = tiny_sft.variables(model)
    trunk, fusion = part(Trunk, model, budgets=(3,)), part(Fusion, model)
    entering, pooled = jax.eval_shape(trunk.apply, variables, tiny_sft.inputs())
    highest = {("HIGHEST", "HIGHEST")}
    assert _precisions(trunk.apply, variables, tiny_sft.inputs()) == highest
    assert _precisions(fusion.apply, variables, entering, pooled[3]) == highest


def test_without_a_precision_that_of_the_caller_holds():
    model = tiny_sft.sft()
    variables = tiny_sft.variables(model)
    assert _precisions(model.apply, variables, tiny_sft.inputs()) == {("DEFAULT", "DEFAULT")}
    with jax.default_matmul_precision("highest"):
        assert _precisions(model.apply, variables, tiny_sft.inputs()) == {("HIGHEST", "HIGHEST")}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny_sft.sft(mlp_ratio=0), "mlp_ratio=0 must be at least 1"),
        (tiny_sft.sft(matmul_precision="best"), "matmul_precision='best' is not one of default, "),
        (tiny_baselines.make("crossmodal", mlp_ratio=2), "mlp_ratio=2: the MLPs have a ratio of 4"),
    ],
)
def test_impossible_attributes_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        model.apply({"params": {}}, tiny_sft.inputs())
