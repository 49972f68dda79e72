"""One experiment from beginning to end, on any dataset, with one or several seeds."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.data import pipeline
from sft_jax.data.class_weights import class_weights
from sft_jax.data.dataset import Dataset
from sft_jax.data.registry import open_dataset
from sft_jax.data.standardisation import same_statistics
from sft_jax.data.tokens import log_tokens
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.evaluation.validation import Validation, check_defined
from sft_jax.inference.classifier import Classifier
from sft_jax.inference.origin import origin
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.parallel import sharding
from sft_jax.parallel.preemption import PreemptedError
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory, SeedsDirectory, with_seed
from sft_jax.runs.ownership import Ownership, owned
from sft_jax.selection import find_metric
from sft_jax.starting import begin_from, read_source
from sft_jax.training import assembly, loop
from sft_jax.training.programs import SharedPrograms
from sft_jax.training.state import TrainState

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """Result of the run of one of several seeds, without its state.

    Attributes:
      workdir: Run directory.
      steps: Number of steps taken.
      best_step: Step of the best checkpoint; see `sft_jax.training.loop.Result`.
      best_value: Validation metric of the best checkpoint.
      train_compiles: Number of times the training step was compiled, over all seeds so far.
    """

    workdir: storage.AnyPath
    steps: int
    best_step: int | None
    best_value: float | None
    train_compiles: int


def train(
    config: ExperimentConfig,
    workdir: str | os.PathLike[str],
    dataset: Dataset | None = None,
    *,
    extend: bool = False,
    shared: SharedPrograms | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> loop.Result:
    """Trains the model of a config, from the latest checkpoint of `workdir` if there is one.

    Args:
      config: Experiment, without `seeds`.
      workdir: Run directory, local or `gs://bucket/run`; made unless it exists.
      dataset: Dataset with splits `train` and `valid`, such as from
        `sft_jax.data.arrays.from_arrays`. By default the dataset that `config.data` names, which
        is prepared if necessary.
      extend: Whether a run with checkpoints may go on to more `train.epochs`. With the constant
        schedule it ends with the parameters of a run of so many epochs
        (`sft_jax.runs.extension`).
      shared: Compiled programs of other runs in this process, which the run uses where they fit,
        and adds its own to.
      devices: Devices of the run; by default all.

    Raises:
      RunDirectoryError: If `workdir` can't be written to, is in use by another process, or was
        made with another config or dataset.
      ValueError: If model and dataset do not fit each other, or `train.init_from` is no trained
        model or does not fit. Also see `open_dataset`, `assembly.assemble` and `loop.fit`.
      OSError, ModuleNotFoundError: See `open_dataset` and `storage.as_path`.
      NonFiniteError: See `loop.fit`.
    """
    if config.seeds:
        raise ValueError(f"seeds={config.seeds}: train trains one run; train_seeds trains several")
    workdir, config = storage.as_path(workdir), config_io.resolved(config)
    with owned(workdir) as owner:
        with sharding.first_process_first():
            run = RunDirectory.open(workdir, config, extend=extend)
            _check_source(config, run)
            data = _open_dataset(config, dataset, run)
        own = dataset is not None
        experiment = _assemble(config, data, own=own, shared=shared, devices=devices)
        return experiment.fit(config, run, owner)


def train_seeds(
    config: ExperimentConfig,
    workdir: str | os.PathLike[str],
    dataset: Dataset | None = None,
    *,
    extend: bool = False,
    shared: SharedPrograms | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict[int, SeedResult]:
    """Trains one run for each of `config.seeds` in turn, with the same compiled programs.

    The run of seed N is in the folder `seed_N` of `workdir`. It equals the run that `train` makes
    from the config with `seed=N` and without `seeds`. Each run resumes from its latest checkpoint
    if there is one; a finished run takes no step. More seeds may be added later.

    Args:
      config: Experiment, whose `seed` is not used.
      workdir: Folder of the run directories; made unless it exists.
      dataset: Dataset, as in `train`.
      extend: As in `train`; at least one of the runs must have checkpoints.
      shared: As in `train`.
      devices: As in `train`.

    Raises:
      RunDirectoryError: See `train`; raised before any training. Also if `workdir` itself is a
        run directory, or contains a run of another seed with another config.
      PreemptedError: If the process was asked to end; the next start trains the remaining seeds.
      ValueError: See `train`. Also if there are no seeds.
      OSError, ModuleNotFoundError, NonFiniteError: See `train`.
    """
    if not config.seeds:
        raise ValueError("seeds=(): train_seeds needs at least one; train trains one of `seed`")
    workdir, config = storage.as_path(workdir), config_io.resolved(config)
    runs = SeedsDirectory(workdir, config.seeds).runs
    results: dict[int, SeedResult] = {}
    with owned(workdir, *(run.path for run in runs.values())) as owner:
        with sharding.first_process_first():
            folder = SeedsDirectory.open(workdir, config, extend=extend)
            _check_source(config, *runs.values())
            data = _open_dataset(config, dataset, folder)
        own = dataset is not None
        experiment = _assemble(config, data, own=own, shared=shared, devices=devices)
        for number, (seed, run) in enumerate(runs.items(), start=1):
            _logger.info("seed %d, %d of %d: %s", seed, number, len(runs), run)
            results[seed], preempted = experiment.fit_seed(with_seed(config, seed), run, owner)
            if preempted and number < len(runs):
                raise PreemptedError(
                    f"stopped after seed {seed}, {number} of {len(runs)}, which are saved"
                    f" in {workdir}: run the same command again to go on from there"
                )
    return results


@dataclasses.dataclass(frozen=True)
class _Experiment:
    """Objects that the runs of an experiment share for all seeds."""

    dataset: Dataset
    own_dataset: bool
    init_from: str
    mesh: Mesh
    assembled: assembly.Assembled
    validate: Validation
    class_weights: dict[str, float]
    balance: list[int] | None

    def fit(self, config: ExperimentConfig, run: RunDirectory, owner: Ownership) -> loop.Result:
        batches = pipeline.train_iterator(
            self.dataset.source("train"),
            config.train.batch_size,
            config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            balance=self.balance,
            threads=config.system.read_threads,
        )
        return loop.fit(
            config,
            dataclasses.replace(self.assembled, new_state=lambda seed: self._begin(seed, run)),
            batches,
            self.validate,
            compile_validation=self.validate.compile,
            run=run,
            description={
                "dataset": self.dataset.info.to_json(),
                "own_dataset": self.own_dataset,
                "prepared": self.dataset.prepared,
                **({"class_weights": self.class_weights} if self.class_weights else {}),
            },
            mesh=self.mesh,
            check_owner=owner.check,
        )

    def _begin(self, seed: int, run: RunDirectory) -> TrainState:
        """Makes the initial state of a new run, and records where its parameters come from."""
        first = jax.process_index() == 0
        if not self.init_from:
            if first:  # An earlier start may have ended before its first checkpoint.
                run.origin_file.unlink(missing_ok=True)
            return self.assembled.new_state(seed)
        names = self.dataset.info.class_names
        state, taken = begin_from(self._source, self.init_from, self.assembled, seed, names)
        rows = [dataclasses.asdict(row) for row in taken.rows]
        record = {"source": origin(self.init_from, self._source), "parameters": rows}
        storage.write_json(run.origin_file, record)
        if first:
            _logger.info("initial parameters from %s: %s", self.init_from, taken)
        return state

    @functools.cached_property
    def _source(self) -> Classifier:
        """Trained model that new runs begin from, read once for all seeds."""
        return read_source(self.init_from)

    def fit_seed(
        self, config: ExperimentConfig, run: RunDirectory, owner: Ownership
    ) -> tuple[SeedResult, bool]:
        """Trains one seed, and frees the memory of the state for the next seed.

        Returns:
          The result, and whether the process was asked to end.
        """
        result = self.fit(config, run, owner)
        summary = SeedResult(
            run.path,
            int(result.state.step),
            result.best_step,
            result.best_value,
            result.train_compiles,
        )
        return summary, result.preempted


def _check_source(config: ExperimentConfig, *runs: RunDirectory) -> None:
    """Checks `train.init_from` before the data is prepared, if any run is yet to begin."""
    path = config.train.init_from
    if not path or all(run.has_checkpoints() for run in runs):
        return
    if not RunDirectory(storage.as_path(path)).config_file.exists():
        raise ValueError(
            f"train.init_from={path!r} must be a run directory or a folder of export.py"
            " --format=safetensors; it has no config.json"
        )


def _open_dataset(
    config: ExperimentConfig, dataset: Dataset | None, folder: RunDirectory | SeedsDirectory
) -> Dataset:
    """Opens the dataset of an experiment, and records it in the run directory."""
    opened = open_dataset(config.data) if dataset is None else dataset
    opened.info.check_task(config.model.task)
    info = opened.info.to_json()
    if dataset is not None:
        # Evaluation recognises the data of the run by its fingerprints.
        info["fingerprints"] = {
            split: opened.fingerprint(split) for split in opened.info.num_examples
        }
    card = opened.card.to_json() if opened.card else None
    folder.record_dataset(info, card, same_statistics)
    return opened


def _assemble(
    config: ExperimentConfig,
    dataset: Dataset,
    *,
    own: bool,
    shared: SharedPrograms | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> _Experiment:
    mesh = sharding.make_mesh(config.mesh, [*devices] if devices else None)
    sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    task, names, valid = config.model.task, dataset.info.class_names, dataset.source("valid")
    log_tokens(dataset.info.modalities)
    selection = find_metric(task, config.train.best_metric, len(names))
    if selection.name not in ("loss", SCORE_NAMES[task]):
        check_defined(selection, valid, names, task)
    setting, balanced = config.train.class_weights, config.train.sampling == "balanced"
    weights: dict[str, float] = {}
    labels: list[Any] = []
    if setting or balanced:
        labels = [record["label"] for record in dataset.records("train")]
    if setting:
        weights = dict(zip(names, class_weights(setting, labels, task, names), strict=True))
        _logger.info("weights of classes: %s", weights)
    assembled = assembly.assemble_model(
        config,
        dataset.info.modalities,
        len(names),
        num_examples=dataset.info.num_examples["train"],
        mesh=mesh,
        class_weights=[*weights.values()],
        shared=shared,
    )
    batch_size, loss = config.train.batch_size, config.train.loss

    def evaluator(model: Any) -> Evaluator:
        step = assembled.evaluate if model is assembled.model else None
        return Evaluator(model, valid, batch_size, mesh, loss=loss, step=step)

    return _Experiment(
        dataset,
        own,
        config.train.init_from,
        mesh,
        assembled,
        Validation(assembled.model, [*assembled.steps], evaluator, selection, names),
        weights,
        labels if balanced else None,
    )
