"""Rows of a comparison: runs that are found in folders, with their results and predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import Dataset, DatasetInfo
from sft_jax.evaluation import report, run
from sft_jax.evaluation.evaluator import Evaluator, Predictions
from sft_jax.evaluation.restored import OpenedRun, is_done, restore
from sft_jax.runs import storage
from sft_jax.runs.checkpoint import Checkpoints, NoCheckpointError
from sft_jax.runs.directory import (
    FOLD,
    RunDirectory,
    RunDirectoryError,
    SeedsDirectory,
    check_settings,
)
from sft_jax.runs.storage import AnyPath

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """Results that a comparison is made of.

    Attributes:
      split: Name of the split: train, valid or test.
      which: Name of the checkpoint: best, latest, or a step.
      evaluate: Whether to evaluate runs that lack a result or its predictions.
      dataset: Data to evaluate on; by default the data of each run's config.
    """

    split: str = "test"
    which: str = "best"
    evaluate: bool = True
    dataset: Dataset | None = None

    @property
    def stem(self) -> str:
        """Name of the files of a result, without their ending."""
        parts = {"split": self.split, "checkpoint": self.which, "left_out": [], "modalities": []}
        return report.file_stem(parts)


@dataclasses.dataclass(frozen=True)
class Unit:
    """Result of one run of a row.

    Attributes:
      run: Run directory.
      fold: Name of the fold; empty without cross-validation.
      seed: Seed of the run.
      result: Result of `sft_jax.evaluation.run.evaluate_run`.
      predictions: Predictions behind the result; None if they can't be made here.
      done: True if the run has been trained to its end.
    """

    run: RunDirectory
    fold: str
    seed: int
    result: Mapping[str, Any]
    predictions: Predictions | None
    done: bool

    def __str__(self) -> str:
        return f"fold {self.fold}, seed {self.seed}" if self.fold else f"seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs that are taken together, with one config except seed and fold.

    Attributes:
      name: Name in the table.
      path: Run directory, or folder of several.
      config: Config of the first run.
      info: Data that the first run was trained on.
      units: Result of each run, by fold and seed.
    """

    name: str
    path: AnyPath
    config: ExperimentConfig
    info: DatasetInfo
    units: Mapping[tuple[str, int], Unit]


def find(paths: Sequence[str | os.PathLike[str]]) -> tuple[dict[str, AnyPath], list[str]]:
    """Finds the rows that paths name, in their order.

    Args:
      paths: Run directories, and folders of the runs of several seeds or folds (`fold_0`). Also
        folders of all these, such as that of a sweep. Files are passed over, since a shell puts
        them in place of `runs/*`.

    Returns:
      Name of each row to its path, and names of the rows that were found within a folder.

    Raises:
      RunDirectoryError: If a folder holds no run, or does not exist.
    """
    listed: list[AnyPath] = []
    within: list[AnyPath] = []
    for path in map(storage.as_path, paths):
        if not path.exists():
            raise RunDirectoryError(f"{path}: there is no such run directory")
        if not path.is_dir():
            continue
        if _is_row(path):
            listed.append(path)
            continue
        if not (inner := [folder for folder in _folders(path) if _is_row(folder)]):
            raise RunDirectoryError(f"{path} is not a run directory, and holds none")
        listed += inner
        within += inner
    listed = list(dict.fromkeys(listed))
    if not listed:
        raise RunDirectoryError("no run is named: give at least one run directory")
    names = [path.name for path in listed]
    unique = len({*names}) == len(names)
    named = {path.name if unique else str(path): path for path in listed}
    return named, [name for name, path in named.items() if path in within]


def _is_row(path: AnyPath) -> bool:
    return RunDirectory(path).config_file.exists() or bool(_folds(path))


def _folds(path: AnyPath) -> dict[str, AnyPath]:
    return {
        folder.name.removeprefix(FOLD): folder
        for folder in _folders(path)
        if folder.name.startswith(FOLD) and RunDirectory(folder).config_file.exists()
    }


def _folders(path: AnyPath) -> list[AnyPath]:
    """Folders in a folder; numbers in their names are compared as numbers."""

    def order(folder: AnyPath) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", folder.name)
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return sorted((entry for entry in path.iterdir() if entry.is_dir()), key=order)


def read_row(name: str, path: AnyPath, request: Request) -> Row:
    """Reads the results of a row, and evaluates the runs that lack one.

    Args:
      name: Name of the row.
      path: Run directory, or folder of the runs of several seeds or folds.
      request: Results to read.

    Raises:
      RunDirectoryError: If a result is missing and the run is not evaluated; the message says
        which command makes it. Also if the runs of a folder differ in more than their seeds.
      NoCheckpointError, DamagedCheckpointError, NotFiniteError, OSError, ValueError: See
        `sft_jax.evaluation.run.evaluate_run`.
    """
    units: dict[tuple[str, int], Unit] = {}
    first: tuple[ExperimentConfig, DatasetInfo] | None = None
    for fold, folder in (_folds(path) or {"": path}).items():
        reader = _Reader(request, folder)
        for place in _runs(folder):
            unit, config, info = reader.read(fold, place)
            units[fold, unit.seed] = unit
            first = first or (config, info)
    assert first is not None
    return Row(name, path, *first, units)


