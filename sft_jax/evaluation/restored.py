"""Checkpoints of runs, restored with their model and data for evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import Dataset, DatasetInfo
from sft_jax.data.registry import open_dataset
from sft_jax.evaluation import own_data, report
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.modules.factory import param_shapes
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.parallel import sharding
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import RunDirectory, RunDirectoryError
from sft_jax.training.assembly import Plan, build


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A run with its model and data.

    Attributes:
      config: Experiment.
      model: Module.
      trained_on: Description of the data that the run was trained on.
      dataset: Data to evaluate on.
      fingerprints: Fingerprint of the run's own data by split, if `dataset` may be another; None
        if `dataset` is the run's own.
      mesh: Devices.
    """

    config: ExperimentConfig
    model: MultimodalClassifier
    trained_on: DatasetInfo
    dataset: Dataset
    fingerprints: Mapping[str, str] | None
    mesh: Mesh

    def evaluator(self, split: str, modalities: Sequence[str] | None) -> Evaluator:
        """Makes the evaluator of a split; see `Evaluator` for `modalities`."""
        # The devices of another mesh may not divide the batch size, which does not affect results.
        size = math.ceil(self.config.train.batch_size / self.mesh.size) * self.mesh.size
        source, loss = self.dataset.source(split), self.config.train.loss
        return Evaluator(self.model, source, size, self.mesh, modalities, loss)

    def data(self, split: str) -> str:
        """Returns `report.OWN` for the run's own data of a split, otherwise its fingerprint."""
        if self.fingerprints is None:
            return report.OWN
        digest = self.dataset.fingerprint(split)
        return report.OWN if self.fingerprints.get(split) == digest else digest


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint of a run.

    Attributes:
      run: Opened run.
      params: Parameters to evaluate.
      parameters: Kind of `params`: "ema" for the running mean, "trained" for the last step's.
      step: Step of the checkpoint.
      done: True if the run has been trained to its end, or `train.patience` has ended it.
    """

    run: OpenedRun
    params: Any
    parameters: Literal["ema", "trained"]
    step: int
    done: bool


def restore(
    run: RunDirectory,
    which: str,
    dataset: Dataset | None,
    like: OpenedRun | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
) -> Restored:
    """Restores a checkpoint of a run; see `sft_jax.evaluation.run.evaluate_run` for errors.

    Args:
      run: Run directory.
      which: Name of the checkpoint: best, latest, or a step.
      dataset: Data to evaluate on; by default the data of the run's config.
      like: Run that differs only in its seed, whose model and dataset are reused.
      data_folders: Current folders of the data by field of the config's `data`.
    """
    config = run.read_config(several=False)
    with contextlib.closing(Checkpoints(run.path, read_only=True)) as checkpoints:
        description = checkpoints.description(which)
        opened = open_run(run, config, description, dataset, like, data_folders=data_folders)
        return restore_params(opened, checkpoints, which)


def open_run(
    run: RunDirectory,
    config: ExperimentConfig,
    description: Mapping[str, Any],
    dataset: Dataset | None,
    like: OpenedRun | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
) -> OpenedRun:
    """Opens the data of a run and builds its model.

    Args:
      run: Run directory.
      config: Config of the run.
      description: Description of one of the run's checkpoints.
      dataset: Data to evaluate on, as in `restore`.
      like: Run whose model and dataset are reused, as in `restore`.
      data_folders: Current folders of the data, as in `restore`.
    """
    info = DatasetInfo.from_json(description["dataset"])
    own: Mapping[str, str] | None = None
    if like is not None:
        _check_same(run, info, like.trained_on)
        dataset, own = like.dataset, like.fingerprints
    elif dataset is not None:
        own = own_data.fingerprints(run, description, info == dataset.info)
        dataset = dataset.like(info)
    elif description.get("own_dataset"):
        raise RunDirectoryError(
            f"{run} was trained on a dataset that its config does not name: evaluate it in"
            " Python, with sft_jax.evaluation.run.evaluate_run(..., dataset=...)"
        )
    else:
        data = own_data.with_folders(config.data, data_folders or {})
        with own_data.naming_folders(run, data):
            dataset = open_dataset(data, info.statistics, description.get("prepared"))
        _check_same(run, info, dataset.info)
    info.check_task(config.model.task)
    mesh = like.mesh if like else sharding.make_mesh()
    classes = len(info.class_names)
    model = like.model if like else build(config, info.modalities, classes, mesh)
    return OpenedRun(config, model, info, dataset, own, mesh)


def restore_params(run: OpenedRun, checkpoints: Checkpoints, which: str) -> Restored:
    """Restores the parameters of a checkpoint.

    Args:
      run: Opened run.
      checkpoints: Checkpoints of the run.
      which: Name of the checkpoint: best, latest, or a step.
    """
    config, ema = run.config, run.config.train.ema_decay > 0
    field = "ema_params" if ema else "params"
    fields = {"step": jax.ShapeDtypeStruct((), jnp.int32), field: param_shapes(run.model)}
    state = checkpoints.restore_part(which, sharding.placed_shapes(fields, run.mesh))
    done = is_done(config, run.trained_on, checkpoints)
    evaluated: Literal["ema", "trained"] = "ema" if ema else "trained"
    return Restored(run, state[field], evaluated, int(state["step"]), done)


def is_done(config: ExperimentConfig, info: DatasetInfo, checkpoints: Checkpoints) -> bool:
    """Returns True if a run has been trained to its end, or patience has ended it.

    Args:
      config: Config of the run.
      info: Data that the run is trained on.
      checkpoints: Checkpoints of the run.
    """
    plan = Plan.from_config(config, info.num_examples["train"])
    latest, best = (max(checkpoints.steps(kind), default=0) for kind in ("latest", "best"))
    return latest == plan.total_steps or plan.is_exhausted(latest, best, config.train.patience)


def _check_same(run: RunDirectory, trained_on: DatasetInfo, present: DatasetInfo) -> None:
    changed = [
        f"{name} was {getattr(trained_on, name)}, is {getattr(present, name)}"
        for name in trained_on.differences(present)
    ]
    if changed:
        raise RunDirectoryError(f"the data is not what {run} was trained on: {'; '.join(changed)}")
