"""Statistics that modalities are standardised by: mean and deviation of each feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from sft_jax.data.checks import check_finite, real_steps
from sft_jax.data.moments import Moments

_ROUNDING = 2.0**-22  # A few times the rounding error of float32.


@dataclasses.dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each feature of a modality.

    Attributes:
      mean: One number per feature, in float64.
      std: One positive number per feature, in float64.

    Raises:
      ValueError: If the lengths differ, a number is not finite, or `std` is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # JSON can hold only plain numbers.
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means but {len(self.std)} standard deviations")
        if not np.isfinite(self.mean + self.std).all() or min(self.std, default=1.0) <= 0:
            raise ValueError(f"means must be finite and deviations positive, got {self}")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Subtracts the mean and divides by the deviation, in float64.

        Args:
          values: `[..., features]` integers or floats; a masked array stays masked.

        Returns:
          An array of the same shape, rounded to float32; infinite beyond its range.
        """
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        with np.errstate(over="ignore", under="ignore"):
            standardised = np.asanyarray(values, np.float64) - mean
            standardised /= std
            return standardised.astype(np.float32)

    def apply_by_type(self, events: np.ndarray) -> np.ndarray:
        """Standardises times by the first mean, and values by the one after their type.

        Args:
          events: `[n, 3]` times, types and values.

        Returns:
          An array of the same shape, in float32; types stay.
        """
        own = events[:, 1].astype(int) + 1
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        zero, one = np.zeros(len(events)), np.ones(len(events))
        means = np.stack([zero + mean[0], zero, mean[own]], axis=1)
        stds = np.stack([zero + std[0], one, std[own]], axis=1)
        with np.errstate(over="ignore", under="ignore"):
            return ((events.astype(np.float64) - means) / stds).astype(np.float32)

    def agrees(self, other: Standardisation) -> bool:
        """Returns whether both have the same effect, up to the rounding of float32.

        Earlier versions saved statistics rounded to float32.
        """
        if len(self.mean) != len(other.mean):
            return False
        mean, std = np.array(self.mean), np.array(self.std)
        tolerance = _ROUNDING * (std + np.abs(mean))
        return bool(
            (np.abs(mean - other.mean) <= tolerance).all()
            and (np.abs(std - other.std) <= _ROUNDING * std).all()
        )


def compute_statistics(examples: Sequence[Mapping[str, Any]]) -> dict[str, Standardisation]:
    """Computes mean and standard deviation of every feature over the real steps of all examples.

    Sums are computed in float64. A feature that never changes gets a deviation of 1.

    Args:
      examples: Examples, at least one, not standardised.

    Raises:
      ValueError: If a number is not finite, or a modality has no real step.
    """
    total: dict[str, Moments] = {}
    for example in examples:
        for name in example["inputs"]:
            values, real = finite_steps(example, name)
            moments = Moments.from_values(values[real])
            total[name] = total[name] + moments if name in total else moments
    return standardisations(total)


def standardisations(
    moments: Mapping[str, Moments],
    unstandardised: Collection[str] = (),
    types: Mapping[str, Sequence[Moments]] | None = None,
) -> dict[str, Standardisation]:
    """Makes the statistics of modalities from the moments of their features.

    Args:
      moments: Modality name to the moments of its features.
      unstandardised: Modalities whose values are used as they are, with mean 0 and deviation 1.
      types: Modality name to the moments of the values of each type, for events.

    Raises:
      ValueError: If a modality has no step.
    """
    for name, own in moments.items():
        if not own.count:
            raise ValueError(f"no example has any step of {name}, so it cannot be standardised")
    by_type = {
        name: Standardisation(
            mean=(moments[name].mean[0], *(own.mean[0] for own in values)),
            std=(moments[name].std[0], *(own.std[0] for own in values)),
        )
        for name, values in (types or {}).items()
        if name in moments
    }
    return by_type | {
        name: Standardisation(mean=(0.0,) * len(own.mean), std=(1.0,) * len(own.mean))
        if name in unstandardised
        else Standardisation(mean=tuple(own.mean.tolist()), std=tuple(own.std.tolist()))
        for name, own in moments.items()
        if name not in by_type
    }


def finite_steps(example: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of a modality, which must be finite, and the mask of its real steps."""
    values, real = real_steps(example, name)
    check_finite(example["id"], name, values, real)
    return values, real


def same_statistics(saved: Mapping[str, Any], computed: Mapping[str, Any]) -> bool:
    """Returns whether the statistics of two datasets agree, given as JSON values."""
    return saved == computed or agree(statistics_from_json(saved), statistics_from_json(computed))


def statistics_from_json(values: Mapping[str, Any]) -> dict[str, Standardisation]:
    """Makes statistics from the JSON values of `dataclasses.asdict`."""
    return {
        name: Standardisation(mean=tuple(saved["mean"]), std=tuple(saved["std"]))
        for name, saved in values.items()
    }


def agree(first: Mapping[str, Standardisation], second: Mapping[str, Standardisation]) -> bool:
    """Returns whether two datasets have the same modalities and their statistics agree."""
    return first.keys() == second.keys() and all(
        own.agrees(second[name]) for name, own in first.items()
    )
