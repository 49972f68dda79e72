"""Rows of the study: training with a tuned learning rate, and the results of each seed."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.study.sets import StudyRow
from benchmarks.variant import Variant
from sft_jax import experiment
from sft_jax.compare import intervals
from sft_jax.compare.rows import Request, Row, read_row
from sft_jax.config import ExperimentConfig
from sft_jax.data.metric_families import Better
from sft_jax.modules.factory import build_model
from sft_jax.profile import flops
from sft_jax.profile.budgets import evaluate_budgets
from sft_jax.runs import storage
from sft_jax.runs.directory import FOLD
from sft_jax.selection import find_metric
from sft_jax.training.programs import SharedPrograms


def experiment_of(base: Variant, row: StudyRow, manual_dir: str) -> ExperimentConfig:
    """Config of a row, before its learning rate is tuned."""
    changes = {**base.changes, **row.changes}
    return Variant(base.config, base.argument, changes).experiment(manual_dir)


def train_row(
    config: ExperimentConfig, row: StudyRow, seeds: Sequence[int], folder: pathlib.Path
) -> dict[str, Any]:
    """Chooses the learning rate by validation, and trains and tests with it.

    The rate is chosen with the first seed. The test split is evaluated for the chosen rate alone.
    With `data.folds` all folds are trained, and choose together.

    Args:
      config: Config of the row.
      row: The row.
      seeds: Seeds; the first also chooses the rate.
      folder: Folder of the run directories. Runs that it has are not trained again.

    Returns:
      JSON values of the row.
    """
    shared, metric = SharedPrograms(), config.train.best_metric

    def train(factor: float, numbers: Sequence[int]) -> pathlib.Path:
        place = folder / f"rate_{factor:g}"
        optim = dataclasses.replace(config.optim, lr=config.optim.lr * factor)
        changed = dataclasses.replace(config, optim=optim, seeds=tuple(numbers))
        for own, data in folds(changed, place):
            experiment.train_seeds(dataclasses.replace(changed, data=data), own, shared=shared)
        return place

    tuned = {}
    for factor in row.rates if len(row.rates) > 1 else ():
        values, better = _validation(train(factor, seeds[:1]), metric)
        tuned[factor] = statistics.fmean(values)
    if tuned:
        chosen = (max if better == "higher" else min)(tuned, key=lambda factor: tuned[factor])
    else:
        (chosen,) = row.rates
    place = train(chosen, seeds)
    read = _read(place, "test")
    result = {
        "changes": dict(row.changes),
        "tuning": {f"{factor:g}": value for factor, value in tuned.items()},
        "rate": chosen,
        "lr": config.optim.lr * chosen,
        "valid": summary(_validation(place, metric)[0]),
        **test_values([unit.result for unit in read.units.values()]),
        **_size(read),
    }
    if row.budgets or row.strides or row.depths:
        result["settings"] = _settings(place, row)
    return result


def tested(folder: pathlib.Path, result: Mapping[str, Any]) -> Row:
    """Results of a row's runs on the test split, from its folder and its JSON values."""
    return _read(folder / f"rate_{result['rate']:g}", "test")


def test_values(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of the test split of each run, by name, and numbers of examples.

    Args:
      results: Results of the runs (`sft_jax.evaluation.metrics.task_metrics`).
    """
    each = [intervals.scalars(result) for result in results]
    common = [name for name in each[0] if all(values.get(name) is not None for values in each)]
    return {
        "test": {name: summary([values[name] for values in each]) for name in common},
        "steps": [result.get("step") for result in results],
        "n_examples": [result["n_examples"] for result in results],
    }


def summary(values: Sequence[Any]) -> dict[str, Any]:
    """Values with their mean and sample standard deviation, None for one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"values": list(values), "mean": statistics.fmean(values), "std": deviation}


def folds(config: ExperimentConfig, place: pathlib.Path) -> Iterator[tuple[pathlib.Path, Any]]:
    """Folder and data of each fold; the folder itself without folds."""
    data: Any = config.data
    count = getattr(data, "folds", 0)
    if not count:
        yield place, data
    for fold in range(count):
        yield place / f"{FOLD}{fold}", dataclasses.replace(data, fold=fold)


def _read(place: pathlib.Path, split: str) -> Row:
    return read_row(place.name, storage.as_path(place), Request(split=split))


def _validation(place: pathlib.Path, best_metric: str) -> tuple[list[float], Better]:
    """Validation metric that selects checkpoints, of each run, and its better direction."""
    read = _read(place, "valid")
    task, count = read.config.model.task, len(read.info.class_names)
    selection = find_metric(task, best_metric, count)
    values = [intervals.scalars(unit.result)[selection.name] for unit in read.units.values()]
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        raise ValueError(f"{place}: {selection.name} is undefined on the validation split")
    return defined, selection.better


def _size(row: Row) -> dict[str, Any]:
    """Parameters, operations and tokens of one full-length example."""
    shapes = row.info.modalities
    model = build_model(row.config.model, shapes, len(row.info.class_names))
    return {
        "parameters": flops.num_parameters(model),
        "flops": flops.forward_cost(model).flops,
        "tokens": {name: spec.num_tokens for name, spec in shapes.items()},
    }


def _settings(place: pathlib.Path, row: StudyRow) -> list[dict[str, Any]]:
    """Test metrics and operations of the runs with each budget, stride or number of blocks."""
    evaluated = evaluate_budgets(
        place, "test", "best", row.budgets, strides=row.strides, depths=row.depths
    )
    return [
        {name: value for name, value in line.items() if name != "milliseconds"}
        for line in evaluated["budgets"]
    ]
