"""Evaluation of a run directory, from nothing but what it holds and the data."""

from __future__ import annotations

import pathlib
from typing import Any

import optax

from sft_jax.data.datasets import DatasetInfo, open_dataset
from sft_jax.evaluation import report
from sft_jax.evaluation.evaluator import Evaluator, Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.modules.factory import build_model
from sft_jax.training import distributed, optim, run_directory
from sft_jax.training.checkpoint import Checkpoints
from sft_jax.training.run_directory import RunDirectoryError
from sft_jax.training.state import create_state


def evaluate_run(
    workdir: pathlib.Path, split: str, which: str
) -> tuple[dict[str, Any], Predictions]:
    """Evaluates a checkpoint of a run and writes the results to `eval/` in its directory.

    Writes `SPLIT.json`, with the metrics of `task_metrics` and what they are of, and what
    `sft_jax.evaluation.report.draw` draws.

    Args:
      workdir: the run directory.
      split: train, valid or test.
      which: best, latest, or a step.

    Returns:
      What is in the JSON file, and the predictions.

    Raises:
      RunDirectoryError: if `workdir` is not a run directory, or its data has changed.
      NoCheckpointError: if there is no such checkpoint.
      ValueError: if there is no such split, or the task of the model is not the dataset's.
    """
    config = run_directory.read_config(workdir)
    checkpoints = Checkpoints(workdir)
    info = DatasetInfo.from_json(checkpoints.description(which)["dataset"])
    dataset = open_dataset(config.data, info.statistics)
    if dataset.info != info:
        raise RunDirectoryError(
            f"the data is not what {workdir} was trained on: that had {info.to_json()},"
            f" this has {dataset.info.to_json()}"
        )
    info.check_task(config.model.task)
    mesh = distributed.make_mesh()
    model = build_model(config.model, info.modalities, len(info.class_names))
    like = create_state(
        model,
        optim.make_optimizer(config.optim, optax.constant_schedule(config.optim.lr)),
        optim.make_plateau(config.optim),
        seed=config.seed,
        ema=config.train.ema_decay > 0,
        mesh=mesh,
        abstract=True,
    )
    state, _ = checkpoints.restore(which, like)
    checkpoints.close()

    evaluator = Evaluator(model, dataset.source(split), config.train.batch_size, mesh)
    predictions = evaluator.predict(state.eval_params)
    result = {
        "split": split,
        "checkpoint": which,
        "step": int(state.step),
        **task_metrics(predictions, info.class_names),
    }
    folder = workdir / "eval"
    folder.mkdir(exist_ok=True)
    run_directory.write_json(folder / f"{split}.json", result)
    report.draw(folder, split, result, predictions)
    return result, predictions
