"""One experiment from beginning to end, on any dataset, with one or several seeds."""

from __future__ import annotations

import dataclasses
import logging
import os
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
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.evaluation.validation import Validation, check_defined
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.parallel import sharding
from sft_jax.parallel.preemption import PreemptedError
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory, SeedsDirectory, with_seed
from sft_jax.runs.ownership import Ownership, owned
from sft_jax.selection import find_metric
from sft_jax.training import assembly, loop

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
    config: ExperimentConfig, workdir: str | os.PathLike[str], dataset: Dataset | None = None
) -> loop.Result:
    """Trains the model of a config, from the latest checkpoint of `workdir` if there is one.

    Args:
      config: Experiment, without `seeds`.
      workdir: Run directory, local or `gs://bucket/run`; made unless it exists.
      dataset: Dataset with splits `train` and `valid`, such as from
        `sft_jax.data.arrays.from_arrays`. By default the dataset that `config.data` names, which
        is prepared if necessary.

    Raises:
      RunDirectoryError: If `workdir` can't be written to, is in use by another process, or was
        made with another config or dataset.
      ValueError: If model and dataset do not fit each other. Also see `open_dataset`,
        `assembly.assemble` and `loop.fit`.
      OSError, ModuleNotFoundError: See `open_dataset` and `storage.as_path`.
      NonFiniteError: See `loop.fit`.
    """
    if config.seeds:
        raise ValueError(f"seeds={config.seeds}: train trains one run; train_seeds trains several")
    workdir, config = storage.as_path(workdir), config_io.resolved(config)
    with owned(workdir) as owner:
        with sharding.first_process_first():
            run = RunDirectory.open(workdir, config)
            data = _open_dataset(config, dataset, run)
        return _assemble(config, data, own=dataset is not None).fit(config, run, owner)


def train_seeds(
    config: ExperimentConfig, workdir: str | os.PathLike[str], dataset: Dataset | None = None
) -> dict[int, SeedResult]:
    """Trains one run for each of `config.seeds` in turn, with the same compiled programs.

    The run of seed N is in the folder `seed_N` of `workdir`. It equals the run that `train` makes
    from the config with `seed=N` and without `seeds`. Each run resumes from its latest checkpoint
    if there is one; a finished run takes no step. More seeds may be added later.

    Args:
      config: Experiment, whose `seed` is not used.
      workdir: Folder of the run directories; made unless it exists.
      dataset: Dataset, as in `train`.

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
            data = _open_dataset(config, dataset, SeedsDirectory.open(workdir, config))
        experiment = _assemble(config, data, own=dataset is not None)
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
        )
        return loop.fit(
            config,
            self.assembled,
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


def _assemble(config: ExperimentConfig, dataset: Dataset, *, own: bool) -> _Experiment:
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    task, names, valid = config.model.task, dataset.info.class_names, dataset.source("valid")
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
    )
    batch_size, loss = config.train.batch_size, config.train.loss
    evaluator = Evaluator(assembled.model, valid, batch_size, mesh, loss=loss)
    validate = Validation(evaluator, selection, names)
    return _Experiment(
        dataset, own, mesh, assembled, validate, weights, labels if balanced else None
    )
