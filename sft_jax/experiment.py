"""One experiment from beginning to end, on any dataset, with one seed or several."""

from __future__ import annotations

import dataclasses
import logging
import os

import jax
from jax.sharding import Mesh

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.data import pipeline
from sft_jax.data.datasets import Dataset
from sft_jax.data.registry import open_dataset
from sft_jax.data.standardisation import same_statistics
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.parallel import preemption, sharding
from sft_jax.runs import directory, ownership, seeds, storage
from sft_jax.training import assembly, loop

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """What the run of one of several seeds came to, without its state.

    Attributes:
      workdir: its run directory.
      steps: taken.
      best_step: see `sft_jax.training.loop.Result`, as for the others.
      best_value: its validation metric.
      train_compiles: over all seeds until then.
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
      config: of the experiment; without `seeds`.
      workdir: the run directory, also `gs://bucket/run`; made if it is not there.
      dataset: with splits `train` and `valid`, such as `sft_jax.data.arrays.from_arrays`
        makes; by default the one that `config.data` names, which is prepared if need be.

    Raises:
      RunDirectoryError: if `workdir` can't be written to, is in use by another process, or is
        another config's or dataset's.
      ValueError: if model and dataset do not fit, or as `open_dataset`, `assembly.assemble` and
        `loop.fit` say.
      OSError, ModuleNotFoundError: as `open_dataset` and `storage.as_path` say.
      NonFiniteError: as `loop.fit` says.
    """
    if config.seeds:
        raise ValueError(f"seeds={config.seeds}: train trains one run; train_seeds trains several")
    workdir, config = storage.as_path(workdir), config_io.resolved(config)
    with ownership.owned(workdir) as owner:
        return _open(config, workdir, dataset).fit(config, workdir, owner)


def train_seeds(
    config: ExperimentConfig, workdir: str | os.PathLike[str], dataset: Dataset | None = None
) -> dict[int, SeedResult]:
    """Trains one run for each of `config.seeds`, one after the other, with the same programs.

    The run of seed N is in the folder `seed_N` of `workdir`, and is what `train` would make of
    the config with `seed=N` and no `seeds`. Each goes on from its latest checkpoint if there is
    one; a run that is done takes no step. More seeds may be added later.

    Args:
      config: of the experiment. Its `seed` is not used.
      workdir: the folder of the run directories; made if it is not there.
      dataset: as for `train`.

    Raises:
      RunDirectoryError: as `train`, before anything is trained, and if `workdir` itself is a run
        directory or a run of another seed in it has another config.
      PreemptedError: if the process was told to end; the seeds left are for the next start.
      ValueError: as `train`, or if there are no seeds.
      OSError, ModuleNotFoundError, NonFiniteError: as `train`.
    """
    if not config.seeds:
        raise ValueError("seeds=(): train_seeds needs at least one; train trains one of `seed`")
    workdir, config = storage.as_path(workdir), config_io.resolved(config)
    runs = seeds.runs(workdir, config)
    results: dict[int, SeedResult] = {}
    with ownership.owned(workdir, *runs) as owner:
        opened = _open(config, workdir, dataset)
        for number, (folder, of_run) in enumerate(runs.items(), start=1):
            _logger.info("seed %d, %d of %d: %s", of_run.seed, number, len(runs), folder)
            results[of_run.seed], told_to_end = opened.fit_without_state(of_run, folder, owner)
            if told_to_end and number < len(runs):
                raise preemption.PreemptedError(
                    f"stopped after seed {of_run.seed}, {number} of {len(runs)}, all of which is"
                    f" saved in {workdir}: run the same command again to go on from there"
                )
    return results


@dataclasses.dataclass(frozen=True)
class _Opened:
    """What the runs of an experiment share, whatever their seed."""

    dataset: Dataset
    own_dataset: bool
    mesh: Mesh
    made: assembly.Assembled
    validate: Evaluator

    def fit(
        self, config: ExperimentConfig, workdir: storage.AnyPath, owner: ownership.Ownership
    ) -> loop.Result:
        batches = pipeline.train_iterator(
            self.dataset.source("train"),
            config.train.batch_size,
            config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        info = self.dataset.info.to_json()
        return loop.fit(
            config,
            self.made,
            batches,
            self.validate,
            compile_validation=self.validate.compile,
            workdir=workdir,
            description={
                "dataset": info,
                "own_dataset": self.own_dataset,
                "prepared": self.dataset.prepared,
            },
            mesh=self.mesh,
            check_owner=owner.check,
        )

    def fit_without_state(
        self, config: ExperimentConfig, workdir: storage.AnyPath, owner: ownership.Ownership
    ) -> tuple[SeedResult, bool]:
        """Frees the memory of the state, which the next seed needs; and if told to end, says so."""
        result = self.fit(config, workdir, owner)
        of_seed = SeedResult(
            workdir,
            int(result.state.step),
            result.best_step,
            result.best_value,
            result.train_compiles,
        )
        return of_seed, result.told_to_end


def _open(config: ExperimentConfig, workdir: storage.AnyPath, dataset: Dataset | None) -> _Opened:
    own_dataset = dataset is not None
    with sharding.first_process_first():
        seeds.prepare(workdir, config)
        if dataset is None:
            dataset = open_dataset(config.data)
        info = dataset.info
        info.check_task(config.model.task)
        about = info.to_json()
        if own_dataset:
            # By which an evaluation on given data tells whether it is the same.
            about["fingerprints"] = {
                split: dataset.fingerprint(split) for split in info.num_examples
            }
        for folder in seeds.runs(workdir, config):
            directory.keep_dataset(folder, about, same_statistics)
            if dataset.card:
                directory.write_json(folder / directory.CARD, dataset.card.to_json())
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    made = assembly.assemble_model(
        config,
        info.modalities,
        len(info.class_names),
        num_examples=info.num_examples["train"],
        mesh=mesh,
    )
    validate = Evaluator(
        made.model,
        dataset.source("valid"),
        config.train.batch_size,
        mesh,
        loss=config.train.loss,
    )
    return _Opened(dataset, own_dataset, mesh, made, validate)
