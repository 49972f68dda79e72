"""Comparison of rows with a baseline: means, paired differences and costs."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sft_jax import config_io
from sft_jax.compare import intervals
from sft_jax.compare.differences import Difference, difference, values_by_label
from sft_jax.compare.rows import Request, Row, Unit, find, read_row
from sft_jax.modules.factory import build_model
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.profile import budgets, flops
from sft_jax.runs.checkpoint import NoCheckpointError
from sft_jax.runs.storage import AnyPath

_OF_MODELS = ("data.modalities", "data.patch_size")
"""Fields of the data that models may choose, on the same examples."""


class ComparisonError(ValueError):
    """Error for runs that can't be compared."""


@dataclasses.dataclass(frozen=True)
class Line:
    """Line of the table.

    Attributes:
      name: Name of the runs.
      path: Run directory, or folder of several.
      labels: Seed or fold of each value.
      values: Metric of each seed, or of each fold as the mean over its seeds; None if undefined.
      mean: Mean of the values.
      std: Sample standard deviation of the values; None for one.
      difference: Difference from the baseline; None for the baseline itself.
      parameters: Number of trainable parameters.
      flops: Operations of the logits of one full-length example.
      milliseconds: Median time of these logits on one device; None if not measured.
    """

    name: str
    path: AnyPath
    labels: tuple[str, ...]
    values: tuple[float | None, ...]
    mean: float | None
    std: float | None
    difference: Difference | None
    parameters: int
    flops: int
    milliseconds: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Table of runs.

    Attributes:
      split: Name of the split.
      checkpoint: Name of the checkpoints.
      metric: Name of the metric.
      confidence: Probability of the intervals.
      baseline: Name of the line that the others are compared with.
      n_examples: Number of examples in the split, over all folds.
      device: Kind of the device that times were measured on.
      lines: Lines in the order of the runs.
      notes: Sentences about runs that are unlike the baseline.
    """

    split: str
    checkpoint: str
    metric: str
    confidence: float
    baseline: str
    n_examples: int
    device: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def compare(
    runs: Sequence[str | os.PathLike[str]],
    metric: str | None = None,
    baseline: str | None = None,
    request: Request | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = intervals.RESAMPLES,
    measure: bool = True,
) -> Comparison:
    """Compares trained runs, and evaluates those that lack a result.

    Runs are paired by seed, or by fold as the mean over its seeds.

    Args:
      runs: Run directories, or folders of several (`find`).
      metric: Name of a metric of the task, or `FAMILY.METRIC`; by default accuracy or mae
        (`SCORE_NAMES`).
      baseline: Name or path of the row to compare with; by default the first.
      request: Split, checkpoint and data of the results.
      confidence: Probability of the intervals.
      resamples: Number of resamples of the bootstrap; 0 for no interval over examples.
      measure: Whether to measure times.

    Raises:
      ComparisonError: If the runs have no common metric, or were evaluated on other examples.
      ValueError: If an argument is out of range, or names no metric or row. Also see `read_row`.
      RunDirectoryError, NotFiniteError, OSError: See `find` and `read_row`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number above 0 and below 1")
    if resamples < 0:
        raise ValueError(f"resamples={resamples}: expected 0 or more")
    request = request or Request()
    rows, notes = _read(runs, request)
    base = _baseline(rows, baseline)
    metric = metric or SCORE_NAMES[base.config.model.task]
    for row in rows:
        _check_metric(row, metric)
        _check_examples(row, base)
        notes += _notes(row, base)
    lines = []
    for row in rows:
        own = None if row is base else difference(row, base, metric, confidence, resamples)
        lines.append(_line(row, metric, own, measure=measure))
    sizes = {fold: unit.result["n_examples"] for (fold, _), unit in base.units.items()}
    return Comparison(
        split=request.split,
        checkpoint=request.which,
        metric=metric,
        confidence=confidence,
        baseline=base.name,
        n_examples=sum(sizes.values()),
        device=jax.local_devices()[0].device_kind,
        lines=tuple(lines),
        notes=tuple(notes),
    )


def _read(runs: Sequence[str | os.PathLike[str]], request: Request) -> tuple[list[Row], list[str]]:
    """Reads all rows; a run without checkpoint within a folder is noted and left out."""
    paths, within = find(runs)
    rows, notes = [], []
    for name, path in paths.items():
        try:
            rows.append(read_row(name, path, request))
        except NoCheckpointError as error:
            if name not in within:
                raise
            notes.append(f"without {name}: {error}")
    if not rows:
        raise ComparisonError("\n".join(["no run has a checkpoint:", *notes]))
    return rows, notes


