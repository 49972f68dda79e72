"""Tiny baselines of two modalities, with parameters that are made without compiling."""

import functools

import jax
import tiny_sft

from sft_jax import ReferenceWindows
from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.mult import CrossmodalTransformer
from sft_jax.modules.simple_fusion import ConcatFusion, LateFusion, Unimodal

WINDOWS = ReferenceWindows(4, 4)
RIGHT = {
    "late": (LateFusion, {}),
    "concat": (ConcatFusion, {}),
    "unimodal": (Unimodal, {"modality": "sight"}),
    "bottleneck": (BottleneckTransformer, {}),
    "crossmodal": (CrossmodalTransformer, {}),
}
FAITHFUL = {
    "late_faithful": (LateFusion, {"faithful": True}),
    "concat_faithful": (ConcatFusion, {"reference_windows": WINDOWS}),
    "unimodal_faithful": (Unimodal, {"modality": "sight", "reference_windows": WINDOWS}),
    "bottleneck_faithful": (BottleneckTransformer, {"faithful": True}),
}
ALL = RIGHT | FAITHFUL


def make(name, **attributes):
    """The model of that name; `n_post` is 2, so that the faithful bottleneck fuses once."""
    module, own = ALL[name]
    defaults = {"num_classes": 4, "modalities": tiny_sft.MODALITIES, "width": 8, "num_heads": 2}
    return module(**defaults | {"n_pre": 1, "n_post": 2} | own | attributes)


_VARIABLES = {}


def variables(model):
    """Normal values for every parameter, biases too; made once for equal models."""
    key = repr(model)
    if key not in _VARIABLES:
        _VARIABLES[key] = tiny_sft.normal_variables(model, model.example_inputs())
    return _VARIABLES[key]


@functools.cache
def compiled(name):
    """Function of inputs, masks and cotangent to logits and gradients, as `tiny_sft.compiled`."""
    model = make(name)
    params = variables(model)

    def total(params, inputs, masks, cotangent):
        logits = model.apply(params, inputs, masks)
        return (logits * cotangent).sum(), logits

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))

    def run(inputs, masks, cotangent):
        (_, logits), gradients = step(params, inputs, masks, cotangent)
        return jax.device_get((logits, gradients))

    return run
