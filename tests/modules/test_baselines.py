"""Invariants of every baseline; in the faithful mode those of padding and of wrong input."""

import functools

import chex
import flax.errors
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_baselines
import tiny_sft
from sparing import slow_but

from sft_jax import ModalitySpec

every_model = pytest.mark.parametrize("name", tiny_baselines.ALL)
every_right_model = pytest.mark.parametrize("name", tiny_baselines.RIGHT)
COTANGENT = np.random.default_rng(9).normal(size=(tiny_sft.BATCH, 4)).astype(np.float32)
THREE = tiny_sft.MODALITIES | {"touch": ModalitySpec(5, 1)}


def _all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@every_model
def test_masked_steps_have_no_effect(name):
    run, inputs, masks = tiny_baselines.compiled(name), tiny_sft.inputs(), tiny_sft.masks()
    logits, gradients = run(inputs, masks, COTANGENT)
    assert _all_finite((logits, gradients))
    for modality, gradient in gradients[1].items():
        assert (gradient[~masks[modality]] == 0).all()
    for garbage in (np.nan, np.inf, -3e38, 0.0):
        spoiled = {
            modality: np.where(masks[modality][..., None], values, np.float32(garbage))
            for modality, values in inputs.items()
        }
        chex.assert_trees_all_equal(run(spoiled, masks, COTANGENT), (logits, gradients))


@every_right_model
def test_other_examples_have_no_effect(name):
    run, inputs, masks = tiny_baselines.compiled(name), tiny_sft.inputs(), tiny_sft.masks()
    cotangent = COTANGENT * np.float32([[0], [1], [0]])
    logits, gradients = run(inputs, masks, cotangent)
    others = {modality: values.copy() for modality, values in tiny_sft.inputs(seed=1).items()}
    other_masks = {modality: mask[::-1].copy() for modality, mask in masks.items()}
    for modality in others:
        others[modality][1] = inputs[modality][1]
        other_masks[modality][1] = masks[modality][1]
    again, other_gradients = run(others, other_masks, cotangent)
    np.testing.assert_array_equal(again[1], logits[1])
    assert (again[[0, 2]] != logits[[0, 2]]).all()
    chex.assert_trees_all_close(other_gradients, gradients, rtol=1e-5, atol=1e-6)


@every_model
@pytest.mark.parametrize("kept", tiny_sft.MODALITIES)
def test_absence_equals_omission_and_padding_equals_cutting(name, kept):
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    for modality in set(masks) - {kept}:
        masks[modality][0] = False
    masks[kept][0] = np.arange(masks[kept].shape[1]) < 4
    logits, gradients = tiny_baselines.compiled(name)(inputs, masks, COTANGENT)
    assert _all_finite((logits, gradients))
    # The first example alone: what stands beside it in the batch has no effect either.
    model = tiny_baselines.make(name)
    alone = jax.jit(model.apply)(tiny_baselines.variables(model), {kept: inputs[kept][:1, :4]})
    np.testing.assert_allclose(alone, logits[:1], rtol=1e-4, atol=1e-5)


@every_right_model
def test_a_modality_absent_everywhere_is_not_trained(name):
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    masks["sound"][:] = False
    _, (gradients, _) = tiny_baselines.compiled(name)(inputs, masks, COTANGENT)
    gradients = flax.traverse_util.flatten_dict(gradients["params"], sep="/")
    sound = {path: g for path, g in gradients.items() if path.startswith("tokenizer_sound")}
    sound |= {path: g for path, g in gradients.items() if path.startswith("unimodal_sound")}
    assert sound or "unimodal" in name
    assert all((leaf == 0).all() for leaf in sound.values())


@every_right_model
def test_an_example_without_any_modality_is_finite(name):
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    for mask in masks.values():
        mask[0] = False
    run = tiny_baselines.compiled(name)
    result = run(inputs, masks, COTANGENT)
    assert _all_finite(result)
    others = {modality: values + 1 for modality, values in inputs.items()}
    logits, _ = run(others, masks, COTANGENT)
    np.testing.assert_array_equal(logits[0], result[0][0])


@every_right_model
def test_every_real_step_and_every_parameter_has_an_effect(name):
    masks = {modality: np.ones_like(mask) for modality, mask in tiny_sft.masks().items()}
    run = tiny_baselines.compiled(name)
    _, (param_gradients, input_gradients) = run(tiny_sft.inputs(), masks, COTANGENT)
    if name == "unimodal":
        assert (input_gradients.pop("sound") == 0).all()
    assert all((gradient != 0).all() for gradient in input_gradients.values())
    for path, gradient in flax.traverse_util.flatten_dict(param_gradients).items():
        # To add the same to every key changes no softmax.
        assert path[-2:] == ("key", "bias") or (gradient != 0).any(), path


