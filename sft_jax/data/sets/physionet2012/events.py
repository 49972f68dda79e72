"""Changes of the events of stays, before they are stored."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from sft_jax.data.sets.physionet2012.files import Stay


def binned(events: Float[np.ndarray, "n 3"], hours: float) -> Float[np.ndarray, "m 3"]:
    """Joins the events of each type in each bin, to their mean time and mean value.

    Args:
      events: Hours, types and values.
      hours: Length of a bin; 0 returns the events as they are.

    Returns:
      Events in the order of their bins, and within a bin in the order of their types.
    """
    if not hours:
        return events
    keys = np.stack([events[:, 0] // hours, events[:, 1]], axis=1)
    _, owner, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), 3))
    np.add.at(sums, owner.reshape(-1), events)
    return (sums / counts[:, None]).astype(events.dtype)


def types_of(stays: Iterable[Stay]) -> dict[str, set[float]]:
    """Returns the types of the events of some stays, by modality."""
    types: dict[str, set[float]] = {}
    for stay in stays:
        for name, own in stay.inputs.items():
            types.setdefault(name, set()).update(own[:, 1].tolist())
    return types


def only_types(stays: Iterable[Stay], types: dict[str, set[float]]) -> list[Stay]:
    """Leaves out the events of types that a model was not trained on."""
    kept = {name: [*own] for name, own in types.items()}
    return [
        stay._replace(
            inputs={
                name: chosen
                for name, own in stay.inputs.items()
                if len(chosen := own[np.isin(own[:, 1], kept.get(name, []))])
            }
        )
        for stay in stays
    ]
