"""Rows of the study without a network: classical models on hand-made features."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import classical
from benchmarks.study import rows
from sft_jax.compare.rows import Row, Unit, read_predictions, write_predictions
from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import DatasetInfo
from sft_jax.data.registry import open_dataset
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory

_SEEDED = ("random forest",)
"""Models that depend on the seed. The others are fitted once, and count for every seed."""


def fit_row(
    config: ExperimentConfig, method: str, seeds: Sequence[int], metric: str, folder: pathlib.Path
) -> dict[str, Any]:
    """Fits a model of each fold and seed, with settings chosen by validation.

    Args:
      config: Config of the set.
      method: Name in `benchmarks.classical.METHODS`.
      seeds: Seeds.
      metric: Metric that the settings are chosen by.
      folder: Folder for the predictions of the test split.

    Returns:
      JSON values: metrics of each run, in the form of other rows, and what was `tried`.
    """
    fitted, tried = {}, []
    for place, data in rows.folds(config, folder):
        dataset = open_dataset(data)
        for seed in seeds if method in _SEEDED else seeds[:1]:
            tuned = classical.tune(dataset, method, seed, metric=metric)
            place.mkdir(parents=True, exist_ok=True)
            path = storage.as_path(place / f"{seed}.npz")
            write_predictions(path, 0, tuned.predictions["test"])
            fitted[place.name, seed] = tuned
            tried.append({"chosen": tuned.settings, "tried": tuned.tried})
    valid = [one.metrics["valid"][metric] for one in fitted.values()]
    tested = [one.metrics["test"] for one in fitted.values()]
    return {"tuning": tried, "valid": rows.summary(valid), **rows.test_values(tested)}


def tested(
    config: ExperimentConfig,
    method: str,
    seeds: Sequence[int],
    info: DatasetInfo,
    folder: pathlib.Path,
) -> Row:
    """Results of `fit_row` in the form of trained runs, to compare with them.

    Args:
      config: Config of the set.
      method: Name of the model.
      seeds: Seeds; those of a model without seeds all have the same predictions.
      info: Description of the data.
      folder: Folder with the predictions.
    """
    units = {}
    for number, (place, _) in enumerate(rows.folds(config, folder)):
        fold = "" if place == folder else str(number)
        for seed in seeds:
            file = f"{seed if method in _SEEDED else seeds[0]}.npz"
            own = read_predictions(storage.as_path(place / file), 0)
            if own is None:
                raise FileNotFoundError(f"{place / file}: remove the row {method!r} to fit it anew")
            result: Mapping[str, Any] = task_metrics(own, info.class_names, info.metrics)
            units[fold, seed] = Unit(
                RunDirectory(storage.as_path(place)), fold, seed, result, own, True
            )
    return Row(method, storage.as_path(folder), config, info, units)
