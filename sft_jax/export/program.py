"""The exported computation in JAX: raw values and masks in, probabilities or numbers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sft_jax.data.dataset import DatasetInfo
from sft_jax.export.written import Classifier


def standardisation(info: DatasetInfo, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of a modality as the sum of two float32 numbers, and its deviation.

    `(values - high - low) / std` loses nothing in float32 where the mean is far larger than the
    deviation: the first difference is exact near the mean.

    Returns:
      `high`, `low` and `std`, `[features]` float32.
    """
    own = info.statistics[name]
    mean = np.asarray(own.mean, np.float64)
    high = mean.astype(np.float32)
    return high, (mean - high).astype(np.float32), np.asarray(own.std, np.float32)


def by_type(events: Any, high: np.ndarray, low: np.ndarray, std: np.ndarray) -> jax.Array:
    """Standardises times and values of events, as `Standardisation.apply_by_type` does."""
    own = events[..., 1].astype(jnp.int32) + 1
    time = (events[..., 0] - high[0] - low[0]) / std[0]
    value = events[..., 2] - jnp.asarray(high)[own] - jnp.asarray(low)[own]
    return jnp.stack([time, events[..., 1], value / jnp.asarray(std)[own]], axis=-1)


def activated(task: str, outputs: Any) -> Any:
    """Turns outputs of a model into probabilities; those of a regression stay as they are."""
    match task:
        case "single_label" | "ordinal":
            return jax.nn.softmax(outputs, axis=-1)
        case "multi_label":
            return jax.nn.sigmoid(outputs)
        case _:
            return outputs


def raw_program(
    classifier: Classifier,
) -> Callable[[Mapping[str, Any], Mapping[str, Any]], jax.Array]:
    """Makes the function of raw inputs and masks that every exported file computes.

    The function takes each modality that the outputs depend on, in its full shape, and returns
    `[b, c]` float32. The parameters are constants of it.
    """
    model, variables = classifier.model, {"params": classifier.params}
    terms = {name: standardisation(classifier.info, name) for name in model.mixed_modalities}

    def run(inputs: Mapping[str, Any], masks: Mapping[str, Any]) -> jax.Array:
        standardised = {}
        for name, (high, low, std) in terms.items():
            if classifier.info.modalities[name].kind == "events":
                values = by_type(inputs[name], high, low, std)
                standardised[name] = jnp.where(masks[name][..., None], values, 0)
                continue
            # Ranks agree, as a project may demand.
            axes = tuple(range(inputs[name].ndim - 1))
            high, low, std = (np.expand_dims(term, axes) for term in (high, low, std))
            values = (inputs[name] - high - low) / std
            standardised[name] = jnp.where(masks[name][..., None], values, 0)
        real = {name: masks[name] for name in terms}
        outputs = model.apply(variables, standardised, real)
        return activated(model.task, outputs).astype(jnp.float32)

    return run
