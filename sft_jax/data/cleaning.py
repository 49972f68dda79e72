"""What becomes of numbers that are not finite before they are stored."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sft_jax.data.records import Record
from sft_jax.structs import NotFinite

Counts = dict[str, int]
"""How many numbers were `nan`, `inf` (too large for float32 among them) and `-inf`."""


def clean(
    values: np.ndarray, policy: NotFinite, means: np.ndarray | None = None
) -> tuple[np.ndarray, Counts]:
    """Treats the numbers that are not finite, and casts.

    Args:
      values: `[length, ..., features]` integers or floats.
      policy: what to do; see `NotFinite`. With `error` they are counted and left as they are.
      means: `[features]` floats for the policy `mean`.

    Returns:
      The values, uint8 if they were and float32 otherwise; and how many were not finite.
    """
    if values.dtype == np.uint8:
        return values, {}
    with np.errstate(over="ignore"):
        cast = values.astype(np.float32)
    finite = np.isfinite(cast)
    if finite.all():
        return cast, {}
    counts = {
        "nan": int(np.isnan(cast).sum()),
        "inf": int((cast == np.inf).sum()),
        "-inf": int((cast == -np.inf).sum()),
    }
    if policy == "zero":
        cast = np.where(finite, cast, np.float32(0))
    elif policy == "mean":
        cast = np.where(finite, cast, np.asarray(means, np.float32))
    elif policy == "drop":
        cast = cast[finite.reshape(len(cast), -1).all(axis=1)]
    return cast, {kind: count for kind, count in counts.items() if count}


def finite_means(records: Iterable[Record]) -> dict[str, np.ndarray]:
    """The mean of each feature of each modality over the numbers that are finite as float32.

    Args:
      records: of the training split.

    Returns:
      Modality name to `[features]` float64; 0 for a feature without any finite number.
    """
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for record in records:
        for name, values in record["inputs"].items():
            flat, _ = clean(values.reshape(-1, values.shape[-1]), "error")
            finite = np.isfinite(flat)
            total = np.where(finite, flat, 0).sum(axis=0, dtype=np.float64)
            sums[name] = sums.get(name, 0) + total
            counts[name] = counts.get(name, 0) + finite.sum(axis=0)
    return {name: sums[name] / np.maximum(counts[name], 1) for name in sums}
