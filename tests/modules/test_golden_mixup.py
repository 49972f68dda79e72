"""Multimodal mixup against what the authors' code computed.

| file | what it checks |
| --- | --- |
| `mixup_sft_{within,fused,any}_layer*` | `SparseFusionTransformer` mixed after that layer: all \
intermediate tensors, logits, the mixed loss and, where the file \
has it, the gradient of every parameter |
| `mixup_mbt_any_layer*` | `BottleneckTransformer(faithful=True)`: the same |
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_baselines
from test_golden_sft import PRECISIONS, ours_under_their_names

from sft_jax.ops.losses import cross_entropy
from sft_jax.ops.mixup import Mixup

FILES = reference.names("mixup_*")


def _load(name):
    """Our model, what is mixed, all that a file holds, and how our tensors get its names."""
    arrays, config = reference.load(name)
    mixup = Mixup(
        partner=jnp.asarray(arrays["mixup/index"], jnp.int32),
        shares={
            modality: jnp.asarray(share, jnp.float32)
            for modality, share in zip(reference.MODALITIES, arrays["mixup/lam"], strict=True)
        },
        layer=jnp.asarray(arrays["mixup/interp_layer"], jnp.int32),
    )
    if config["model"] == "sft":
        return reference.sft_model(config), mixup, arrays, ours_under_their_names
    tensors = functools.partial(reference_baselines.tensors, config=config)
    return reference_baselines.model(config), mixup, arrays, tensors


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("name", FILES)
def test_golden_mixup(name, precision):
    dtype, tolerance = PRECISIONS[precision]
    model, mixup, arrays, tensors = _load(name)
    params, inputs = jax.tree.map(
        lambda a: a.astype(dtype),
        (
            reference.parameters(reference.under(arrays, "param/"), model),
            {modality: arrays[f"in/{modality}"] for modality in reference.MODALITIES},
        ),
    )
    labels = arrays["in/labels"]
    share = mixup.label_share(dict.fromkeys(inputs, jnp.ones(len(labels), bool)))
    np.testing.assert_allclose(share, arrays["mixup/lam_loss"], rtol=1e-6)
    # Theirs is taken in float64, and ours in float32.
    share = arrays["mixup/lam_loss"].astype(dtype)

    def mixed_loss(logits):
        own, other = (cross_entropy(logits, y) for y in (labels, labels[mixup.partner]))
        return (share * own + (1 - share) * other).mean()

    gradient = reference.under(arrays, "grad/")  # Not in every file.
    with jax.enable_x64(precision == "f64"):
        intermediates, loss, found_gradient = reference.run(
            model,
            params,
            inputs,
            mixed_loss,
            gradient=precision == "f64" and bool(gradient),
            mixup=mixup,
        )
        found = tensors(intermediates) | {"mixup_loss": loss}
    expected = reference.under(arrays, f"{precision}/")
    assert len(expected) >= 5
    reference.assert_equal(found, expected, tolerance)
    if found_gradient is not None:
        expected = reference.parameters(gradient, model, np.float32)
        chex.assert_trees_all_close(found_gradient, expected, rtol=1e-5, atol=1e-7)