def _runs(folder: AnyPath) -> Iterator[RunDirectory]:
    own = RunDirectory(folder)
    if not own.read_config(data=False).seeds:
        yield own
        return
    runs = [*SeedsDirectory.existing(folder).runs.values()]
    if not runs:
        raise RunDirectoryError(f"{folder} holds no runs of seeds: there is no seed_N in it")
    check_settings(runs[0].read_config(), runs[1:])
    yield from runs


class _Reader:
    """Results of runs that differ in their seeds alone, and share a model."""

    def __init__(self, request: Request, folder: AnyPath) -> None:
        self._request, self._folder = request, folder
        self._like: tuple[OpenedRun, Evaluator] | None = None

    def read(self, fold: str, place: RunDirectory) -> tuple[Unit, ExperimentConfig, DatasetInfo]:
        """Reads the result of a run, or makes it."""
        request, config = self._request, place.read_config()
        with contextlib.closing(Checkpoints(place.path, read_only=True)) as checkpoints:
            try:
                description = checkpoints.description(request.which)
            except NoCheckpointError as error:
                raise NoCheckpointError(f"{place}: {error}") from None
            step = _step(checkpoints, request.which)
            info = DatasetInfo.from_json(description["dataset"])
            done = is_done(config, info, checkpoints)
        result = _read_result(place.results / f"{request.stem}.json", step)
        predictions = read_predictions(_predictions_file(place, request), step)
        own = bool(description.get("own_dataset")) and request.dataset is None
        if request.evaluate and (result is None or (predictions is None and not own)):
            try:
                result, predictions = self._evaluate(place)
            except (RunDirectoryError, OSError, ModuleNotFoundError) as error:
                if result is None:
                    raise
                _logger.warning("%s: no interval over examples, because: %s", place, error)
        if result is None:
            raise RunDirectoryError(
                f"{place} has no result of step {step} on the split {request.split}: make it by"
                f" python eval.py --workdir={self._folder} --split={request.split}"
                f" --checkpoint={request.which}"
            )
        return Unit(place, fold, config.seed, result, predictions, done), config, info

    def _evaluate(self, place: RunDirectory) -> tuple[dict[str, Any], Predictions]:
        request = self._request
        place.make_results()
        _logger.info("evaluating %s on the split %s", place, request.split)
        like = self._like[0] if self._like else None
        restored = restore(place, request.which, request.dataset, like)
        if self._like is None:
            self._like = restored.run, restored.run.evaluator(request.split, None)
        evaluator = self._like[1]
        result, predictions = run.evaluate_restored(
            place, restored, evaluator, request.split, request.which
        )
        write_predictions(_predictions_file(place, request), restored.step, predictions)
        return result, predictions


def _step(checkpoints: Checkpoints, which: str) -> int:
    if which == "best":
        return checkpoints.steps("best")[-1]
    if which == "latest":
        return max(s for kind in ("latest", "best", "stopped") for s in checkpoints.steps(kind))
    return int(which)


def _read_result(path: AnyPath, step: int) -> dict[str, Any] | None:
    """Reads a result; None if there is none, or it is of another step."""
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
    except ValueError as error:  # Of the text, or of its JSON.
        raise RunDirectoryError(f"{path} is damaged: {error}") from None
    if not isinstance(result, dict):
        raise RunDirectoryError(f"{path} is damaged: expected an object")
    return result if result.get("step") == step else None


def _predictions_file(place: RunDirectory, request: Request) -> AnyPath:
    return place.results / f"{request.stem}_predictions.npz"


def write_predictions(path: AnyPath, step: int, predictions: Predictions) -> None:
    """Writes the predictions of a step, so that a later comparison need not evaluate again."""
    content = io.BytesIO()
    arrays: dict[str, Any] = dataclasses.asdict(predictions)
    arrays |= {"step": step, "ids": predictions.ids.astype(str)}
    np.savez_compressed(content, **arrays)
    storage.write_whole(path, content.getvalue())


def read_predictions(path: AnyPath, step: int) -> Predictions | None:
    """Reads predictions; None if there are none, or they are of another step."""
    if not path.exists():
        return None
    with np.load(io.BytesIO(path.read_bytes())) as arrays:
        values: dict[str, Any] = {name: arrays[name] for name in arrays}
    if int(values.pop("step")) != step:
        return None
    return Predictions(**{**values, "task": str(values["task"])})
