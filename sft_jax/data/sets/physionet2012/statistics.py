"""Statistics of the measurements of a stay, as one row of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from sft_jax.data.sets.physionet2012.codes import EVENTS

NAMES = ("last", "mean", "min", "max", "count")
"""Statistics of each measurement; the count `n` is kept as `log(1 + n)`."""

COLUMNS = len(NAMES) * sum(map(len, EVENTS.values()))
"""Number of columns: the statistics of every measurement, vital signs first."""


def statistics(events: Mapping[str, Float[np.ndarray, "n 3"]]) -> Float[np.ndarray, " columns"]:
    """Computes the statistics of a stay; NaN for what was never measured, whose count is 0.

    Args:
      events: Hours, types and values by modality, each type in the order of time.
    """
    none = np.zeros((0, 3), np.float32)
    rows = [_summaries(events.get(name, none), len(codes)) for name, codes in EVENTS.items()]
    return np.concatenate(rows).reshape(-1)


def _summaries(events: Float[np.ndarray, "n 3"], size: int) -> Float[np.ndarray, "size 5"]:
    table = np.full((size, len(NAMES)), np.nan)
    table[:, -1] = 0
    if len(events):
        events = events[np.argsort(events[:, 1], kind="stable")].astype(np.float64)
        types, first, counts = np.unique(events[:, 1], return_index=True, return_counts=True)
        values = events[:, 2]
        table[types.astype(int)] = np.stack(
            [
                values[first + counts - 1],
                np.add.reduceat(values, first) / counts,
                np.minimum.reduceat(values, first),
                np.maximum.reduceat(values, first),
                np.log1p(counts),
            ],
            axis=1,
        )
    return table


def column_means(
    rows: Iterable[Float[np.ndarray, "1 columns"]],
) -> Float[np.ndarray, " columns"]:
    """Computes the mean of each column over the rows where it is known; 0 if it never is."""
    table = np.concatenate([*rows])
    known = ~np.isnan(table)
    return np.where(known, table, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
