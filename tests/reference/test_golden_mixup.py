"""Multimodal mixup against what the authors' code computed.

| file | what it checks |
| --- | --- |
| `mixup_sft_{within,fused,any}_layer*` | `SparseFusionTransformer` mixed after that layer: all \
intermediate tensors, logits, the mixed loss and, where the file \
has it, the gradient of every parameter |
| `mixup_mbt_any_layer*` | `BottleneckTransformer(faithful=True)`: the same |
"""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_baselines
from sparing import PRECISIONS, files
from test_golden_sft import TYPES, ours_under_their_names

from sft_jax.ops.losses import cross_entropy
from sft_jax.ops.mixup import Mixup

FILES = reference.names("mixup_*")


def _model(config):
    """Our model, and the function that gives what it computed the names of the arrays."""
    if config["model"] == "sft":
        return reference.sft_model(config), ours_under_their_names
    tensors = functools.partial(reference_baselines.tensors, config=config)
    return reference_baselines.model(config), tensors


@functools.cache
def _compiled(config, precision):
    """Loss, tensors and gradient, in one program for all layers and shares."""
    model, tensors = _model(json.loads(config))

    def loss(params, inputs, mixup, labels, share):
        logits, state = model.apply(
            {"params": params}, inputs, mixup=mixup, capture_intermediates=True, mutable=True
        )
        own, other = (cross_entropy(logits, y) for y in (labels, labels[mixup.partner]))
        return (share * own + (1 - share) * other).mean(), tensors(state["intermediates"])

    # In float32 the gradient is not looked at.
    if precision == "f32":
        return jax.jit(lambda *args: (loss(*args), None))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", files(FILES))
def test_golden_mixup(name, precision):
    dtype, tolerance = TYPES[precision]
    arrays, config = reference.load(name)
    model, _ = _model(config)
    params, inputs = jax.tree.map(
        lambda a: a.astype(dtype),
        (
            reference.parameters(reference.under(arrays, "param/"), model),
            {modality: arrays[f"in/{modality}"] for modality in reference.MODALITIES},
        ),
    )
    mixup = Mixup(
        partner=jnp.asarray(arrays["mixup/index"], jnp.int32),
        shares={
            modality: jnp.asarray(share, jnp.float32)
            for modality, share in zip(reference.MODALITIES, arrays["mixup/lam"], strict=True)
        },
        layer=jnp.asarray(arrays["mixup/interp_layer"], jnp.int32),
    )
    labels = jnp.asarray(arrays["in/labels"], jnp.int32)
    share = mixup.label_share(dict.fromkeys(inputs, jnp.ones(len(labels), bool)))
    np.testing.assert_allclose(share, arrays["mixup/lam_loss"], rtol=1e-6)
    # Theirs is taken in float64, and ours in float32.
    share = arrays["mixup/lam_loss"].astype(dtype)
    same = json.dumps({key: value for key, value in config.items() if key != "mixup"})
    with jax.enable_x64(precision == "f64"):
        run = _compiled(same, precision)
        (loss, tensors), gradient = run(params, inputs, mixup, labels, share)
    expected = reference.under(arrays, f"{precision}/")
    assert len(expected) >= 5
    reference.assert_equal(tensors | {"mixup_loss": loss}, expected, tolerance)
    loss_gradient = reference.under(arrays, "grad/")  # Not in every file.
    if precision == "f64" and loss_gradient:
        expected = reference.parameters(loss_gradient, model, np.float32)
        gradient = jax.tree.map(np.float32, gradient)
        chex.assert_trees_all_close(gradient, expected, rtol=1e-5, atol=1e-7)
