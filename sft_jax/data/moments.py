"""Mean and deviation of features, computed in parts that can be added."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_NEIGHBOURS = 16  # Steps of an example whose differences are counted.


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared differences from the mean, for each feature.

    Attributes:
      count: Number of vectors.
      mean: `[features]` float64.
      squares: `[features]` float64.
      changes: `[features]` number of compared neighbouring steps that differ.
      log_changes: `[features]` float64, sum of the base-2 logarithms of their differences.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray
    changes: np.ndarray
    log_changes: np.ndarray

    @classmethod
    def from_values(cls, values: np.ndarray, after: np.ndarray | None = None) -> Moments:
        """Computes the moments of `[..., features]` finite numbers.

        The first vector is subtracted before summation. Numbers that all lie far from 0 therefore
        lose no precision, and the mean of a constant feature is exactly its value.

        Args:
          values: `[..., features]` integers or floats.
          after: `[features]` vector that the first vector is compared with.
        """
        flat = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
        if not len(flat):
            return cls(0, *np.zeros((4, flat.shape[1])))
        shifted = flat - flat[0]
        mean = shifted.mean(axis=0)
        shifted -= mean
        some = flat[:_NEIGHBOURS] if after is None else np.vstack([after, flat[:_NEIGHBOURS]])
        differences = np.abs(np.diff(some, axis=0))
        differ = differences > 0
        return cls(
            len(flat),
            flat[0] + mean,
            np.einsum("nf,nf->f", shifted, shifted),
            differ.sum(axis=0),
            np.log2(differences, where=differ, out=np.zeros_like(differences)).sum(axis=0),
        )

    def __add__(self, other: Moments) -> Moments:
        """Combines the moments of two sets of vectors (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        if not count:
            return self
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = np.square(difference) * (self.count * other.count / count)
        return Moments(
            count,
            mean,
            self.squares + other.squares + between,
            self.changes + other.changes,
            self.log_changes + other.log_changes,
        )

    @classmethod
    def by_type(cls, events: np.ndarray, before: Sequence[Moments] = ()) -> list[Moments]:
        """Adds the values of events to the moments of each type.

        Args:
          events: `[n, 3]` times, types and values; types are from 0.
          before: Moments of the types so far.
        """
        types = events[:, 1].astype(int)
        none = cls.from_values(np.zeros((0, 1)))
        count = max(len(before), types.max(initial=-1) + 1)
        moments = [*before, *[none] * (count - len(before))]
        for number in np.unique(types):
            moments[number] += cls.from_values(events[types == number, 2:])
        return moments

    @property
    def std(self) -> np.ndarray:
        """`[features]` standard deviations; 1 for a feature that never changes.

        A feature that changes by no more than the rounding of float64 counts as constant.
        """
        constant = self.deviation <= np.finfo(np.float64).eps * np.abs(self.mean)
        return np.where(constant, 1.0, self.deviation)

    @property
    def deviation(self) -> np.ndarray:
        """`[features]` standard deviations, which may be 0."""
        return np.sqrt(self.squares / max(self.count, 1))

    @property
    def typical_change(self) -> np.ndarray:
        """`[features]` geometric means of the differences of neighbours that differ; 0 if none."""
        mean = np.exp2(self.log_changes / np.maximum(self.changes, 1))
        return np.where(self.changes > 0, mean, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
            "changes": self.changes.tolist(),
            "log_changes": self.log_changes.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Moments:
        """Restores moments exactly from `to_json`; earlier versions saved no changes."""
        none = [0] * len(values["mean"])
        return cls(
            values["count"],
            np.array(values["mean"]),
            np.array(values["squares"]),
            np.array(values.get("changes", none)),
            np.array(values.get("log_changes", none), np.float64),
        )
