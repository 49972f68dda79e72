"""Multimodal mixup against what the authors' code computed.

| file | what it checks |
| --- | --- |
| `mixup_sft_{within,fused,any}_layer*` | `SparseFusionTransformer` mixed after that layer: all \
intermediate tensors, logits, the mixed loss and, where the file \
has it, the gradient of every parameter |
| `mixup_mbt_any_layer*` | `BottleneckTransformer(faithful=True)`: the same |
"""

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

SFT = ("any_layer0", "any_layer2", "any_layer3", "fused_layer1", "fused_layer3")
FILES = [
    *(f"mixup_sft_{name}" for name in (*SFT, "within_layer0", "within_layer1_pre2")),
    *(f"mixup_mbt_any_layer{i}" for i in (0, 2)),
]


def _load(name, dtype):
    """Model, parameters, inputs, what is mixed, and the names that our tensors have there."""
    arrays, config = reference.load(name)
    ours = reference if config["model"] == "sft" else reference_baselines
    convert = getattr(ours, "sft_parameters", None) or ours.parameters
    model = (getattr(ours, "sft_model", None) or ours.model)(config)
    params, inputs = jax.tree.map(
        lambda a: a.astype(dtype),
        (
            convert(reference.under(arrays, "param/"), config),
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
    gradient = reference.under(arrays, "grad/")
    gradient = convert(gradient, config) if gradient else None  # Not in every file.

    def tensors(intermediates):
        if config["model"] == "sft":
            return ours_under_their_names(intermediates)
        return reference_baselines.tensors(intermediates, config)

    return model, params, inputs, mixup, arrays, gradient, tensors


def _run(name, precision):
    dtype, tolerance = PRECISIONS[precision]
    with jax.enable_x64(precision == "f64"):
        model, params, inputs, mixup, arrays, gradient, tensors = _load(name, dtype)
        everyone = {modality: jnp.ones(3, bool) for modality in inputs}
        share = mixup.label_share(everyone)
        np.testing.assert_allclose(share, arrays["mixup/lam_loss"], rtol=1e-6)
        labels = arrays["in/labels"]

        def loss(params):
            # Theirs is taken in float64; the share of the library is a float32.
            share = arrays["mixup/lam_loss"].astype(dtype)
            logits, state = model.apply(
                {"params": params}, inputs, mixup=mixup, capture_intermediates=True, mutable=True
            )
            own, other = (cross_entropy(logits, y) for y in (labels, labels[mixup.partner]))
            return (share * own + (1 - share) * other).mean(), tensors(state["intermediates"])

        if gradient is None:
            mixed, found = jax.jit(loss)(params)
            return found | {"mixup_loss": mixed}, arrays, None, tolerance
        (mixed, found), found_gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return found | {"mixup_loss": mixed}, arrays, (found_gradient, gradient), tolerance


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("name", FILES)
def test_golden_mixup(name, precision):
    found, arrays, gradients, tolerance = _run(name, precision)
    expected = reference.under(arrays, f"{precision}/")
    assert len(expected) >= 5
    for tensor, value in expected.items():
        np.testing.assert_allclose(
            found[tensor], value, rtol=tolerance, atol=tolerance, err_msg=tensor
        )
    if precision == "f64" and gradients:
        found, expected = (jax.tree.map(np.float32, tree) for tree in gradients)
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)
