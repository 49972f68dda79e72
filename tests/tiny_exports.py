"""Tiny classifiers to export, with raw inputs, and their outputs by JAX."""

import dataclasses

import jax
import numpy as np
import tiny_sft

from sft_jax import ModalitySpec
from sft_jax.data.dataset import DatasetInfo, Standardisation
from sft_jax.export.program import activated
from sft_jax.export.written import Bundle

# A sequence and a picture whose patches don't divide it.
MODALITIES = {"sight": ModalitySpec((5, 4), 2, (2, 3)), "sound": ModalitySpec(7, 2, 2)}
BATCH = 6


def info(task="single_label", modalities=MODALITIES):
    """Description of data whose means are far larger than their deviations."""
    statistics = {
        name: Standardisation(
            mean=tuple(1000.1 + i for i in range(spec.features)),
            std=tuple(0.5 + i for i in range(spec.features)),
        )
        for name, spec in modalities.items()
    }
    names = ("a", "b", "c", "d")
    return DatasetInfo(dict(modalities), names, statistics, {"train": 9}, task)


def classifier(model=None, *, modalities=MODALITIES, **attributes):
    """Classifier of a model, by default a tiny SFT, with normal parameters."""
    if model is None:
        model = tiny_sft.sft(modalities=modalities, **attributes)
    params = tiny_sft.normal_variables(model, model.example_inputs())["params"]
    return Bundle(model, params, info(model.task, modalities))


def with_summary(length=8, **attributes):
    """Classifier of a sequence, and of a modality that is derived from it."""
    modalities = {"touch": ModalitySpec(length, 2, 3), "touch_summary": ModalitySpec(1, 24)}
    own = classifier(modalities=modalities, k={"touch": 2, "touch_summary": 1}, **attributes)
    described = dataclasses.replace(own.info, derived={"touch_summary": "summary:touch"})
    return dataclasses.replace(own, info=described)


def raw_inputs(modalities=MODALITIES, batch=BATCH):
    """Raw values, and masks: all real, holes, one real position, and modalities absent."""
    random = np.random.default_rng(0)
    values, masks = {}, {}
    for i, (name, spec) in enumerate(modalities.items()):
        values[name] = 1000 + random.normal(size=(batch, *spec.shape)).astype(np.float32)
        masks[name] = np.ones((batch, *spec.lengths), bool)
        masks[name][1] = random.random(spec.lengths) < 0.6
        masks[name][2] = False
        masks[name][2].flat[3] = True
        masks[name][3 + i % 2] = False
    for name in values:
        masks[name][5] = False  # Nothing at all.
        values[name][~masks[name]] = np.nan
    return values, masks


def expected(classifier, values, masks):
    """Outputs of the model, standardised in float64."""
    inputs = {
        name: np.where(masks[name][..., None], classifier.info.statistics[name].apply(a), 0)
        for name, a in values.items()
    }
    variables = {"params": classifier.params}
    logits = jax.jit(classifier.model.apply)(variables, inputs, masks)
    return np.asarray(activated(classifier.model.task, logits))
