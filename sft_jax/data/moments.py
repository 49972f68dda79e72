"""Mean and deviation of features, of parts that are counted apart and put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared differences from the mean of each feature.

    Attributes:
      count: how many vectors were seen.
      mean: `[features]` float64.
      squares: `[features]` float64.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Those of `[..., features]` finite numbers."""
        flat = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
        mean = flat.mean(axis=0) if len(flat) else np.zeros(flat.shape[1])
        return cls(len(flat), mean, np.square(flat - mean).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        """Those of both together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        if not count:
            return self
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = np.square(difference) * (self.count * other.count / count)
        return Moments(count, mean, self.squares + other.squares + between)

    @property
    def std(self) -> np.ndarray:
        """`[features]` standard deviations; 1 for a feature that never changes."""
        std = np.sqrt(self.squares / max(self.count, 1))
        constant = std <= np.finfo(np.float32).eps * np.abs(self.mean)
        return np.where(constant, 1.0, std)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Moments:
        """The exact inverse of `to_json`."""
        return cls(values["count"], np.array(values["mean"]), np.array(values["squares"]))
