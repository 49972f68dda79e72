"""Trained models at another number of kept tokens."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_baselines
import tiny_sft

from sft_jax import Tokens
from sft_jax.modules.budget import budgets, with_budget
from sft_jax.modules.learned_pools import TokenLearner
from sft_jax.modules.linear import linear
from sft_jax.modules.reducer import Reducer
from sft_jax.ops.pool import POOLS, Pool
from sft_jax.structs import DEFAULT_K, OTHERS

LENGTH, WIDTH, K = 6, 4, 4
COUNTED = [name for name in tiny_sft.SINGLE_POOLS if POOLS[name].uses_k]


def _first(pool, k, tokens, saliency, variables):
    kept = Reducer(pool, k, num_heads=2).apply(variables, tokens, saliency)
    return np.where(kept.mask[..., None], kept.values, 0)


@pytest.mark.parametrize("pool", COUNTED)
def test_the_table_of_pools_says_which_are_nested(pool):
    random = np.random.default_rng(0)
    values = random.normal(size=(3, LENGTH, WIDTH)).astype(np.float32)
    mask = np.arange(LENGTH) < np.array([[LENGTH], [5], [3]])
    tokens = Tokens(jnp.asarray(values), jnp.asarray(mask))
    saliency = jnp.asarray(random.uniform(size=mask.shape).astype(np.float32))
    variables = tiny_sft.normal_variables(Reducer(pool, K, num_heads=2), tokens, saliency)
    many, few = (_first(pool, k, tokens, saliency, variables) for k in (K, 2))
    assert np.allclose(few, many[:, :2], atol=1e-6) == POOLS[pool].nested


@pytest.mark.parametrize("pool", tiny_sft.LEARNED_POOLS)
def test_a_learned_pool_is_that_of_its_first_slots(pool):
    model = tiny_sft.with_pool(pool)
    variables, inputs = tiny_sft.variables(model), tiny_sft.inputs()

    def first(path, leaf):
        axis = {"queries": 0, "kernel": 1, "bias": 0}
        slots = "mlp_out" in jax.tree_util.keystr(path[-2:]) or path[-1].key == "queries"
        within = slots and "reducer" in jax.tree_util.keystr(path)
        return jnp.take(leaf, jnp.arange(1), axis[path[-1].key]) if within else leaf

    cut = jax.tree_util.tree_map_with_path(first, variables)
    one = model.clone(k=1)
    expected = jax.eval_shape(one.init, jax.random.key(0), model.example_inputs())
    assert jax.tree.map(jnp.shape, cut) == jax.tree.map(jnp.shape, expected)
    apply = jax.jit(with_budget(model, 1).apply)
    logits = apply(variables, inputs, tiny_sft.masks())
    np.testing.assert_allclose(logits, apply(cut, inputs, tiny_sft.masks()), rtol=1e-6, atol=1e-6)
    full = jax.jit(model.apply)(variables, inputs, tiny_sft.masks())
    assert np.abs(logits - full).max() > 1e-3


def test_slots_start_as_those_of_a_dense_layer():
    class Dense(nn.Module):
        @nn.compact
        def __call__(self, values):
            return linear(WIDTH, K, None, "mlp_out")(values)

    tokens = Tokens(jnp.zeros((1, LENGTH, WIDTH)), jnp.ones((1, LENGTH), bool))
    params = TokenLearner(K).init(jax.random.key(0), tokens)["params"]["mlp_out"]
    expected = Dense().init(jax.random.key(0), tokens.values)["params"]["mlp_out"]
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_each_modality_may_have_its_own_budget():
    model = tiny_sft.sft(k={"sight": 2, "sound": 3})
    assert with_budget(model, {"sight": 6, "sound": 0}).kept_tokens() == {"sight": 6, "sound": 0}
    assert with_budget(model, 5).kept_tokens() == {"sight": 5, "sound": 5}


@pytest.mark.parametrize(
    ("model", "k", "message"),
    [
        (tiny_sft.sft(), 8, "k=8 for modality 'sight', which has 6 tokens .* from 0 to 6"),
        (tiny_sft.sft(), {"sight": 1}, r"k names \['sight'\], the modalities are"),
        (tiny_sft.sft(readout="fresh_cls"), 0, "k=0 with readout='fresh_cls'"),
        (tiny_sft.sft(pool="none"), 2, "k=2: pool='none' keeps all tokens, whatever k is"),
        (tiny_baselines.make("late"), 2, "k=2: LateFusion keeps all tokens; SparseFusion.* alone"),
        (
            tiny_sft.sft(pool="perceiver"),
            4,
            "k=4 for modality 'sight': pool='perceiver' has parameters for 3 tokens; k must be at",
        ),
        (tiny_sft.sft(pool=Pool(module=TokenLearner)), 2, "for k=3 alone, as the pool is not nest"),
    ],
)
def test_a_budget_that_a_model_cannot_have_is_refused(model, k, message):
    with pytest.raises(ValueError, match=message):
        with_budget(model, k)


def test_more_slots_than_were_trained_are_refused():
    tokens = Tokens(jnp.zeros((1, LENGTH, WIDTH)), jnp.ones((1, LENGTH), bool))
    variables = tiny_sft.normal_variables(TokenLearner(2), tokens)
    with pytest.raises(
        ValueError, match="k=3: the parameter 'kernel' has 2 slots; k must be at most"
    ):
        jax.eval_shape(TokenLearner(3).apply, variables, tokens)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (6, 6),
        (7, {"sight": 6, "sound": 7}),
        (8, 8),
        ({"sight": 2}, {"sight": 2, "sound": DEFAULT_K}),
        ({"sight": 2, OTHERS: 9}, {"sight": 2, "sound": 7}),
        ({"sight": 9}, {"sight": 9, "sound": DEFAULT_K}),
        ({OTHERS: 7}, {"sight": 6, "sound": 7}),
    ],
)
def test_numbers_of_the_rest_are_capped_by_the_tokens(k, expected):
    assert budgets(k, tiny_sft.MODALITIES) == expected


def test_a_capped_modality_is_noted(caplog):
    caplog.set_level(logging.INFO)
    model = tiny_sft.sft()
    assert with_budget(model, 7).kept_tokens() == {"sight": 6, "sound": 7}
    assert caplog.messages == ["k=7: sight has 6 tokens, and keeps them all"]
