"""Defects of the authors' baselines: they are gone in ours, and kept in the faithful mode.

Numbers are those of the rows of `SPEC.md`, section 16.
"""

import functools

import jax
import numpy as np
import pytest
import tiny_baselines
import tiny_sft

both = pytest.mark.parametrize(
    ("mode", "right"),
    [pytest.param("", True, id="ours"), pytest.param("_faithful", False, id="theirs")],
)


def _apply(name):
    """Function of parameters and inputs to the logits and all intermediate tensors."""
    model = tiny_baselines.make(name)
    return functools.partial(model.apply, capture_intermediates=True, mutable=True)


_compiled = functools.cache(lambda name: jax.jit(_apply(name)))


def _intermediates(name, sound_seed=0):
    """Intermediate tensors of a model of two fused layers; sound is drawn from its own seed."""
    inputs = tiny_sft.inputs() | {"sound": tiny_sft.inputs(sound_seed)["sound"]}
    variables = tiny_baselines.variables(tiny_baselines.make(name))
    return _compiled(name)(variables, inputs)[1]["intermediates"]


@functools.cache
def _shapes(name):
    """Shapes of the intermediate tensors of a model of two fused layers."""
    variables = tiny_baselines.variables(tiny_baselines.make(name))
    return jax.eval_shape(_apply(name), variables, tiny_sft.inputs())[1]["intermediates"]


def _num_tokens(name, block):
    return _shapes(name)[block]["__call__"][0].mask.shape[1]


@both
def test_2_the_last_n_post_layers_exchange_information(mode, right):
    tokens = [_num_tokens(f"bottleneck{mode}", f"unimodal_sight_{i}") for i in range(3)]
    assert (tokens == [7, 7 + 4, 7 + 4]) == right


@both
def test_2_every_modality_hears_of_the_others(mode, right):
    # Sight comes first: where the modalities take turns, it can hear of sound in the second
    # layer of fusion only, and there is but one.
    cls, other = (_intermediates(f"bottleneck{mode}", seed)["cls"][0] for seed in (0, 1))
    assert (cls != other).any() == right


@both
def test_3_bottleneck_tokens_differ(mode, right):
    last = _intermediates(f"bottleneck{mode}")["unimodal_sight_2"]["__call__"][0]
    bottleneck = np.asarray(last.values[:, -4:])
    assert (np.ptp(bottleneck, axis=1).max() > 1e-3) == right


@both
@pytest.mark.parametrize(
    ("name", "last"), [("concat", "fused_2"), ("unimodal", "unimodal_sight_2")]
)
def test_16_nothing_is_pooled_in_windows_of_another_modality(name, last, mode, right):
    tokens = _num_tokens(name + mode, last)
    assert (tokens == {"concat": 7 + 8, "unimodal": 7}[name]) == right


@both
def test_16_the_last_steps_count(mode, right):
    # Before any block, so that nothing else has seen them. 6 tokens are a window of 4 and a rest.
    model = tiny_baselines.make(f"unimodal{mode}", n_pre=0)
    variables, inputs = tiny_baselines.variables(model), tiny_sft.inputs()
    apply = jax.jit(model.apply)
    logits = apply(variables, inputs)
    # A copy: JAX may read the array later than it is given it.
    later = inputs["sight"] + (np.arange(12) >= 8)[:, None].astype(np.float32)
    other = apply(variables, inputs | {"sight": later})
    assert (other != logits).any(axis=1).all() == right


@both
def test_17_cls_stands_once(mode, right):
    tokens = [_num_tokens(f"late{mode}", f"unimodal_sight_{i}") for i in range(3)]
    assert (tokens == [7, 7, 7]) == right


@both
def test_17_fewer_modalities_do_not_make_a_prediction_less_sure(mode, right):
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    model = tiny_baselines.make(f"late{mode}")
    run = jax.jit(functools.partial(model.apply, tiny_baselines.variables(model), inputs))
    alone = [
        run({n: np.full_like(mask, n == modality) for n, mask in masks.items()})
        for modality in masks
    ]
    logits = run({n: np.ones_like(mask) for n, mask in masks.items()})
    assert np.allclose(logits, sum(alone) / 2, rtol=1e-5, atol=1e-6) == right


def test_18_positions_are_those_of_the_tokenizers_alone():
    model = tiny_baselines.make("crossmodal")
    variables = tiny_baselines.variables(model)
    assert set(variables) == {"params"}
    positions = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(variables)
        if "position" in jax.tree_util.keystr(path)
    ]
    assert positions == [
        f"['params']['tokenizer_{modality}']['position']" for modality in tiny_sft.MODALITIES
    ]


def test_late_fusion_of_one_modality_is_unimodal():
    modalities = {"sight": tiny_sft.MODALITIES["sight"]}
    late, unimodal = (
        tiny_baselines.make(name, modalities=modalities) for name in ("late", "unimodal")
    )
    variables, inputs = tiny_baselines.variables(late), tiny_sft.inputs(modalities=modalities)
    programs = [jax.jit(m.apply).lower(variables, inputs).as_text() for m in (late, unimodal)]
    assert programs[0] == programs[1]
