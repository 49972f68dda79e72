"""The runs of a sweep: all are checked before the first starts, then trained one by one."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from sft_jax import config_io, experiment
from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import Dataset, DatasetInfo, check_task
from sft_jax.data.outline import Outline, outline
from sft_jax.data.registry import dump, open_dataset
from sft_jax.evaluation.restored import is_done
from sft_jax.parallel import preemption, sharding
from sft_jax.runs import storage
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import (
    FOLD,
    RunDirectory,
    RunDirectoryError,
    SeedsDirectory,
    with_seed,
)
from sft_jax.runs.ownership import owned
from sft_jax.runs.storage import AnyPath
from sft_jax.selection import find_metric
from sft_jax.sweep.devices import side_by_side
from sft_jax.sweep.grid import Combination, config_with, name
from sft_jax.training import assembly
from sft_jax.training.programs import SharedPrograms
from sft_jax.training.session import Best

_logger = logging.getLogger(__name__)

TABLE = "sweep.csv"
"""File of the table in the folder of a sweep."""

_STEPS_PER_EPOCH = 1000
"""Length of an epoch when a config is checked; no check depends on it."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
      name: Path of the run within the folder of the sweep.
      path: Run directory, or folder of the runs of several seeds.
      combination: Fields that tell the run from the others.
      config: Experiment.
    """

    name: str
    path: AnyPath
    combination: Combination
    config: ExperimentConfig


@dataclasses.dataclass(frozen=True)
class Outcome:
    """State of one run of a sweep.

    Attributes:
      run: The run.
      state: waiting, running, done or failed.
      best: Best validation metric of each seed; None if no evaluation gave a finite one.
      error: Message of the error by which the run failed.
    """

    run: Planned
    state: str = "waiting"
    best: Mapping[int, float | None] = dataclasses.field(default_factory=dict)
    error: str = ""


def plan(
    base: ml_collections.ConfigDict,
    combinations: Sequence[Combination],
    workdir: AnyPath,
    dataset: Dataset | None = None,
    devices: Sequence[jax.Device] = (),
) -> list[Planned]:
    """Makes the runs of a sweep, and checks each config and that its model fits the data.

    With `data.folds` there is a run for each fold. It is in `fold_0`, `fold_1` and so on of the
    folder of its combination.

    Args:
      base: Config whose fields the combinations replace.
      combinations: Fields and values of each run.
      workdir: Folder of the run directories.
      dataset: Dataset of all runs; by default the one that each config names.
      devices: Devices of each run; by default all.

    Raises:
      ValueError: If a run is invalid; the message names all such runs and their problems. Also if
        two runs have the same name.
      RunDirectoryError: If `workdir` is itself a run directory.
      OSError, ModuleNotFoundError: See `sft_jax.data.registry.open_dataset`.
    """
    if RunDirectory(workdir).config_file.exists():
        raise RunDirectoryError(
            f"{workdir} is a run directory: give a sweep another --workdir, a folder of runs"
        )
    runs: dict[str, Planned] = {}
    problems: list[str] = []
    outlines: dict[str, Outline] = {}
    shared = SharedPrograms()
    for combination in combinations:
        text = name(combination)
        if text in runs:
            raise ValueError(
                f"two runs would be named {text}: {dict(runs[text].combination)} and"
                f" {dict(combination)}"
            )
        try:
            config = config_with(base, combination)
            mesh = sharding.make_mesh(config.mesh, [*devices])
            _check(config, mesh, dataset, outlines, shared)
        except ValueError as error:
            problems.append(f"{text}: {error}")
        else:
            runs[text] = Planned(text, workdir / text, combination, config)
    if problems:
        raise ValueError(
            "\n".join([f"{len(problems)} of {len(combinations)} runs are invalid:", *problems])
        )
    return [one for run in runs.values() for one in _folds(run)]


def _folds(run: Planned) -> list[Planned]:
    """Makes a run for each fold of the data; the run itself if the data has none."""
    data: Any = run.config.data
    return [
        Planned(
            f"{run.name}/{FOLD}{fold}",
            run.path / f"{FOLD}{fold}",
            {**run.combination, "data.fold": str(fold)},
            dataclasses.replace(run.config, data=dataclasses.replace(data, fold=fold)),
        )
        for fold in range(getattr(data, "folds", 0))
    ] or [run]


def _check(
    config: ExperimentConfig,
    mesh: Mesh,
    dataset: Dataset | None,
    outlines: dict[str, Outline],
    shared: SharedPrograms,
) -> None:
    """Raises ValueError unless the parts of training can be made for the data."""
    key = json.dumps(dump(config.data), sort_keys=True)
    if dataset is not None:
        info = dataset.info
        outlines[key] = Outline(info.modalities, len(info.class_names), info.task)
    elif key not in outlines:
        outlines[key] = outline(config.data)
    data, size = outlines[key], config.train.batch_size
    check_task(config.model.task, data.task)
    sharding.check_batch_size(size, config.train.accumulate, mesh)
    assembly.assemble_model(
        config,
        data.modalities,
        data.num_outputs,
        num_examples=_STEPS_PER_EPOCH * size,
        mesh=mesh,
        shared=shared,
    )


def train_all(
    runs: Sequence[Planned],
    workdir: AnyPath,
    dataset: Dataset | None = None,
    show: Callable[[Outcome], None] | None = None,
    devices: Sequence[jax.Device] = (),
) -> list[Outcome]:
    """Trains the runs of a sweep, and writes their table whenever one starts or ends.

    A finished run is left as it is, and a run that was stopped resumes. A run that fails is
    reported, and the others go on. Runs whose programs differ only in numbers that these take as
    arguments compile them once (`sft_jax.training.values`).

    Args:
      runs: Runs from `plan`.
      workdir: Folder of the table, `sweep.csv`.
      dataset: Dataset of all runs; by default the one that each config names.
      show: Function of the outcome of each run, called when the run ends.
      devices: Devices that each train a run at a time. By default the runs are trained one after
        the other, each on all devices.

    Raises:
      PreemptedError: If the process was asked to end; the same runs resume later.
      RunDirectoryError: If `workdir` can't be written to, or another process trains a sweep in it.
    """
    training = _Training(runs, workdir / TABLE, dataset, show)
    with owned(workdir):
        if devices:
            if dataset is None:  # Two runs must not prepare the same data at once.
                for config in _different([run.config.data for run in runs]):
                    open_dataset(config)
            side_by_side(training.work, devices)
        else:
            training.work()
    return training.outcomes


def _different(values: Sequence[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]


class _Training:
    """Runs of a sweep in training, by one or several threads."""

    def __init__(
        self,
        runs: Sequence[Planned],
        table: AnyPath,
        dataset: Dataset | None,
        show: Callable[[Outcome], None] | None,
    ) -> None:
        self.outcomes = [Outcome(run) for run in runs]
        self._table, self._dataset, self._show = table, dataset, show
        self._numbers, self._lock = iter(range(len(runs))), threading.Lock()

    def work(self, device: jax.Device | None = None) -> None:
        """Trains one waiting run after the other, on one device or on all."""
        shared = SharedPrograms()
        while (number := self._next()) is not None:
            run = self.outcomes[number].run
            place = "" if device is None else f", on {device}"
            _logger.info("run %d of %d: %s%s", number + 1, len(self.outcomes), run.path, place)
            outcome = _train(run, self._dataset, shared, device)
            self._record(number, outcome)
            if self._show:
                self._show(outcome)

    def _next(self) -> int | None:
        """Takes the next run, unless the process must end."""
        with self._lock:
            number = None if preemption.is_asked() else next(self._numbers, None)
        if number is not None:
            self._record(number, Outcome(self.outcomes[number].run, "running"))
        return number

    def _record(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes[number] = outcome
            write_table(self._table, self.outcomes)


def _train(
    run: Planned, dataset: Dataset | None, shared: SharedPrograms, device: jax.Device | None
) -> Outcome:
    try:
        if (best := _finished(run)) is not None:
            _logger.info("finished already")
        else:
            start = experiment.train_seeds if run.config.seeds else experiment.train
            devices = None if device is None else [device]
            start(run.config, run.path, dataset, shared=shared, devices=devices)
            best = _finished(run)
    except Exception as error:  # The other runs go on, and the exit status tells.
        _logger.error("%s failed", run.path, exc_info=error)
        return Outcome(run, "failed", error=f"{type(error).__name__}: {error}")
    return Outcome(run, "done", best or {})


def _finished(run: Planned) -> dict[int, float | None] | None:
    """Best validation metric of each seed; None unless all runs of this config are finished."""
    numbers = run.config.seeds
    places = SeedsDirectory(run.path, numbers).runs if numbers else {}
    best: dict[int, float | None] = {}
    for seed, place in (places or {run.config.seed: RunDirectory(run.path)}).items():
        config = config_io.resolved(with_seed(run.config, seed))
        if not place.config_file.exists():
            return None
        if config_io.differences(place.read_config(), config, results_only=True):
            return None  # Training refuses to go on, and names the differences.
        with contextlib.closing(Checkpoints(place.path, read_only=True)) as checkpoints:
            if not checkpoints.steps("latest"):
                return None
            info = DatasetInfo.from_json(checkpoints.description("latest")["dataset"])
            if not is_done(config, info, checkpoints):
                return None
            selection = find_metric(config.model.task, config.train.best_metric)
            best[seed] = Best.read(checkpoints, selection).value
    return best


def write_table(path: AnyPath, outcomes: Sequence[Outcome]) -> None:
    """Writes a CSV file with a line for each run: its fields, state and best validation metric.

    Args:
      path: Path of the file.
      outcomes: State of each run.
    """
    fields = dict.fromkeys(field for o in outcomes for field in o.run.combination)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["run", *fields, "state", "metric", "mean", "values", "error"])
    for outcome in outcomes:
        row: list[Any] = [outcome.run.name]
        row += [outcome.run.combination.get(field, "") for field in fields]
        values = ["" if value is None else repr(value) for value in outcome.best.values()]
        row += [outcome.state, f"valid {outcome.run.config.train.best_metric}"]
        writer.writerow([*row, mean(outcome), "; ".join(values), outcome.error])
    storage.write_whole(path, text.getvalue())


def mean(outcome: Outcome) -> float | None:
    """Mean of the best validation metric over the seeds; None if it is not known for each."""
    values = [value for value in outcome.best.values() if value is not None]
    return sum(values) / len(values) if values and len(values) == len(outcome.best) else None
