"""Intervals of differences: over runs by Student's t, over examples by the bootstrap."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.stats

from sft_jax.compare.curves import Curve
from sft_jax.evaluation.binary import log_odds
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import is_family, task_metrics
from sft_jax.ops.losses import SCORE_NAMES, example_scores

RESAMPLES = 1_000
"""Default number of resamples of the bootstrap."""

Interval: TypeAlias = tuple[float, float]

Scorer: TypeAlias = Callable[[np.ndarray], float | None]
"""Function from the indices of examples, `[n]`, to a metric of these examples."""


def over_runs(differences: Sequence[float], confidence: float) -> Interval | None:
    """Computes the interval of Student's paired t-test, `mean ± t * sd / sqrt(n)`.

    Args:
      differences: Difference of each pair of runs, of one seed or fold.
      confidence: Probability that the interval covers the mean difference of further pairs, if
        differences are normal.

    Returns:
      The ends of the interval; None for fewer than two pairs.
    """
    n = len(differences)
    if n < 2:
        return None
    half = scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(differences, ddof=1) / n**0.5
    mean = float(np.mean(differences))
    return mean - float(half), mean + float(half)


def over_examples(
    first: Mapping[str, Sequence[Scorer]],
    second: Mapping[str, Sequence[Scorer]],
    sizes: Mapping[str, int],
    confidence: float,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Computes the percentile interval of the paired bootstrap over the examples of a split.

    Each resample draws as many examples as there are, with replacement, within each fold. Both
    sides get the same examples. A side is the mean over its runs: within a fold, then over folds
    (Efron & Tibshirani 1993, chapter 13).

    Args:
      first: Metric of each run by fold.
      second: Metric of each run by fold, whose difference from `first` is wanted.
      sizes: Number of examples by fold.
      confidence: Probability of the interval.
      resamples: Number of resamples. They are drawn from the same seed in each call.

    Returns:
      The ends of the interval; None if the metric is not defined for some resample.
    """
    random = np.random.default_rng(0)
    differences = []
    for _ in range(resamples):
        drawn = {fold: random.integers(n, size=n) for fold, n in sizes.items()}
        means = [_mean(side, drawn) for side in (first, second)]
        if None in means:
            return None
        differences.append(means[1] - means[0])
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def over_both(
    first: Sequence[Sequence[tuple[str, Scorer]]],
    second: Sequence[Sequence[tuple[str, Scorer]]],
    sizes: Mapping[str, int],
    confidence: float,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Computes the percentile interval of the paired bootstrap over runs and examples together.

    Each resample draws as many pairs as there are, and as many examples of each fold, both with
    replacement. All pairs get the same examples. With few pairs the interval is too narrow: `n`
    pairs have `(n - 1) / n` of the variance between them (Davison & Hinkley 1997, section 3.8).

    Args:
      first: Fold and metric of the runs of each pair, one for each seed or several of a fold.
      second: The same of the runs whose difference from `first` is wanted, in the same order.
      sizes: Number of examples by fold.
      confidence: Probability of the interval.
      resamples: Number of resamples. They are drawn from the same seed in each call.

    Returns:
      The ends of the interval; None for fewer than two pairs, or if the metric is not defined for
      some resample.
    """
    if len(first) < 2:
        return None
    random = np.random.default_rng(0)
    differences = []
    for _ in range(resamples):
        drawn = {fold: random.integers(n, size=n) for fold, n in sizes.items()}
        pairs = random.integers(len(first), size=len(first))
        values = {pair: [_over(side[pair], drawn) for side in (first, second)] for pair in {*pairs}}
        if any(None in pair for pair in values.values()):
            return None
        differences.append(np.mean([values[pair][1] - values[pair][0] for pair in pairs]))
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _over(runs: Sequence[tuple[str, Scorer]], drawn: Mapping[str, np.ndarray]) -> Any:
    values = [scorer(drawn[fold]) for fold, scorer in runs]
    return None if None in values else np.mean([value for value in values if value is not None])


def _mean(side: Mapping[str, Sequence[Scorer]], drawn: Mapping[str, np.ndarray]) -> Any:
    folds = []
    for fold, scorers in side.items():
        values = [scorer(drawn[fold]) for scorer in scorers]
        defined = [value for value in values if value is not None]
        if len(defined) < len(values):
            return None
        folds.append(np.mean(defined))
    return np.mean(folds)


def scorer(
    predictions: Predictions, metric: str, names: Sequence[str], families: Sequence[str]
) -> Scorer:
    """Makes the function that computes a metric of some of the examples of predictions.

    A mean over examples is taken of scores that are computed once, and areas under curves of
    examples that are sorted once. Any other metric is computed anew by `task_metrics`.

    Args:
      predictions: Predictions of a split.
      metric: Name in `scalars`.
      names: Names of the classes, labels or targets.
      families: Families of metrics that the metric may belong to.
    """
    task = predictions.task
    if metric in (SCORE_NAMES[task], "loss"):
        scores = (
            predictions.loss
            if metric == "loss"
            else np.asarray(example_scores(task, predictions.logits, predictions.labels))
        )
        values = scores.astype(np.float64)
        return lambda indices: float(values[indices].mean())
    if curves := _curves(predictions, metric):
        area = metric.removeprefix(_MACRO)
        return lambda indices: _mean_defined([getattr(curve, area)(indices) for curve in curves])
    needed = [family for family in families if metric.startswith(f"{family}.")]

    def compute(indices: np.ndarray) -> float | None:
        arrays = {name: getattr(predictions, name)[indices] for name in _ARRAYS}
        some = dataclasses.replace(predictions, **arrays)
        return scalars(task_metrics(some, names, needed))[metric]

    return compute


_ARRAYS = ("ids", "labels", "logits", "loss")
_AREAS = ("roc_auc", "average_precision")
_MACRO = "macro_"


def _curves(predictions: Predictions, metric: str) -> list[Curve]:
    """Curves whose mean area is the metric: of two classes or each label; none for others."""
    task, labels, logits = predictions.task, predictions.labels, predictions.logits
    if task == "single_label" and metric in _AREAS:
        return [Curve(labels == 1, log_odds(logits))]
    if task == "multi_label" and metric in (f"{_MACRO}{area}" for area in _AREAS):
        return [Curve(labels[:, i] > 0.5, logits[:, i]) for i in range(logits.shape[1])]
    return []


def _mean_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def scalars(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics of a result by name; those of a family are `FAMILY.METRIC`."""
    values: dict[str, float | None] = {}
    for name, value in result.items():
        if is_family(name):
            values |= {f"{name}.{inner}": number for inner, number in scalars(value).items()}
        elif value is None or isinstance(value, float):
            values[name] = value
    return values


def by_fold(values: Mapping[tuple[str, int], Any]) -> dict[str, list[Any]]:
    """Groups the values of runs, whose keys are fold and seed, by fold."""
    groups: dict[str, list[Any]] = collections.defaultdict(list)
    for (fold, _), value in values.items():
        groups[fold].append(value)
    return dict(groups)
