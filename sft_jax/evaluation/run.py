"""Evaluation of a run directory, from nothing but what it holds and the data."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import optax
from jax.sharding import Mesh

from sft_jax import version
from sft_jax.data.card import Card, load_card
from sft_jax.data.datasets import Dataset, DatasetInfo
from sft_jax.data.registry import open_dataset
from sft_jax.evaluation import own_data, report, subsets
from sft_jax.evaluation.evaluator import Evaluator, Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.evaluation.scores import check_outputs
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.parallel import sharding
from sft_jax.runs import directory, storage
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import CARD, RunDirectoryError
from sft_jax.runs.storage import AnyPath
from sft_jax.training import optim
from sft_jax.training.assembly import Plan, build
from sft_jax.training.state import compile_create_state

SHARED = ("split", "checkpoint", "parameters", "data", "modalities", "left_out", "code")
"""Of the results of a run, what those of other seeds have too."""


def evaluate_run(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    modalities: Sequence[str] | None = None,
    dataset: Dataset | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
    show: Callable[[dict[str, Any], Predictions], None] | None = None,
) -> tuple[dict[str, Any], Predictions]:
    """Evaluates a checkpoint of a run and writes the results to `eval/` in its directory.

    Writes `SPLIT.json`, with the metrics of the task, those that the dataset asks for beside them
    (`DatasetInfo.metrics`) and what they are of, and then what `sft_jax.evaluation.report.draw`
    draws. `parameters` says which were evaluated: ema, the running mean, or trained, those of the
    step; `code` which code evaluated them (`sft_jax.version.code`). Results of some of the
    modalities, of another checkpoint than the best, or of other data than the run's own have names
    of their own (`sft_jax.evaluation.subsets.file_stem`).

    Args:
      workdir: the run directory.
      split: train, valid or test.
      which: best, latest, or a step.
      modalities: names of those that the model is given; by default all. The others are
        left out of its inputs.
      dataset: what it is evaluated on, by the run's own statistics, such as
        `sft_jax.data.arrays.from_arrays` makes; by default the data of the run's config.
      data_folders: where the folders are now that the config's `data` names, such as
        `{"manual_dir": "clips"}`; by default where they were.
      show: called with what is returned, before any picture is drawn.

    Returns:
      What is in the JSON file, and the predictions.

    Raises:
      RunDirectoryError: if `workdir` is not a run directory, its data has changed or is not
        found, or it was trained on a dataset that its config does not name and none is given.
      NoCheckpointError: if there is no such checkpoint.
      DamagedCheckpointError: if it is not as it was saved, and as `Checkpoints` says there is
        none to take in its place.
      NotFiniteError: if an output of the model is NaN or infinite.
      OSError: if `eval/` can't be written to, before anything is evaluated.
      ValueError: if there is no such split, the task of the model is not the dataset's,
        `dataset` does not fit as `Dataset.like` says, or for `modalities` as `check_subset`
        says.
    """
    workdir = _run_directory(workdir)
    run = restore(workdir, which, dataset, data_folders=data_folders)
    result, predictions = evaluate_restored(
        workdir, run, run.evaluator(split, modalities), split, which
    )
    if show:
        show(result, predictions)
    draw(workdir, result, predictions)
    return result, predictions


def evaluate_restored(
    workdir: AnyPath, run: Restored, evaluator: Evaluator, split: str, which: str
) -> tuple[dict[str, Any], Predictions]:
    """What `evaluate_run` does with a checkpoint that has been restored, but for pictures.

    Args:
      workdir: the run directory.
      run: a checkpoint of it.
      evaluator: of `run`, or of one that `run` was restored like.
      split: that of the evaluator.
      which: how the checkpoint was asked for.
    """
    predictions, info = evaluator.predict(run.params), run.dataset.info
    with own_data.naming_checkpoint(workdir, which, run.step):
        metrics = task_metrics(predictions, info.class_names, info.metrics)
    result = {
        "split": split,
        "checkpoint": which,
        "step": run.step,
        "parameters": run.parameters,
        "data": run.data(split),
        "modalities": [*evaluator.modalities],
        "left_out": sorted(set(run.model.modalities) - set(evaluator.modalities)),
        **metrics,
        "code": version.code(),
    }
    path = results_folder(workdir) / f"{subsets.file_stem(result)}.json"
    directory.write_json(path, result)
    return result, predictions


def draw(workdir: AnyPath, result: Mapping[str, Any], predictions: Predictions) -> None:
    """Draws the pictures of a result beside its JSON file."""
    report.draw(results_folder(workdir), subsets.file_stem(result), result, predictions)


def _run_directory(workdir: str | os.PathLike[str]) -> AnyPath:
    """The path of a run directory whose results can be written, as is seen beforehand."""
    path = storage.as_path(workdir)
    directory.read_config(path)
    results_folder(path)
    return path


def read_card(workdir: AnyPath) -> Card | None:
    """The card of the data that a run was trained on; None if there is none.

    Raises:
      ValueError: if it is damaged.
    """
    path = workdir / CARD
    return load_card(path) if path.exists() else None


def evaluate_every_subset(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    dataset: Dataset | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run with every non-empty set of its modalities.

    Writes `SPLIT_subsets.json` to `eval/` in the run directory (`subsets_stem`). A model that
    classifies one modality alone is evaluated with that one.

    Args:
      workdir: the run directory.
      split: train, valid or test.
      which: best, latest, or a step.
      dataset: as `evaluate_run`.
      data_folders: as `evaluate_run`.

    Returns:
      What is in the JSON file: `split`, `checkpoint`, `step`, `parameters` and `data` as of
      `evaluate_run`; `n_examples`; `score`, accuracy or mae (`SCORE_NAMES`); and `subsets`, the
      largest first, each with its `modalities`, that score and the mean `loss`.

    Raises:
      RunDirectoryError, NoCheckpointError, NotFiniteError, OSError, ValueError: as
        `evaluate_run`, and ValueError if the model has more modalities than `MOST_MODALITIES`.
    """
    workdir = _run_directory(workdir)
    run = restore(workdir, which, dataset, data_folders=data_folders)
    result = {
        "split": split,
        "checkpoint": which,
        "step": run.step,
        "parameters": run.parameters,
        "data": run.data(split),
        "n_examples": len(run.dataset.source(split)),
        "score": SCORE_NAMES[run.model.task],
        "subsets": [
            {"modalities": [*names], **_scores(workdir, run, split, which, names)}
            for names in subsets.every_subset(run.model)
        ],
        "code": version.code(),
    }
    directory.write_json(results_folder(workdir) / f"{subsets_stem(result)}.json", result)
    return result


