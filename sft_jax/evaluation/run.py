"""Evaluation of a run directory, from nothing but what it holds and the data."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import optax
from jax.sharding import Mesh

from sft_jax import version
from sft_jax.data.card import Card, load_card
from sft_jax.data.catalog import open_dataset
from sft_jax.data.datasets import Dataset, DatasetInfo
from sft_jax.evaluation import report, subsets
from sft_jax.evaluation.evaluator import Evaluator, Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.training import distributed, optim, run_directory, storage
from sft_jax.training.assembly import Plan, build
from sft_jax.training.checkpoint import Checkpoints
from sft_jax.training.run_directory import CARD, RunDirectoryError
from sft_jax.training.state import compile_create_state
from sft_jax.training.storage import AnyPath

SHARED = ("split", "checkpoint", "parameters", "modalities", "left_out", "code")
"""Of the results of a run, what those of other seeds have too."""


def evaluate_run(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    modalities: Sequence[str] | None = None,
    dataset: Dataset | None = None,
) -> tuple[dict[str, Any], Predictions]:
    """Evaluates a checkpoint of a run and writes the results to `eval/` in its directory.

    Writes `SPLIT.json`, with the metrics of the task, those that the dataset asks for beside them
    (`DatasetInfo.metrics`) and what they are of, and what `sft_jax.evaluation.report.draw` draws.
    `parameters` says which were evaluated: ema, the running mean, or trained, those of the step;
    `code` which code evaluated them (`sft_jax.version.code`).
    Where the model is not given all modalities, the names of those given are part of the files'
    names: `SPLIT-FIRST-SECOND.json` (`file_stem`).

    Args:
      workdir: the run directory.
      split: train, valid or test.
      which: best, latest, or a step.
      modalities: names of those that the model is given; by default all. The others are
        left out of its inputs.
      dataset: what it is evaluated on, by the run's own statistics, such as
        `sft_jax.data.arrays.from_arrays` makes; by default the data of the run's config.

    Returns:
      What is in the JSON file, and the predictions.

    Raises:
      RunDirectoryError: if `workdir` is not a run directory, its data has changed, or it was
        trained on a dataset that its config does not name and none is given.
      NoCheckpointError: if there is no such checkpoint.
      DamagedCheckpointError: if it is not as it was saved, and as `Checkpoints` says there is
        none to take in its place.
      ValueError: if there is no such split, the task of the model is not the dataset's,
        `dataset` does not fit as `Dataset.like` says, or for `modalities` as `check_subset`
        says.
    """
    workdir = storage.as_path(workdir)
    run = restore(workdir, which, dataset)
    return evaluate_restored(workdir, run, run.evaluator(split, modalities), split, which)


def evaluate_restored(
    workdir: AnyPath, run: Restored, evaluator: Evaluator, split: str, which: str
) -> tuple[dict[str, Any], Predictions]:
    """What `evaluate_run` does with a checkpoint that has been restored.

    Args:
      workdir: the run directory.
      run: a checkpoint of it.
      evaluator: of `run`, or of one that `run` was restored like.
      split: that of the evaluator.
      which: how the checkpoint was asked for.
    """
    predictions, info = evaluator.predict(run.params), run.dataset.info
    result = {
        "split": split,
        "checkpoint": which,
        "step": run.step,
        "parameters": run.parameters,
        "modalities": [*evaluator.modalities],
        "left_out": sorted(set(run.model.modalities) - set(evaluator.modalities)),
        **task_metrics(predictions, info.class_names, info.metrics),
        "code": version.code(),
    }
    stem = subsets.file_stem(result)
    run_directory.write_json(results_folder(workdir) / f"{stem}.json", result)
    report.draw(results_folder(workdir), stem, result, predictions)
    return result, predictions


def read_card(workdir: AnyPath) -> Card | None:
    """The card of the data that a run was trained on; None if there is none.

    Raises:
      ValueError: if it is damaged.
    """
    path = workdir / CARD
    return load_card(path) if path.exists() else None


def evaluate_every_subset(
    workdir: str | os.PathLike[str], split: str, which: str, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run with every non-empty set of its modalities.

    Writes `SPLIT_subsets.json` to `eval/` in the run directory. A model that classifies one
    modality alone is evaluated with that one.

    Args:
      workdir: the run directory.
      split: train, valid or test.
      which: best, latest, or a step.
      dataset: as `evaluate_run`.

    Returns:
      What is in the JSON file: `split`, `checkpoint`, `step` and `parameters` as of `evaluate_run`;
      `n_examples`; `score`, accuracy or mae (`SCORE_NAMES`); and `subsets`, the largest first, each
      with its `modalities`, that score and the mean `loss`.

    Raises:
      RunDirectoryError, NoCheckpointError, ValueError: as `evaluate_run`, and ValueError if
        the model has more modalities than `MOST_MODALITIES`.
    """
    workdir = storage.as_path(workdir)
    run = restore(workdir, which, dataset)
    result = {
        "split": split,
        "checkpoint": which,
        "step": run.step,
        "parameters": run.parameters,
        "n_examples": len(run.dataset.source(split)),
        "score": SCORE_NAMES[run.model.task],
        "subsets": [
            {"modalities": [*names], **run.evaluator(split, names)(run.params)}
            for names in subsets.every_subset(run.model)
        ],
        "code": version.code(),
    }
    run_directory.write_json(results_folder(workdir) / f"{split}_subsets.json", result)
    return result


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint of a run, and what it takes to evaluate it.

    Attributes:
      model: the module.
      params: of the checkpoint, those to evaluate.
      parameters: which they are: "ema", the running mean, or "trained", those of the last step.
      step: of the checkpoint.
      done: whether the run has been trained to its end.
      trained_on: what is known of the data that it was trained on.
      dataset: what it is evaluated on.
      batch_size: examples per batch.
      mesh: the devices.
    """

    model: MultimodalClassifier
    params: Any
    parameters: Literal["ema", "trained"]
    step: int
    done: bool
    trained_on: DatasetInfo
    dataset: Dataset
    batch_size: int
    mesh: Mesh

    def evaluator(self, split: str, modalities: Sequence[str] | None) -> Evaluator:
        """The evaluation of a split, for which see `Evaluator`."""
        source = self.dataset.source(split)
        return Evaluator(self.model, source, self.batch_size, self.mesh, modalities)


def restore(
    workdir: AnyPath, which: str, dataset: Dataset | None, like: Restored | None = None
) -> Restored:
    """Restores a checkpoint of a run; see `evaluate_run` for what is raised.

    Args:
      workdir: the run directory.
      which: best, latest, or a step.
      dataset: see `evaluate_run`.
      like: of a run that differs from this one in nothing but its seed, whose model and dataset
        are used again.
    """
    config = run_directory.read_config(workdir)
    if config.seeds:
        raise RunDirectoryError(
            f"{workdir} holds the runs of several seeds: evaluate one of them, such as"
            f" {workdir / f'seed_{config.seeds[0]}'}, or all, with"
            " sft_jax.evaluation.seeds.evaluate_seeds"
        )
    checkpoints = Checkpoints(workdir, read_only=True)
    description = checkpoints.description(which)
    info = DatasetInfo.from_json(description["dataset"])
    if like is not None:
        _check_same(workdir, info, like.trained_on)
        dataset = like.dataset
    elif dataset is not None:
        dataset = dataset.like(info)
    elif description.get("own_dataset"):
        raise RunDirectoryError(
            f"{workdir} was trained on a dataset that its config does not name: evaluate it in"
            " Python, with sft_jax.evaluation.run.evaluate_run(..., dataset=...)"
        )
    else:
        dataset = open_dataset(config.data, info.statistics)
        _check_same(workdir, info, dataset.info)
    info.check_task(config.model.task)
    mesh = like.mesh if like else distributed.make_mesh()
    names = len(info.class_names)
    model = like.model if like else build(config, info.modalities, names, mesh)
    _, shapes = compile_create_state(
        model,
        optim.make_optimizer(config.optim, optax.constant_schedule(config.optim.lr)),
        optim.make_plateau(config.optim),
        ema=config.train.ema_decay > 0,
        mesh=mesh,
    )
    state, _ = checkpoints.restore(which, shapes)
    last = Plan.of(config, info.num_examples["train"]).total_steps
    done = last in checkpoints.steps("latest")
    checkpoints.close()
    return Restored(
        model=model,
        params=state.eval_params,
        parameters=state.evaluated,
        step=int(state.step),
        done=done,
        trained_on=info,
        dataset=dataset,
        # Which the devices of another mesh may not divide; nothing depends on it.
        batch_size=math.ceil(config.train.batch_size / mesh.size) * mesh.size,
        mesh=mesh,
    )


def _check_same(workdir: AnyPath, trained: DatasetInfo, found: DatasetInfo) -> None:
    changed = [
        f"{name} was {getattr(trained, name)}, is {getattr(found, name)}"
        for name in trained.differences(found)
    ]
    if changed:
        raise RunDirectoryError(
            f"the data is not what {workdir} was trained on: {'; '.join(changed)}"
        )


def results_folder(workdir: AnyPath) -> AnyPath:
    """The folder of a run directory that results are written to, made if it is not there."""
    folder = workdir / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
