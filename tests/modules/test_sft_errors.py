"""Each wrong attribute or input is named, with what is allowed."""

import jax
import numpy as np
import pytest
import tiny_sft

from sft_jax import ModalitySpec, ReferenceWindows

SIGHT = np.zeros((2, 12, 3), np.float32)
SOUND = np.zeros((2, 7, 2), np.float32)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"pool": "mean"}, "pool='mean' is not one of max, avg, .*, evit, none"),
        ({"k": 7}, "k=7 for modality 'sight', which has 6 tokens to choose from"),
        ({"k": 0}, "k=0 for modality 'sight'.* must be from 1 to 6"),
        ({"k": {"sight": 1}}, r"k names \['sight'\], the modalities are \['sight', 'sound'\]"),
        ({"k": {"sight": 1, "sound": 8}}, "k=8 for modality 'sound', which has 7 tokens"),
        ({"num_heads": 3}, "num_heads=3 does not divide width=8"),
        ({"num_heads": 0}, "num_heads=0 must be at least 1"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"n_pre": -1}, "n_pre=-1 must be at least 0"),
        ({"n_post": -1}, "n_post=-1 must be at least 0"),
        ({"embedding_std": 0.0}, "embedding_std=0.0 must be above 0"),
        ({"dropout": 1.5}, "dropout=1.5 must be at least 0 and below 1"),
        ({"modalities": {}}, "at least one modality"),
        ({"modalities": {"a b": ModalitySpec(3, 1)}}, "modality 'a b': a name is made of"),
        (
            {"reference_windows": {"smell": ReferenceWindows(2, 2)}},
            r"reference_windows names \['smell'\], the modalities are \['sight', 'sound'\]",
        ),
        (
            {"reference_windows": {"sight": ReferenceWindows(2, 2)}, "k": 9, "pool": "max"},
            "k=9 for modality 'sound'",
        ),
        ({"pool": "mean", "num_heads": 3}, "num_heads=3 .*; pool='mean'"),
    ],
)
def test_wrong_attribute(attributes, message):
    model = tiny_sft.sft(**attributes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())


@pytest.mark.parametrize(
    ("inputs", "masks", "message"),
    [
        ({"smell": SIGHT}, {}, r"unknown modality 'smell' in inputs, known are \['sight', 'sound'"),
        ({"sight": SIGHT}, {"smell": SIGHT}, "unknown modality 'smell' in masks"),
        ({"sight": SIGHT}, {"sound": SOUND}, "modality 'sound' has a mask but no input"),
        ({}, {}, r"no modality given, known are \['sight', 'sound'\]"),
        ({"sight": SIGHT[0]}, {}, r"'sight': expected .*\[batch, 1 to 12, 3\], got \[12, 3\]"),
        ({"sight": SIGHT[0, 0, 0]}, {}, r"'sight': expected .*, got \[\]"),
        ({"sight": SIGHT[..., :2]}, {}, r"'sight': expected .*, got \[2, 12, 2\]"),
        ({"sight": np.zeros((2, 13, 3))}, {}, r"'sight': expected .*, got \[2, 13, 3\]"),
        ({"sight": SIGHT[:, :0]}, {}, r"'sight': expected .*, got \[2, 0, 3\]"),
        ({"sight": SIGHT.astype(int)}, {}, "'sight': expected floats, got int"),
        (
            {"sight": SIGHT},
            {"sight": np.ones((2, 11), bool)},
            r"mask of modality 'sight': expected booleans of \[2, 12\], got bool of \[2, 11\]",
        ),
        ({"sight": SIGHT}, {"sight": np.ones((2, 12))}, "'sight': expected booleans .* got float"),
        (
            {"sight": SIGHT, "sound": SOUND[:1]},
            {},
            "differ in batch size: {'sight': 2, 'sound': 1}",
        ),
        ({"smell": SIGHT, "sight": SIGHT[0]}, {}, "unknown modality 'smell'.*; modality 'sight'"),
    ],
)
def test_wrong_input(inputs, masks, message):
    model = tiny_sft.sft()
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, tiny_sft.variables(model), inputs, masks)


def test_initialising_needs_every_modality():
    with pytest.raises(ValueError, match=r"init needs every modality, missing \['sound'\]"):
        jax.eval_shape(tiny_sft.sft().init, jax.random.key(0), {"sight": SIGHT})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((0, 3), "ModalitySpec.length must be an integer >= 1, got 0"),
        ((3, 1.5), "ModalitySpec.features must be an integer >= 1, got 1.5"),
        ((3, 3, 4), "ModalitySpec.patch_size=4 exceeds length=3"),
    ],
)
def test_wrong_modality_spec(spec, message):
    with pytest.raises(ValueError, match=message):
        ModalitySpec(*spec)