def subsets_stem(result: Mapping[str, Any]) -> str:
    """What the file of `evaluate_every_subset` is called, up to the ending."""
    return subsets.file_stem({**result, "modalities": [], "left_out": []}) + "_subsets"


def _scores(
    workdir: AnyPath, run: Restored, split: str, which: str, names: Sequence[str]
) -> dict[str, float]:
    evaluator = run.evaluator(split, names)
    predictions = evaluator.predict(run.params)
    with own_data.naming_checkpoint(workdir, which, run.step):
        check_outputs(predictions.logits, predictions.ids)
    return evaluator.scores(predictions)


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
      fingerprints: split to the fingerprint of the run's own data, where the dataset may be
        another; None where it is the run's own.
      batch_size: examples per batch.
      mesh: the devices.
      loss: Loss that the run was trained with.
    """

    model: MultimodalClassifier
    params: Any
    parameters: Literal["ema", "trained"]
    step: int
    done: bool
    trained_on: DatasetInfo
    dataset: Dataset
    fingerprints: Mapping[str, str] | None
    batch_size: int
    mesh: Mesh
    loss: str = "auto"

    def evaluator(self, split: str, modalities: Sequence[str] | None) -> Evaluator:
        """The evaluation of a split, for which see `Evaluator`."""
        source = self.dataset.source(split)
        return Evaluator(self.model, source, self.batch_size, self.mesh, modalities, self.loss)

    def data(self, split: str) -> str:
        """What a split is of: the run's own data (`subsets.OWN`), or else its fingerprint."""
        if self.fingerprints is None:
            return subsets.OWN
        found = self.dataset.fingerprint(split)
        return subsets.OWN if self.fingerprints.get(split) == found else found


def restore(
    workdir: AnyPath,
    which: str,
    dataset: Dataset | None,
    like: Restored | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
) -> Restored:
    """Restores a checkpoint of a run; see `evaluate_run` for what is raised.

    Args:
      workdir: the run directory.
      which: best, latest, or a step.
      dataset: see `evaluate_run`.
      like: of a run that differs from this one in nothing but its seed, whose model and dataset
        are used again.
      data_folders: see `evaluate_run`.
    """
    config = directory.read_config(workdir)
    if config.seeds:
        raise RunDirectoryError(
            f"{workdir} holds the runs of several seeds: evaluate one of them, such as"
            f" {workdir / f'seed_{config.seeds[0]}'}, or all, with"
            " sft_jax.evaluation.seeds.evaluate_seeds"
        )
    checkpoints = Checkpoints(workdir, read_only=True)
    description = checkpoints.description(which)
    info = DatasetInfo.from_json(description["dataset"])
    own: Mapping[str, str] | None = None
    if like is not None:
        _check_same(workdir, info, like.trained_on)
        dataset, own = like.dataset, like.fingerprints
    elif dataset is not None:
        own = own_data.fingerprints(workdir, description, info == dataset.info)
        dataset = dataset.like(info)
    elif description.get("own_dataset"):
        raise RunDirectoryError(
            f"{workdir} was trained on a dataset that its config does not name: evaluate it in"
            " Python, with sft_jax.evaluation.run.evaluate_run(..., dataset=...)"
        )
    else:
        data = own_data.with_folders(config.data, data_folders or {})
        with own_data.telling_of_folders(workdir, data):
            dataset = open_dataset(data, info.statistics, description.get("prepared"))
        _check_same(workdir, info, dataset.info)
    info.check_task(config.model.task)
    mesh = like.mesh if like else sharding.make_mesh()
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
        fingerprints=own,
        # Which the devices of another mesh may not divide; nothing depends on it.
        batch_size=math.ceil(config.train.batch_size / mesh.size) * mesh.size,
        mesh=mesh,
        loss=config.train.loss,
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
    """The folder of a run directory that results are written to, made if it is not there.

    Raises:
      OSError: if it can't be written to.
    """
    folder = workdir / "eval"
    storage.prepare_file(folder / "results")
    return folder
