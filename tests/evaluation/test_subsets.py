"""Modalities may be left out of an evaluation of every model, and wrong names are errors."""

import jax
import numpy as np
import pytest
import tiny_baselines
import tiny_sft

from sft_jax import Batch, ModalitySpec
from sft_jax.evaluation import subsets

THREE = tiny_sft.MODALITIES | {"touch": ModalitySpec(5, 1)}


@pytest.mark.parametrize("name", ["sft", *tiny_baselines.RIGHT])
def test_two_of_three_are_as_good_as_the_third_masked(name):
    # One of two is in test_baselines and test_sft_invariants.
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
    given = subsets.restrict(batch, ("sight", "touch"))
    assert set(given.inputs) == set(given.masks) == {"sight", "touch"}
    apply = jax.jit(model.apply)
    expected = apply(variables, inputs, masked)
    assert np.isfinite(expected).all()
    found = apply(variables, given.inputs, given.masks)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    if name != "unimodal":
        # The third example has no sound to begin with.
        changed = (np.abs(apply(variables, inputs, masks) - expected) > 1e-3).any(axis=1)
        assert changed.tolist() == [True, True, False]


def test_the_given_are_sorted_and_all_by_default():
    model = tiny_sft.sft(modalities=THREE)
    assert subsets.check_subset(model) == ("sight", "sound", "touch")
    assert subsets.check_subset(model, ["touch", "sight"]) == ("sight", "touch")
    unimodal = tiny_baselines.make("unimodal")
    assert subsets.check_subset(unimodal) == ("sight", "sound")
    assert subsets.check_subset(unimodal, ["sight"]) == ("sight",)


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
        subsets.check_subset(tiny_baselines.make(name), modalities)


def test_every_subset_is_there_once_the_largest_first():
    assert subsets.every_subset(tiny_sft.sft(modalities=dict(reversed(THREE.items())))) == [
        ("sight", "sound", "touch"),
        ("sight", "sound"),
        ("sight", "touch"),
        ("sound", "touch"),
        ("sight",),
        ("sound",),
        ("touch",),
    ]
    assert subsets.every_subset(tiny_baselines.make("unimodal")) == [("sight",)]
    five = {f"sense{i}": ModalitySpec(3, 1) for i in range(5)}
    with pytest.raises(ValueError, match=r"5 modalities have 31 subsets; .* at most 4 modalities"):
        subsets.every_subset(tiny_sft.sft(modalities=five))


@pytest.mark.parametrize(("left_out", "stem"), [([], "test"), (["touch"], "test-sight-sound")])
def test_files_are_called_after_what_was_given(left_out, stem):
    result = {"split": "test", "modalities": ["sight", "sound"], "left_out": left_out}
    assert subsets.file_stem(result) == stem


def test_results_of_different_things_have_different_names():
    def stem(split="test", modalities=(), **others):
        return subsets.file_stem(
            {"split": split, "modalities": [*modalities], "left_out": [*modalities], **others}
        )

    assert stem(checkpoint="best", data="own") == "test"
    assert stem(checkpoint="latest") == "test@latest"
    assert (
        stem(checkpoint="120", data="a" * 64, modalities=["x", "y"]) == "test-x-y@120+" + "a" * 12
    )
    names = [stem(), stem("test-x"), stem(modalities=["x"]), stem("test@1"), stem(checkpoint="1")]
    names += [stem("../test"), stem("a/b"), stem("ä"), stem("."), stem("a+b"), stem("a", data="b")]
    assert len(set(names)) == len(names)
    assert not any(mark in name for name in names for mark in "/.")
    long = [f"modality_{i}" for i in range(40)]
    assert len(stem(modalities=long)) < 100
    assert stem(modalities=long) != stem(modalities=long[1:])
