"""Treatment of numbers that are not finite, before they are stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sft_jax.data.checks import real_steps
from sft_jax.data.records import Record
from sft_jax.structs import NotFinite

Counts = dict[str, int]
"""Number of values that were `nan`, `inf` (or too large for float32) and `-inf`."""


class Cleaned(NamedTuple):
    """Numbers after treatment of those that are not finite.

    Attributes:
      values: `[length, ..., features]`; see `as_stored` for the dtype.
      mask: `[length, ...]` booleans, True at real steps.
      counts: Number of values of each kind that were not finite.
    """

    values: np.ndarray
    mask: np.ndarray
    counts: Counts


def clean(
    values: np.ndarray,
    policy: NotFinite,
    means: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Cleaned:
    """Treats numbers that are not finite, and casts to a dtype that holds the others exactly.

    Args:
      values: `[length, ..., features]` integers or floats.
      policy: Treatment (`NotFinite`). With `error` these numbers are counted and kept.
      means: `[features]` floats for the policy `mean`.
      mask: `[length, ...]` booleans, True at real steps; all True by default. Values of other
        steps must be finite.
    """
    mask = np.ones(values.shape[:-1], bool) if mask is None else mask
    cast, narrow = _casts(values)
    finite = np.isfinite(narrow)
    if finite.all():
        return Cleaned(cast, mask, {})
    counts = {
        "nan": int(np.isnan(narrow).sum()),
        "inf": int((narrow == np.inf).sum()),
        "-inf": int((narrow == -np.inf).sum()),
    }
    if policy == "zero":
        cast = np.where(finite, cast, cast.dtype.type(0))
    elif policy == "mean":
        cast = np.where(finite, cast, np.asarray(means, cast.dtype))
    elif policy == "drop":
        kept = finite.reshape(len(cast), -1).all(axis=1)
        cast, mask = cast[kept], mask[kept]
    return Cleaned(cast, mask, {kind: count for kind, count in counts.items() if count})


def as_stored(values: np.ndarray) -> np.ndarray:
    """Keeps uint8, casts to float32 if that is exact for all values, and else to float64.

    The values keep all their digits, so that an offset can be subtracted later without loss.
    """
    return _casts(values)[0]


def _casts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers in the dtype in which they are stored, and in float32."""
    if values.dtype == np.uint8:
        return values, values
    if np.can_cast(values.dtype, np.float32):  # Without any loss.
        narrow = values.astype(np.float32)
        return narrow, narrow
    wide = values.astype(np.float64)
    narrow = _as_float32(wide)
    same = narrow == wide
    lossless = same.all() or (same | np.isnan(wide)).all()
    return (narrow if lossless else wide), narrow


def _as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float32, copy=False)


def finite_means(records: Iterable[Record]) -> dict[str, np.ndarray]:
    """Computes the mean of each feature of each modality over the numbers finite in float32.

    Args:
      records: Records of the training split.

    Returns:
      Modality name to `[features]` float64; 0 for a feature without any finite number.
    """
    origins: dict[str, np.ndarray] = {}  # The first finite number of each feature, else NaN.
    sums: dict[str, np.ndarray] = {}  # Sums of differences from the origin lose no digit.
    counts: dict[str, np.ndarray] = {}
    for record in records:
        for name in record["inputs"]:
            values, mask = real_steps(record, name)
            flat = as_stored(values)[mask].astype(np.float64)
            if not len(flat):
                continue
            finite = np.isfinite(_as_float32(flat))
            first = np.where(
                finite.any(axis=0), flat[finite.argmax(axis=0), range(len(flat[0]))], np.nan
            )
            known = origins.get(name, first)
            origins[name] = np.where(np.isnan(known), first, known)
            differences = np.where(finite, flat, 0) - np.where(finite, origins[name], 0)
            sums[name] = sums.get(name, 0) + differences.sum(axis=0)
            counts[name] = counts.get(name, 0) + finite.sum(axis=0)
    return {
        name: np.nan_to_num(origin) + sums[name] / np.maximum(counts[name], 1)
        for name, origin in origins.items()
    }
