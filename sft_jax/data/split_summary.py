"""Summary of the examples of a split, counted while they are read."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sft_jax.data.moments import Moments
from sft_jax.structs import CLASS_TASKS, Task


@dataclasses.dataclass
class SplitSummary:
    """Summary of the examples of a split; summaries can be added.

    Attributes:
      n_examples: Number of examples.
      labels: Class or label name to the number of its examples; for regression, target name to
        the smallest and the largest value.
      lengths: Modality to {steps: number of examples}; 0 steps stand for an absent modality.
      not_finite: Modality to {kind of number that is not finite: count}.
      moments: Modality to the moments of its features, after treatment of such numbers.
      rounded: For regression, target name to {value rounded to an integer: number of examples};
        halves are rounded to the even integer, like classes of sentiment.
      types: Modality to {dtype in which its numbers were read: number of examples}.
    """

    n_examples: int = 0
    labels: dict[str, Any] = dataclasses.field(default_factory=dict)
    lengths: dict[str, dict[int, int]] = dataclasses.field(default_factory=dict)
    not_finite: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    moments: dict[str, Moments] = dataclasses.field(default_factory=dict)
    rounded: dict[str, dict[int, int]] = dataclasses.field(default_factory=dict)
    types: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    def add_label(self, label: int | np.ndarray, task: Task, names: Sequence[str]) -> None:
        """Counts the label of one example."""
        counted: dict[str, Any]
        if task in CLASS_TASKS:
            counted = {names[int(label)]: 1}
        elif task == "multi_label":
            counted = {name: int(has) for name, has in zip(names, np.asarray(label), strict=True)}
        else:
            values = np.asarray(label, np.float64).tolist()
            counted = {name: [v, v] for name, v in zip(names, values, strict=True)}
            whole = {name: {round(value[0]): 1} for name, value in counted.items()}
            self.rounded = _add_counts(self.rounded, whole)
        self.labels = _add_labels(self.labels, counted)

    def add_modality(self, name: str, length: int, dtype: str, bad: Mapping[str, int]) -> None:
        """Counts a modality of one example, without its moments."""
        for counts, added in (
            (self.not_finite, bad),
            (self.lengths, {length: 1}),
            (self.types, {dtype: 1} if dtype else {}),
        ):
            seen: dict[Any, int] = counts.setdefault(name, {})
            for kind, count in added.items():
                seen[kind] = seen.get(kind, 0) + count

    def __add__(self, other: SplitSummary) -> SplitSummary:
        """Adds the summaries of two sets of examples."""
        return SplitSummary(
            self.n_examples + other.n_examples,
            _add_labels(self.labels, other.labels),
            _add_counts(self.lengths, other.lengths),
            _add_counts(self.not_finite, other.not_finite),
            {
                name: self.moments[name] + other.moments[name]
                if name in self.moments and name in other.moments
                else (self.moments | other.moments)[name]
                for name in self.moments | other.moments
            },
            _add_counts(self.rounded, other.rounded),
            _add_counts(self.types, other.types),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        moments = {name: moment.to_json() for name, moment in self.moments.items()}
        return {
            **dataclasses.asdict(self),
            "moments": moments,
            "lengths": _with_text_keys(self.lengths),
            "rounded": _with_text_keys(self.rounded),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SplitSummary:
        """Restores a summary exactly from `to_json`; earlier versions saved no types."""
        return cls(
            values["n_examples"],
            dict(values["labels"]),
            _with_whole_keys(values["lengths"]),
            {name: dict(kinds) for name, kinds in values["not_finite"].items()},
            {name: Moments.from_json(moment) for name, moment in values["moments"].items()},
            _with_whole_keys(values["rounded"]),
            {name: dict(counts) for name, counts in values.get("types", {}).items()},
        )


def _with_text_keys(counts: Mapping[str, dict[int, int]]) -> dict[str, dict[str, int]]:
    return {name: {str(key): n for key, n in sorted(own.items())} for name, own in counts.items()}


def _with_whole_keys(counts: Mapping[str, dict[str, int]]) -> dict[str, dict[int, int]]:
    return {name: {int(key): n for key, n in own.items()} for name, own in counts.items()}


def _add_labels(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    total = dict(first)
    for name, value in second.items():
        if name not in total:
            total[name] = value
        elif isinstance(value, list):
            total[name] = [min(total[name][0], value[0]), max(total[name][1], value[1])]
        else:
            total[name] += value
    return total


def _add_counts(
    first: Mapping[str, dict[Any, int]], second: Mapping[str, dict[Any, int]]
) -> dict[str, dict[Any, int]]:
    total = {}
    for name in [*first, *(name for name in second if name not in first)]:
        counts = collections.Counter(first.get(name, {}))
        counts.update(second.get(name, {}))
        total[name] = dict(counts)
    return total
