"""Changes that must alter neither logits nor gradients of a Sparse Fusion Transformer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft
from sparing import slow_but

from sft_jax import ModalitySpec, ReferenceWindows, SparseFusionTransformer

# Of each kind one; `test_reducer.py` has the same of every pool alone.
every_pool = pytest.mark.parametrize(
    "pool",
    slow_but(tiny_sft.POOLS, "attn_topk", "attn_wkmedoids", "tome", "perceiver", "joint_topk"),
)
COTANGENT = np.random.default_rng(9).normal(size=(tiny_sft.BATCH, 4)).astype(np.float32)


def _all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@every_pool
def test_masked_steps_have_no_effect(pool):
    run, inputs, masks = tiny_sft.compiled(pool), tiny_sft.inputs(), tiny_sft.masks()
    logits, gradients = run(inputs, masks, COTANGENT)
    assert _all_finite((logits, gradients))
    for name, gradient in gradients[1].items():
        assert (gradient[~masks[name]] == 0).all()
        # Every real step could matter to some logit, unless attn_topk drops it.
        assert (gradient[masks[name]] != 0).any()
    for garbage in (np.nan, np.inf, -3e38, 0.0):
        spoiled = {
            name: np.where(masks[name][..., None], values, np.float32(garbage))
            for name, values in inputs.items()
        }
        chex.assert_trees_all_equal(run(spoiled, masks, COTANGENT), (logits, gradients))


@every_pool
def test_other_examples_have_no_effect(pool):
    run, inputs, masks = tiny_sft.compiled(pool), tiny_sft.inputs(), tiny_sft.masks()
    cotangent = COTANGENT * np.float32([[0], [1], [0]])
    logits, gradients = run(inputs, masks, cotangent)
    others = {name: values.copy() for name, values in tiny_sft.inputs(seed=1).items()}
    reversed_masks = {name: mask[::-1].copy() for name, mask in masks.items()}
    for name in others:
        others[name][1] = inputs[name][1]
        reversed_masks[name][1] = masks[name][1]
    again, other_gradients = run(others, reversed_masks, cotangent)
    np.testing.assert_array_equal(again[1], logits[1])
    assert (again[[0, 2]] != logits[[0, 2]]).all()
    chex.assert_trees_all_close(other_gradients, gradients, rtol=1e-5, atol=1e-6)


def test_the_size_of_the_batch_has_no_effect():
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    logits, _ = tiny_sft.compiled("attn_topk")(inputs, masks, COTANGENT)
    alone = jax.tree.map(lambda a: a[1:2], (inputs, masks))
    model = tiny_sft.sft()
    logits_alone = jax.jit(model.apply)(tiny_sft.variables(model), *alone)
    np.testing.assert_allclose(logits_alone, logits[1:2], rtol=1e-5, atol=1e-6)


@every_pool
def test_an_absent_modality_is_as_if_left_out(pool):
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    masks["sound"][:] = False
    logits, gradients = tiny_sft.compiled(pool)(inputs, masks, COTANGENT)
    assert _all_finite((logits, gradients))
    model = tiny_sft.with_pool(pool)
    without_sound = jax.jit(model.apply)(
        tiny_sft.variables(model), {"sight": inputs["sight"]}, {"sight": masks["sight"]}
    )
    np.testing.assert_allclose(without_sound, logits, rtol=1e-4, atol=1e-5)
    param_gradients = gradients[0]["params"]
    sound = {part: g for part, g in param_gradients.items() if "sound" in part}
    assert len(sound) == 2 + model.n_pre
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(sound))


@every_pool
def test_an_example_without_any_modality_is_finite(pool):
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    for mask in masks.values():
        mask[0] = False
    result = tiny_sft.compiled(pool)(inputs, masks, COTANGENT)
    assert _all_finite(result)
    others = {name: values + 1 for name, values in inputs.items()}
    logits, _ = tiny_sft.compiled(pool)(others, masks, COTANGENT)
    np.testing.assert_array_equal(logits[0], result[0][0])


def _both_orders(mapping):
    return mapping, dict(reversed(mapping.items()))


def test_the_order_of_modalities_does_not_change_initial_parameters():
    # This kind of key is quick to compile.
    key = jax.random.key(0, impl="rbg")
    models = [
        tiny_sft.sft(modalities=modalities, n_pre=0, n_post=0)
        for modalities in _both_orders(tiny_sft.MODALITIES)
    ]
    chex.assert_trees_all_equal(
        *(jax.jit(lambda key, m=model: m.init(key, m.example_inputs()))(key) for model in models)
    )


def test_the_order_of_modalities_does_not_change_logits():
    # Three: the sum of two CLS tokens is the same in either order.
    three = tiny_sft.MODALITIES | {"touch": ModalitySpec(5, 1)}
    drawn = tiny_sft.inputs(modalities=three)

    def logits(modalities):
        model = tiny_sft.sft(modalities=modalities, n_pre=0)
        variables = tiny_sft.variables(tiny_sft.sft(modalities=three, n_pre=0))
        # Not an argument of the compiled function: JAX would sort it.
        inputs = {name: jnp.asarray(drawn[name]) for name in modalities}
        return jax.jit(lambda variables: model.apply(variables, inputs))(variables)

    forwards, backwards = map(logits, _both_orders(three))
    np.testing.assert_array_equal(forwards, backwards)


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_padding_moves_no_reference_window(pool):
    model = SparseFusionTransformer(
        3,
        {"a": ModalitySpec(20, 2)},
        width=4,
        num_heads=1,
        n_pre=0,
        n_post=1,
        pool=pool,
        reference_windows={"a": ReferenceWindows(8, 8)},
    )
    values = np.random.default_rng(0).normal(size=(2, 12, 2)).astype(np.float32)
    padded = np.pad(values, ((0, 0), (0, 8), (0, 0)))
    mask = np.pad(np.ones((2, 12), bool), ((0, 0), (0, 8)))
    variables = model.init(jax.random.key(0), {"a": padded})
    shorter = model.apply(variables, {"a": values})
    np.testing.assert_allclose(
        shorter, model.apply(variables, {"a": padded}, {"a": mask}), atol=1e-6
    )
    # The steps after the last window that the shorter array fills count too.
    assert abs(shorter - model.apply(variables, {"a": values[:, :8]})).max() > 1e-3
