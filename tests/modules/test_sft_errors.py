"""Each wrong attribute or input is named, with what is allowed."""

import jax
import numpy as np
import pytest
import tiny_sft

from sft_jax import ModalitySpec, ReferenceWindows
from sft_jax.modules.inputs import check_inputs

SIGHT = np.zeros((2, 12, 3), np.float32)
SOUND = np.zeros((2, 7, 2), np.float32)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"pool": "mean"}, "pool='mean' is not one of max, avg, .*, evit, .*none"),
        ({"k": 7}, "k=7 for modality 'sight', which has 6 tokens to choose from"),
        ({"k": -1}, "k=-1 for modality 'sight'.* must be from 0 to 6"),
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
        ({"parts": -1}, "parts=-1 must be at least 1"),
        (
            {"attention_kernel": "fast"},
            "attention_kernel='fast' is not one of auto, plain, tiled, flash, cudnn",
        ),
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


IMAGE = np.zeros((2, 6, 5, 3), np.float32)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (
            IMAGE[:, :, :4],
            None,
            r"'image': expected .*\[batch, 1 to 6, 5, 3\], got \[2, 6, 4, 3\]",
        ),
        (IMAGE[:, :, [0, *range(5)]], None, r"'image': expected .*, got \[2, 6, 6, 3\]"),
        (IMAGE[:, [0, *range(6)]], None, r"'image': expected .*, got \[2, 7, 5, 3\]"),
        (IMAGE[:, :0], None, r"'image': expected .*, got \[2, 0, 5, 3\]"),
        (IMAGE[..., :2], None, r"'image': expected .*, got \[2, 6, 5, 2\]"),
        (IMAGE[..., 0], None, r"'image': expected .*, got \[2, 6, 5\]"),
        (IMAGE[:, :, None], None, r"'image': expected .*, got \[2, 6, 1, 5, 3\]"),
        (
            IMAGE,
            np.ones((2, 6), bool),
            r"mask of modality 'image': expected booleans of \[2, 6, 5\], got bool of \[2, 6\]",
        ),
        (IMAGE, np.ones((2, 6, 5, 3), bool), r"'image': expected .* of \[2, 6, 5\], got bool of"),
    ],
)
def test_wrong_input_of_several_axes(image, mask, message):
    modalities = {"image": ModalitySpec((6, 5), 3)}
    with pytest.raises(ValueError, match=message):
        check_inputs(modalities, {"image": image}, {} if mask is None else {"image": mask})


def test_initialising_needs_every_modality():
    with pytest.raises(ValueError, match=r"init needs every modality, missing \['sound'\]"):
        jax.eval_shape(tiny_sft.sft().init, jax.random.key(0), {"sight": SIGHT})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((0, 3), "ModalitySpec.length must be an integer >= 1, or a tuple of .*, got 0"),
        (((), 3), r"ModalitySpec.length must be .*, got \(\)"),
        (((4, 0), 3), r"ModalitySpec.length must be .*, got \(4, 0\)"),
        (("28", 3), "ModalitySpec.length must be .*, got '28'"),
        ((3, 3, 0), "ModalitySpec.patch_size must be an integer >= 1, or a tuple .*, got 0"),
        (((4, 4), 3, [2, 1.5]), r"ModalitySpec.patch_size must be .*, got \(2, 1.5\)"),
        ((3, 1.5), "ModalitySpec.features must be an integer >= 1, got 1.5"),
        ((3, (3,)), r"ModalitySpec.features must be an integer >= 1, got \(3,\)"),
        ((3, 3, 4), "ModalitySpec.patch_size=4 exceeds length=3"),
        (((4, 3), 3, 4), r"ModalitySpec.patch_size=4 exceeds length=\(4, 3\)"),
        (((4, 3), 3, (2,)), r"patch_size=\(2,\) has 1 axes, but length=\(4, 3\) has 2; one"),
        ((4, 3, (2, 2)), r"patch_size=\(2, 2\) has 2 axes, but length=4 has 1"),
    ],
)
def test_wrong_modality_spec(spec, message):
    with pytest.raises(ValueError, match=message):
        ModalitySpec(*spec)
