"""Paired differences of a row from the baseline."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Collection, Mapping
from typing import Any

from sft_jax.compare import intervals
from sft_jax.compare.intervals import Interval, Scorer
from sft_jax.compare.rows import Row


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of a row from the baseline.

    Attributes:
      mean: Mean difference of the metric.
      pairs: Number of pairs of runs; 0 if no seed or fold is in both, and the means are compared.
      runs: Interval over runs (`intervals.over_runs`).
      examples: Interval over examples (`intervals.over_examples`).
      both: Interval over pairs and examples together (`intervals.over_both`).
    """

    mean: float
    pairs: int
    runs: Interval | None
    examples: Interval | None
    both: Interval | None


def values_by_label(
    row: Row, metric: str, keys: Collection[tuple[str, int]] = ()
) -> dict[str, float | None]:
    """Metric of each seed; with folds that of each fold, the mean over its seeds.

    Args:
      row: Runs.
      metric: Name of the metric.
      keys: Fold and seed of the runs to take; by default all.
    """
    numbers = {
        key: intervals.scalars(unit.result)[metric]
        for key, unit in row.units.items()
        if key in keys or not keys
    }
    if {fold for fold, _ in numbers} == {""}:
        return {f"seed {seed}": number for (_, seed), number in numbers.items()}
    means: dict[str, float | None] = {}
    for fold, values in intervals.by_fold(numbers).items():
        defined = [value for value in values if value is not None]
        means[f"fold {fold}"] = statistics.fmean(defined) if len(defined) == len(values) else None
    return means


def difference(
    row: Row, base: Row, metric: str, confidence: float, resamples: int
) -> Difference | None:
    """Computes the difference of a row from the baseline, in pairs of one seed or fold.

    Args:
      row: Runs.
      base: Runs of the baseline, of the same folds.
      metric: Name of the metric.
      confidence: Probability of the intervals.
      resamples: Number of resamples of the bootstrap; 0 for no interval over examples.

    Returns:
      The difference; None if a value of the metric is undefined.
    """
    common = sorted(row.units.keys() & base.units.keys())
    sides = [values_by_label(side, metric, common) for side in (base, row)]
    theirs, ours = ({k: v for k, v in side.items() if v is not None} for side in sides)
    if (len(theirs), len(ours)) != (len(sides[0]), len(sides[1])):
        return None
    each = [ours[label] - theirs[label] for label in ours] if common else []
    mean = statistics.fmean(ours.values()) - statistics.fmean(theirs.values())
    examples = both = None
    if resamples:
        first, second = (_scorers(side, metric, common) for side in (base, row))
        if first and second:
            sizes = {fold: unit.result["n_examples"] for (fold, _), unit in base.units.items()}
            folds = intervals.by_fold(first), intervals.by_fold(second)
            examples = intervals.over_examples(*folds, sizes, confidence, resamples)
            if common:
                pairs = _pairs(first), _pairs(second)
                both = intervals.over_both(*pairs, sizes, confidence, resamples)
    return Difference(mean, len(each), intervals.over_runs(each, confidence), examples, both)


def _pairs(scorers: Mapping[tuple[str, int], Scorer]) -> list[list[tuple[str, Scorer]]]:
    """Fold and scorer of the runs of each pair: of a seed, or with folds of all of a fold."""
    groups: dict[Any, list[tuple[str, Scorer]]] = collections.defaultdict(list)
    for (fold, seed), scorer in sorted(scorers.items()):
        groups[fold or seed].append((fold, scorer))
    return [*groups.values()]


def _scorers(
    row: Row, metric: str, keys: Collection[tuple[str, int]]
) -> dict[tuple[str, int], Scorer] | None:
    """Functions that compute the metric of each run; None if predictions are missing."""
    scorers = {}
    for key, unit in row.units.items():
        if key in keys or not keys:
            if unit.predictions is None:
                return None
            names, families = row.info.class_names, row.info.metrics
            scorers[key] = intervals.scorer(unit.predictions, metric, names, families)
    return scorers
