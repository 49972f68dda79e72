"""Models of an image and a sequence: as if the patches were a sequence, and blind to masks."""

import functools

import chex
import jax
import numpy as np
import patches
import pytest
import tiny_sft

from sft_jax import ConcatFusion, ModalitySpec, ReferenceWindows

SOUND = ModalitySpec(7, 2)
IMAGE = ModalitySpec((5, 7), 2, patch_size=(2, 3))
MODALITIES = {"image": IMAGE, "sound": SOUND}
AS_SEQUENCE = {"image": ModalitySpec(IMAGE.num_tokens, 2 * 3 * 2), "sound": SOUND}
COTANGENT = np.random.default_rng(9).normal(size=(tiny_sft.BATCH, 4)).astype(np.float32)


def _inputs():
    return tiny_sft.inputs(modalities=MODALITIES)


def _masks():
    """Holes, some of them whole patches; only the first rows; no image at all."""
    mask = np.ones((tiny_sft.BATCH, 5, 7), bool)
    mask[0, :2, 3:6] = mask[0, 4, ::2] = mask[0, 1, 1] = False
    mask[1, 2:] = False
    mask[2] = False
    return {"image": mask, "sound": np.ones((tiny_sft.BATCH, 7), bool)}


@functools.cache
def _compiled(spec):
    """The logits, and gradients in the parameters and the inputs."""
    model = tiny_sft.sft(modalities={"image": spec, "sound": SOUND})

    def total(variables, inputs, masks):
        logits = model.apply(variables, inputs, masks)
        return (logits * COTANGENT).sum(), logits

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))

    def run(inputs, masks):
        variables = tiny_sft.variables(tiny_sft.sft(modalities=MODALITIES))
        (_, logits), gradients = step(variables, inputs, masks)
        return jax.device_get((logits, gradients))

    return run


def test_an_image_is_as_the_sequence_of_its_patches():
    inputs, masks = _inputs(), _masks()
    cut, real = patches.by_hand(inputs["image"], masks["image"], (2, 3))
    assert set(real.sum(axis=1)) == {0, 3, 7}
    logits, (param_gradients, _) = _compiled(IMAGE)(inputs, masks)
    expected, (expected_gradients, _) = _compiled(AS_SEQUENCE["image"])(
        inputs | {"image": cut}, masks | {"image": real}
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(param_gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_masked_pixels_have_no_effect():
    inputs, masks = _inputs(), _masks()
    logits, gradients = _compiled(IMAGE)(inputs, masks)
    gradient = gradients[1]["image"]
    assert (gradient[~masks["image"]] == 0).all()
    assert (gradient[:2][masks["image"][:2]] != 0).any(axis=0).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((logits, gradients)))
    for garbage in (np.nan, np.inf):
        spoiled = np.where(masks["image"][..., None], inputs["image"], np.float32(garbage))
        again = _compiled(IMAGE)(inputs | {"image": spoiled}, masks)
        chex.assert_trees_all_equal(again, (logits, gradients))


def test_rows_left_out_are_as_masked_ones():
    inputs, masks = _inputs(), _masks()
    masks["image"][...] = True
    masks["image"][:, 3:] = False
    logits, _ = _compiled(IMAGE)(inputs, masks)
    model = tiny_sft.sft(modalities=MODALITIES)
    first_rows = inputs | {"image": inputs["image"][:, :3]}
    first_logits = jax.jit(model.apply)(tiny_sft.variables(model), first_rows)
    np.testing.assert_allclose(first_logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("windows", [None, ReferenceWindows(12, 4)])
def test_an_image_left_out_is_as_a_masked_one(windows):
    inputs, masks = _inputs(), _masks()
    masks["image"][...] = False
    model = ConcatFusion(4, MODALITIES, 8, 2, n_pre=0, n_post=1, reference_windows=windows)
    variables = tiny_sft.normal_variables(model, model.example_inputs())
    without_image = jax.jit(model.apply)(variables, {"sound": inputs["sound"]})
    expected = jax.jit(model.apply)(variables, inputs, masks)
    np.testing.assert_allclose(without_image, expected, rtol=1e-5, atol=1e-6)
