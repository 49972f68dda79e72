"""Classifiers with random parameters and made-up data, whose raw values are far from standard."""

import jax
import numpy as np
import tiny_sft

from sft_jax import ModalitySpec
from sft_jax.data.dataset import DatasetInfo, Standardisation
from sft_jax.export.program import raw_program
from sft_jax.export.written import Bundle

# An image whose size the patch does not divide, and a sequence with a large offset.
MODALITIES = {"pressure": ModalitySpec(11, 2, patch_size=3), "view": ModalitySpec((5, 7), 1, 2)}
STATISTICS = {
    "pressure": Standardisation((101325.0123, -3.0), (0.7, 20.0)),
    "view": Standardisation((120.5,), (60.0,)),
}


def classifier(modalities=MODALITIES, statistics=STATISTICS, **attributes):
    model = tiny_sft.sft(modalities=modalities, **{"n_post": 2} | attributes)
    names = tuple("abcd"[: model.num_classes])
    info = DatasetInfo(modalities, names, statistics, {"train": 1}, task=model.task)
    params = tiny_sft.normal_variables(model, model.example_inputs())["params"]
    return Bundle(model, params, info)


def raw_inputs(batch=6, seed=0):
    """Raw values with masks: all real, holes, short, a modality absent, and both absent."""
    random = np.random.default_rng(seed)
    inputs, masks = {}, {}
    for name, spec in MODALITIES.items():
        own = STATISTICS[name]
        values = random.normal(size=(batch, *spec.shape)) * own.std + own.mean
        inputs[name] = values.astype(np.float32)
        masks[name] = np.ones((batch, *spec.lengths), bool)
    masks["pressure"][1, [2, 6, 7, 8]] = False
    masks["view"][2, 3:] = False
    masks["view"][2, 0, 0] = False
    masks["pressure"][3] = False
    masks["view"][4] = False
    for name in MODALITIES:
        masks[name][5] = False
        inputs[name][~masks[name]] = np.nan
    return inputs, masks


def expected(classifier, inputs, masks):
    """Outputs by JAX; NaN at padding stays in the inputs."""
    return np.asarray(jax.jit(raw_program(classifier))(inputs, masks))
