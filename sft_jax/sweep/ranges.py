"""Random combinations from the values and ranges of a grid."""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

_RANGE = re.compile(r"(uniform|loguniform|integers)\((.*)\)")
_EXPECTED = (
    "expected uniform(LOW,HIGH) with LOW < HIGH, loguniform(LOW,HIGH) with 0 < LOW < HIGH, or"
    " integers(LOW,HIGH) with whole numbers, both included"
)
_MOST_DRAWS = 100
"""Largest number of draws for each combination that is asked for; equal ones count once."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Range of numbers.

    Attributes:
      kind: uniform, loguniform or integers.
      low: Smallest number.
      high: Largest number.
    """

    kind: str
    low: float
    high: float

    def draw(self, random: np.random.Generator) -> str:
        """Draws the text of a number, with four significant digits unless it is whole."""
        if self.kind == "integers":
            return str(random.integers(int(self.low), int(self.high), endpoint=True))
        if self.kind == "uniform":
            value = random.uniform(self.low, self.high)
        else:
            value = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        return str(min(max(float(f"{value:.4g}"), self.low), self.high))


def read_range(field: str, text: str) -> Range | None:
    """Reads a range such as `loguniform(1e-4,1e-2)`; None for any other text.

    Args:
      field: Name of the field, for messages.
      text: Text of a value.

    Raises:
      ValueError: If it is a range whose ends are missing or not in order.
    """
    match = _RANGE.fullmatch(text)
    if not match:
        return None
    kind, ends = match[1], match[2].split(",")
    try:
        low, high = (int(end) if kind == "integers" else float(end) for end in ends)
    except ValueError:
        raise ValueError(f"--grid: {field}={text}: {_EXPECTED}") from None
    if not (math.isfinite(high - low) and low < high) or (kind == "loguniform" and low <= 0):
        raise ValueError(f"--grid: {field}={text}: {_EXPECTED}")
    return Range(kind, low, high)


def read_ranges(fields: Mapping[str, Sequence[str]]) -> dict[str, Range]:
    """Finds the ranges of a grid.

    Args:
      fields: Values of each field, from `sft_jax.sweep.grid.read_fields`.

    Raises:
      ValueError: See `read_range`. Also if a field has a range and other values.
    """
    ranges = {}
    for field, values in fields.items():
        for text in values:
            if (several := read_range(field, text)) is not None:
                if len(values) > 1:
                    raise ValueError(
                        f"--grid: {field} has the range {text} and other values; give one or the"
                        " others"
                    )
                ranges[field] = several
    return ranges


def sample(fields: Mapping[str, Sequence[str]], number: int, seed: int) -> list[dict[str, str]]:
    """Draws combinations, each field by itself: a number of its range, or one of its values.

    A larger number with the same seed draws the same combinations, and others.

    Args:
      fields: Values of each field, from `sft_jax.sweep.grid.read_fields`.
      number: Number of different combinations.
      seed: Seed of the draws.

    Raises:
      ValueError: See `read_ranges`. Also if the number is not positive, or there are too few
        different combinations.
    """
    ranges = read_ranges(fields)
    if number < 1:
        raise ValueError(f"--random={number} must be at least 1")
    drawn: dict[tuple[str, ...], dict[str, str]] = {}
    for turn in range(number * _MOST_DRAWS):
        combination = {}
        for field, values in fields.items():
            random = np.random.default_rng([seed, turn, zlib.crc32(field.encode())])
            several = ranges.get(field)
            combination[field] = (
                several.draw(random) if several else values[int(random.integers(len(values)))]
            )
        drawn.setdefault(tuple(combination.values()), combination)
        if len(drawn) == number:
            return [*drawn.values()]
    raise ValueError(
        f"--random={number}: {number * _MOST_DRAWS} draws gave only {len(drawn)} different"
        " combinations; ask for fewer, or widen a range"
    )
