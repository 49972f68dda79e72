"""Modalities can be left out of an evaluation of every model, and wrong names are errors."""

import jax
import numpy as np
import pytest
import tiny_baselines
import tiny_sft

from sft_jax import Batch, ModalitySpec
from sft_jax.evaluation.evaluator import check_subset, every_subset, restrict

THREE = tiny_sft.MODALITIES | {"touch": ModalitySpec(5, 1)}


@pytest.mark.parametrize("name", ["sft", *tiny_baselines.RIGHT])
def test_leaving_a_modality_out_equals_masking_it(name):
    # test_baselines and test_sft_invariants leave out one of two modalities.
    depth = {"n_pre": int(name == "crossmodal"), "n_post": int(name != "crossmodal")}
    if name == "sft":
        model = tiny_sft.sft(modalities=THREE, **depth)
    else:
        model = tiny_baselines.make(name, modalities=THREE, **depth)
    variables = tiny_sft.normal_variables(model, model.example_inputs())
    inputs = tiny_sft.inputs(modalities=THREE)
    masks = tiny_sft.masks() | {"touch": np.arange(5) < np.array([[5], [0], [2]])}
    masked = masks | {"sound": np.zeros_like(masks["sound"])}
    batch = Batch(inputs, masks, np.zeros(3, np.int32), np.ones(3, np.float32))
    restricted = restrict(batch, ("sight", "touch"))
    assert set(restricted.inputs) == set(restricted.masks) == {"sight", "touch"}
    apply = jax.jit(model.apply)
    expected = apply(variables, inputs, masked)
    assert np.isfinite(expected).all()
    logits = apply(variables, restricted.inputs, restricted.masks)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    if name != "unimodal":
        # The third example never had sound.
        changed = (np.abs(apply(variables, inputs, masks) - expected) > 1e-3).any(axis=1)
        assert changed.tolist() == [True, True, False]


def test_a_subset_is_sorted_and_defaults_to_all():
    model = tiny_sft.sft(modalities=THREE)
    assert check_subset(model) == ("sight", "sound", "touch")
    assert check_subset(model, ["touch", "sight"]) == ("sight", "touch")
    unimodal = tiny_baselines.make("unimodal")
    assert check_subset(unimodal) == ("sight", "sound")
    assert check_subset(unimodal, ["sight"]) == ("sight",)


@pytest.mark.parametrize(
    ("name", "modalities", "message"),
    [
        ("late", [], "at least one must be named; allowed are sight, sound, each once$"),
        ("late", ["smell", "sight", ""], "unknown '', 'smell'; allowed are sight, sound, each"),
        ("late", ["sight", "sound", "sight"], "sight more than once; allowed are sight, sound"),
        ("unimodal", ["sound"], "modalities=sound: the model classifies sight alone, and"),
    ],
)
def test_wrong_modalities(name, modalities, message):
    with pytest.raises(ValueError, match=message):
        check_subset(tiny_baselines.make(name), modalities)


def test_every_subset_comes_once_the_largest_first():
    assert every_subset(tiny_sft.sft(modalities=dict(reversed(THREE.items())))) == [
        ("sight", "sound", "touch"),
        ("sight", "sound"),
        ("sight", "touch"),
        ("sound", "touch"),
        ("sight",),
        ("sound",),
        ("touch",),
    ]
    assert every_subset(tiny_baselines.make("unimodal")) == [("sight",)]
    five = {f"sense{i}": ModalitySpec(3, 1) for i in range(5)}
    with pytest.raises(ValueError, match=r"5 modalities have 31 subsets; .* at most 4 modalities"):
        every_subset(tiny_sft.sft(modalities=five))
