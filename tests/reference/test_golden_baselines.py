"""The baselines, in the mode that reproduces them, against what the authors' code computed.

| file | what it checks |
| --- | --- |
| `latefuse_{poolk,ks}` | `LateFusion(faithful=True)`: all blocks, CLS, logits |
| `concat_{poolk,ks}` | `ConcatFusion(reference_windows=...)`: all blocks, CLS, logits |
| `unimodal_{rgb,spec,text}_{poolk,ks}` | `Unimodal(reference_windows=...)`: the same |
| `mbt_{poolk,ks}` | `BottleneckTransformer(faithful=True)`: all blocks, CLS, logits |
| `MulT_{1_0,2_2}` | `CrossmodalTransformer`: all layers, the joined and final CLS, logits |
| those of `poolk`, and `MulT_2_2` | the loss, and the gradient of every parameter too |
"""

import functools

import chex
import jax
import numpy as np
import pytest
import reference
import reference_baselines
from sparing import PRECISIONS, files

FILES = reference.names("latefuse_*", "concat_*", "unimodal_*", "mbt_*", "MulT_*")


@functools.cache
def _load(name):
    """Config, our model, its parameters and inputs, and all else that a file holds."""
    arrays, config = reference.load(name)
    model = reference_baselines.model(config)
    params = reference.parameters(reference.under(arrays, "param/"), model)
    inputs = {modality: arrays[f"in/{modality}"] for modality in reference.MODALITIES}
    return config, model, (params, inputs), arrays


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", files(FILES))
def test_golden_baseline(name, precision):
    dtype, tolerance = {"f32": (np.float32, 1e-5), "f64": (np.float64, 1e-10)}[precision]
    config, model, arguments, arrays = _load(name)
    params, inputs = jax.tree.map(lambda a: a.astype(dtype), arguments)
    loss_gradient = reference.under(arrays, "grad/")  # Not in every file.
    gradient = precision == "f64" and bool(loss_gradient)
    with jax.enable_x64(precision == "f64"):
        loss_of = reference.cross_entropy(arrays["in/labels"])
        intermediates, loss, found_gradient = reference.run(
            model, params, inputs, loss_of, gradient=gradient
        )
        tensors = reference_baselines.tensors(intermediates, config) | {"ce_loss": loss}
    assert tensors["logits"].dtype == dtype
    # The tensors that a file holds in float64 only are exact enough for float32 as well.
    expected = reference.under(arrays, "f64/")
    if precision == "f32":
        expected |= reference.under(arrays, "f32/")
    blocks = [tensor for tensor in expected if "block" in tensor or "trans_" in tensor]
    assert len(blocks) >= config["n_layers_pre_fusion"] + config["n_layers_post_fusion"]
    reference.assert_equal(tensors, expected, tolerance)
    if gradient:
        expected = reference.parameters(loss_gradient, model, np.float32)
        chex.assert_trees_all_close(found_gradient, expected, rtol=1e-5, atol=1e-8)