@pytest.mark.parametrize("name", slow_but(tiny_baselines.ALL, "bottleneck"))
def test_the_order_of_modalities_does_not_change_the_program(name):
    drawn = tiny_sft.inputs(modalities=THREE)
    masks = {modality: np.ones(values.shape[:2], bool) for modality, values in drawn.items()}
    variables = tiny_baselines.variables(tiny_baselines.make(name, modalities=THREE))

    def program(modalities):
        model = tiny_baselines.make(name, modalities=modalities)
        shapes = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
        chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)
        # Not an argument of the compiled function: JAX would sort it.
        ordered = [{modality: a[modality] for modality in modalities} for a in (drawn, masks)]
        return (
            jax.jit(lambda variables: model.apply(variables, *ordered)).lower(variables).as_text()
        )

    assert program(THREE) == program(dict(reversed(THREE.items())))


@pytest.mark.parametrize("count", [1, 3])
@every_right_model
def test_any_number_of_modalities(name, count):
    modalities = dict(list(THREE.items())[:count])
    model = tiny_baselines.make(name, modalities=modalities)
    if name == "crossmodal" and count == 1:
        with pytest.raises(ValueError, match=r"needs at least 2 modalities, got \['sight'\]"):
            tiny_baselines.variables(model)
        return
    inputs = tiny_sft.inputs(modalities=modalities)
    logits = jax.eval_shape(model.apply, tiny_baselines.variables(model), inputs)
    assert (logits.shape, logits.dtype) == ((tiny_sft.BATCH, 4), np.float32)


@every_right_model
def test_bfloat16_logits_are_float32(name):
    model = tiny_baselines.make(name, dtype=jnp.bfloat16)
    variables = tiny_baselines.variables(model)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    apply = functools.partial(model.apply, mutable=["intermediates"])
    logits, state = jax.eval_shape(apply, variables, tiny_sft.inputs(), tiny_sft.masks())
    assert logits.dtype == jnp.float32
    assert {cls.dtype for cls in state["intermediates"]["cls"]} == {jnp.dtype(jnp.bfloat16)}


@every_right_model
def test_dropout_is_for_training_alone(name):
    model = tiny_baselines.make(name, dropout=0.5)
    run = functools.partial(model.apply, tiny_baselines.variables(model), tiny_sft.inputs())
    jax.eval_shape(run)  # Without a key, Flax would refuse to draw.
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(functools.partial(run, train=True))
    jax.eval_shape(lambda: run(train=True, rngs={"dropout": jax.random.key(0)}))


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("late", {"width": 0}, "LateFusion: width=0 must be at least 1"),
        ("late", {"num_heads": 3, "n_pre": -1}, "n_pre=-1 .*; num_heads=3 does not divide width=8"),
        ("late", {"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ("concat", {"embedding_std": 0.0}, "embedding_std=0.0 must be above 0"),
        ("concat", {"modalities": {}}, "at least one modality"),
        ("concat_faithful", {"n_pre": 0, "n_post": 0}, "after the first block, and there is none"),
        ("unimodal", {"modality": "smell"}, "modality='smell' is not one of sight, sound"),
        ("unimodal", {"modality": None}, "modality=None is not one of sight, sound"),
        ("bottleneck", {"num_bottlenecks": 0}, "num_bottlenecks=0 must be at least 1"),
        ("crossmodal", {"n_pre": 0}, "n_pre=0 must be at least 1"),
    ],
)
def test_wrong_attribute(name, attributes, message):
    with pytest.raises(ValueError, match=message):
        tiny_baselines.variables(tiny_baselines.make(name, **attributes))


@every_model
def test_wrong_input(name):
    model = tiny_baselines.make(name)
    variables = tiny_baselines.variables(model)
    for inputs, message in (
        ({"smell": np.zeros((2, 3, 1), np.float32)}, "unknown modality 'smell'"),
        ({"sight": np.zeros((2, 13, 3), np.float32)}, "'sight': expected an array of"),
        ({}, "no modality given"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.apply, variables, inputs)
    sound = {"sound": tiny_sft.inputs()["sound"]}
    with pytest.raises(ValueError, match="init needs"):
        jax.eval_shape(model.init, jax.random.key(0), sound)
