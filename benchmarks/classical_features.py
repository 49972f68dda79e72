"""Hand-made features of examples of any kind, as a practitioner makes them first.

| kind | features |
| --- | --- |
| series, embedding, video | mean, deviation, minimum, maximum and quartiles of each channel |
| image | pixels, averaged over blocks so that there are at most 16 along each axis |
| events | last, mean, minimum, maximum and count of each type |
| vector | its columns |
| tokens, text | count of each id |

Pixels of a frame of a video are averaged. Padding counts for nothing. What is missing is NaN: all
features of a modality that an example lacks, and those of types without an event, whose count is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sft_jax.data.dataset import Dataset, Example
from sft_jax.structs import IDS, ModalitySpec

MOST_BLOCKS = 16
"""Largest number of blocks along each axis of an image."""

_STATISTICS = 6
_OF_TYPES = 5


def features(dataset: Dataset, split: str) -> np.ndarray:
    """Computes the features of each example of a split, `[examples, features]` floats."""
    return np.stack([_row(example, dataset.info.modalities) for example in dataset.source(split)])


def _row(example: Example, modalities: Mapping[str, ModalitySpec]) -> np.ndarray:
    """Computes the features of an example; first each statistic of all channels, then the rest."""
    tables, rest = [], []
    for name, spec in modalities.items():
        values, real = example["inputs"][name], example["masks"][name]
        if spec.kind in IDS:
            rest.append(np.bincount(values[real, 0].astype(int), minlength=spec.vocabulary))
        elif spec.kind == "events":
            rest.append(by_type(values[real], spec.vocabulary))
        elif spec.kind in ("image", "channels_first"):
            rest.append(blocks(values) if real.any() else np.full_like(blocks(values), np.nan))
        elif spec.lengths == (1,):
            rest.append(np.where(real[0], values[0], np.nan))
        else:
            tables.append(statistics(values, real))
    joined = [np.concatenate(tables, axis=1).ravel()] if tables else []
    return np.concatenate([*joined, *rest])


def statistics(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Computes mean, deviation, minimum, maximum and quartiles of each channel.

    Args:
      values: `[steps, ..., channels]` numbers; those of a step are averaged.
      real: `[steps, ...]` booleans, False at padding.

    Returns:
      `[6, channels]` statistics of the real steps; NaN without any.
    """
    steps = real.reshape(len(real), -1).any(axis=1)
    if not steps.any():
        return np.full((_STATISTICS, values.shape[-1]), np.nan)
    series = values.reshape(len(values), -1, values.shape[-1])[steps].mean(axis=1)
    parts = [series.mean(0), series.std(0), series.min(0), series.max(0)]
    return np.stack([*parts, *np.quantile(series, [0.25, 0.75], axis=0)])


def blocks(image: np.ndarray) -> np.ndarray:
    """Averages the pixels of an image `[height, width, channels]` over blocks, and flattens it."""
    for axis in (0, 1):
        length = image.shape[axis]
        starts = np.arange(0, length, math.ceil(length / MOST_BLOCKS))
        counts = np.diff(np.append(starts, length))
        shape = [-1 if other == axis else 1 for other in range(image.ndim)]
        image = np.add.reduceat(image, starts, axis=axis) / counts.reshape(shape)
    return image.ravel()


def by_type(events: np.ndarray, types: int) -> np.ndarray:
    """Computes last, mean, minimum, maximum and count of the values of each type.

    Args:
      events: `[n, 3]` times, types and values. Among equal times the later row is the last.
      types: Number of types.

    Returns:
      `[5 types]` numbers, each statistic of all types after the other; NaN without an event,
      except the count.
    """
    table = np.full((_OF_TYPES, types), np.nan)
    kinds = events[:, 1].astype(int)
    order = np.lexsort((events[:, 0], kinds))
    values = events[order, 2]
    present, starts = np.unique(kinds[order], return_index=True)
    table[4] = np.bincount(kinds, minlength=types)
    if len(present):
        counts = table[4, present]
        table[0, present] = values[np.append(starts[1:], len(values)) - 1]
        table[1, present] = np.add.reduceat(values, starts) / counts
        table[2, present] = np.minimum.reduceat(values, starts)
        table[3, present] = np.maximum.reduceat(values, starts)
    return table.ravel()
