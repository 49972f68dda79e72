"""A Sparse Fusion Transformer with one budget for all modalities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft

from sft_jax import Tokens
from sft_jax.modules.budget import with_budget
from sft_jax.modules.elastic import Trunk, part
from sft_jax.modules.reducer import Reducer
from sft_jax.profile.flops import forward_stages

MODEL = tiny_sft.sft(pool="joint_topk", n_pre=0, n_post=0)


@functools.cache
def _trunk():
    """CLS and pooled tokens by budget, with masks and with one modality alone."""
    trunk = jax.jit(part(Trunk, MODEL, budgets=(3, 0, 1)).apply)
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    alone = {name: {"sight": own["sight"]} for name, own in (("inputs", inputs), ("masks", masks))}
    variables = tiny_sft.variables(MODEL)
    return trunk(variables, inputs, masks), trunk(variables, alone["inputs"], alone["masks"])


def test_a_missing_modality_leaves_its_share_to_the_others():
    (_, pooled), (_, alone) = _trunk()
    # Real tokens of both modalities in the three examples: 6 and 7, 5 and 5, 2 and none.
    assert pooled[3]["all"].mask.sum(axis=1).tolist() == [6, 6, 2]
    assert alone[3]["all"].mask.sum(axis=1).tolist() == [6, 5, 2]
    np.testing.assert_allclose(alone[3]["all"].values[2], pooled[3]["all"].values[2], atol=1e-6)


def test_fewer_tokens_are_the_first_of_more():
    (_, pooled), _ = _trunk()
    assert {k: own["all"].mask.shape[1] for k, own in pooled.items()} == {3: 6, 0: 0, 1: 2}
    np.testing.assert_array_equal(pooled[1]["all"].values, pooled[3]["all"].values[:, :2])


def test_a_modality_without_a_share_of_its_own_gives_tokens_too():
    (_, pooled), _ = _trunk()
    fewer = with_budget(MODEL, {"sight": 2, "sound": 0})
    arguments = tiny_sft.variables(MODEL), tiny_sft.inputs(), tiny_sft.masks()
    apply = functools.partial(fewer.apply, mutable=["intermediates"])
    _, state = jax.jit(apply)(*arguments)
    fused = state["intermediates"]["fused_input"][0]
    np.testing.assert_array_equal(fused.values[:, 1:], pooled[1]["all"].values)
    # Saliency is captured with the intermediates, but needed without them as well.
    assert jax.eval_shape(fewer.apply, *arguments).shape == (3, 4)


def test_it_has_the_parameters_and_nearly_the_cost_of_the_pool_of_each_modality():
    each = MODEL.clone(pool="attn_topk")
    shapes = [
        jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
        for model in (MODEL, each)
    ]
    assert shapes[0] == shapes[1]
    joint, own = forward_stages(MODEL), forward_stages(each)
    assert joint["pre_pooling"].flops == own["pre_pooling"].flops
    assert own["pooling"].flops < joint["pooling"].flops < joint["pre_pooling"].flops


def test_a_reducer_has_one_modality_and_refuses():
    reducer = Reducer("joint_topk", 2)
    tokens = Tokens(jnp.zeros((1, 3, 8)), jnp.ones((1, 3), bool))
    with pytest.raises(ValueError, match="pool='joint_topk' reduces the tokens of all modalities"):
        jax.eval_shape(reducer.init, jax.random.key(0), tokens)
