"""Checks whether float32, and the dtype that was read, can hold the variation of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sft_jax.data.moments import Moments

_STEPS = 4  # Least number of rounding steps of a float that the variation must span.
_EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_FIRST = 5


def faults(moments: Moments, types: Mapping[str, int]) -> list[str]:
    """Describes the features of a modality whose variation is lost to rounding.

    Args:
      moments: Moments of the features.
      types: Mapping whose keys are the dtypes in which the numbers were read.
    """
    sentences = []
    deviation, mean = moments.deviation, np.abs(moments.mean)
    varies = deviation > np.finfo(np.float64).eps * mean
    for name in sorted(types.keys() & _EPS.keys(), key=lambda name: _EPS[name]):
        coarse = varies & (deviation < _STEPS * _EPS[name] * mean)
        if coarse.any():
            first = int(np.flatnonzero(coarse)[0])
            rounding = _EPS[name] / 2 * mean[first]
            sentences.append(
                f", {_features(coarse)}: read as {name}, which rounds {moments.mean[first]:.6g} by"
                f" up to {rounding:.2g}, beside a standard deviation of"
                f" {deviation[first]:.2g}; give it as float64, or less an offset"
            )
    constant = ~varies & (moments.changes > 0)
    if constant.any():
        sentences.append(
            f", {_features(constant)}: varies by no more than float64 rounds, so it counts as one"
            " that never changes"
        )
    # After standardisation most numbers have a magnitude of about one deviation.
    lost = varies & (moments.typical_change > 0)
    lost &= moments.typical_change < _STEPS / 2 * _EPS["float32"] * deviation
    if lost.any():
        first = int(np.flatnonzero(lost)[0])
        sentences.append(
            f", {_features(lost)}: neighbours differ by {moments.typical_change[first]:.2g}, which"
            f" float32 can't hold beside a standard deviation of {deviation[first]:.2g}; are there"
            " outliers, or fillers of what is missing?"
        )
    return sentences


def label_faults(ranges: Mapping[str, Sequence[float]]) -> list[str]:
    """Describes targets that float32 rounds by a visible share of their range.

    Args:
      ranges: Name of a target to its smallest and largest value.
    """
    sentences = []
    for name, (low, high) in ranges.items():
        rounding = _EPS["float32"] / 2 * max(abs(low), abs(high))
        if low < high and rounding > 1e-3 * (high - low):
            sentences.append(
                f"label {name}, from {low:.10g} to {high:.10g}, is rounded by up to"
                f" {rounding:.2g} as float32; subtract an offset"
            )
    return sentences


def _features(chosen: np.ndarray) -> str:
    numbers = np.flatnonzero(chosen)
    listed = ", ".join(map(str, numbers[:_FIRST]))
    more = f" and {len(numbers) - _FIRST} more" if len(numbers) > _FIRST else ""
    return f"feature{'s' if len(numbers) > 1 else ''} {listed}{more}"