def _baseline(rows: Sequence[Row], baseline: str | None) -> Row:
    if baseline is None:
        return rows[0]
    chosen = [row for row in rows if baseline.rstrip("/") in (row.name, str(row.path))]
    if not chosen:
        raise ValueError(
            f"baseline={baseline}: no such run; there are {', '.join(row.name for row in rows)}"
        )
    return chosen[0]


def _check_metric(row: Row, metric: str) -> None:
    for unit in row.units.values():
        known = intervals.scalars(unit.result)
        if metric not in known:
            raise ComparisonError(
                f"metric={metric}: {unit.run} has no such metric of the task"
                f" {row.config.model.task}; it has {', '.join(known)}"
            )


def _check_examples(row: Row, base: Row) -> None:
    """Checks that a row and the baseline were evaluated on the same examples."""
    theirs = {fold: unit for (fold, _), unit in base.units.items()}
    folds = {fold for fold, _ in row.units}
    if folds != {*theirs}:
        raise ComparisonError(
            f"{row.path} has the folds {_listed(folds)}, and {base.path} has {_listed(theirs)}:"
            " compare runs of the same folds"
        )
    names = row.info.class_names, base.info.class_names
    if names[0] != names[1]:
        raise ComparisonError(
            f"{row.path} predicts {', '.join(names[0])}, and {base.path} predicts"
            f" {', '.join(names[1])}: compare runs of the same data"
        )
    for (fold, _), unit in row.units.items():
        if problem := _unlike(unit, theirs[fold]):
            raise ComparisonError(
                f"{unit.run} and {theirs[fold].run} were evaluated on other examples: {problem}."
                " Compare runs of the same data and split"
            )


def _unlike(unit: Unit, other: Unit) -> str:
    """Describes the first difference of the examples of two runs; empty if there is none."""
    counts = unit.result["n_examples"], other.result["n_examples"]
    if counts[0] != counts[1]:
        return f"{counts[0]} and {counts[1]} of them"
    if unit.predictions is None or other.predictions is None:
        return ""
    for name in ("ids", "labels"):
        ours, theirs = getattr(unit.predictions, name), getattr(other.predictions, name)
        different = np.reshape(ours.astype(str) != theirs.astype(str), (len(ours), -1)).any(axis=1)
        if different.any():
            i = int(different.argmax())
            return f"number {i} has the {name[:-1]} {ours[i]} in one, {theirs[i]} in the other"
    return ""


def _listed(folds: Any) -> str:
    return ", ".join(sorted(folds)) if {*folds} != {""} else "none"


def _notes(row: Row, base: Row) -> list[str]:
    """States how a row is unlike the baseline, where the numbers do not show it."""
    notes = []
    if unfinished := [str(unit) for unit in row.units.values() if not unit.done]:
        notes.append(f"{row.name}: not trained to the end yet: {'; '.join(unfinished)}")
    if row.units.keys() != base.units.keys():
        common = [str(unit) for key, unit in row.units.items() if key in base.units]
        paired = f"the differences are of {'; '.join(common)}" if common else "nothing is paired"
        notes.append(
            f"{row.name}: its runs ({'; '.join(map(str, row.units.values()))}) are not those of"
            f" {base.name} ({'; '.join(map(str, base.units.values()))}): {paired}"
        )
    changed = config_io.differences(base.config, row.config, results_only=True)
    if data := [c for c in changed if c.startswith("data.") and not c.startswith(_OF_MODELS)]:
        notes.append(f"{row.name}: trained on other data than {base.name}: {'; '.join(data)}")
    return notes


def _line(row: Row, metric: str, own: Difference | None, *, measure: bool) -> Line:
    by_label = values_by_label(row, metric)
    values = [value for value in by_label.values() if value is not None]
    complete = len(values) == len(by_label)
    model = build_model(row.config.model, row.info.modalities, len(row.info.class_names))
    return Line(
        name=row.name,
        path=row.path,
        labels=tuple(by_label),
        values=tuple(by_label.values()),
        mean=statistics.fmean(values) if complete else None,
        std=statistics.stdev(values) if complete and len(values) > 1 else None,
        difference=own,
        parameters=flops.num_parameters(model),
        **_cost(model, measure=measure),
    )


def _cost(model: Any, *, measure: bool) -> dict[str, Any]:
    """Counts the operations of one example, and measures its time with parameters of zero."""
    if not measure:
        return {"flops": flops.forward_cost(model).flops, "milliseconds": None}
    shapes = flops.parameter_shapes(model)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return budgets.cost(model, zeros, [*model.modalities])
