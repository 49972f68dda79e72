"""Evaluation of a run directory, using only its files and the data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sft_jax import version
from sft_jax.data.dataset import Dataset
from sft_jax.evaluation import calibration, own_data, pictures, plots, report, run_plots
from sft_jax.evaluation import thresholds as threshold_choice
from sft_jax.evaluation.evaluator import Evaluator, Predictions, every_subset
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.evaluation.restored import Restored, restore
from sft_jax.evaluation.scores import check_outputs
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory

SHARED = ("split", "checkpoint", "parameters", "data", "modalities", "left_out", "code")
"""Fields of a result that are equal in the runs of all seeds."""


def evaluate_run(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    modalities: Sequence[str] | None = None,
    dataset: Dataset | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
    thresholds: str = "",
    calibrate: bool = False,
    show: Callable[[dict[str, Any], Predictions], None] | None = None,
    then: Callable[[Restored, dict[str, Any], Predictions], None] | None = None,
) -> tuple[dict[str, Any], Predictions]:
    """Evaluates a checkpoint of a run and writes the results to `eval/` in its directory.

    Writes `SPLIT.json`, then the pictures of `sft_jax.evaluation.plots.draw`. The file holds the
    metrics of the task and the metrics that the dataset requests (`DatasetInfo.metrics`). Its
    `parameters` is ema for the running mean, or trained for the parameters of the step.
    Its `code` describes the code that evaluated them (`sft_jax.version.code`).

    The file name shows if modalities are left out, the checkpoint is not the best, or the data is
    not the run's own (`sft_jax.evaluation.report.file_stem`).

    With `thresholds` the split valid decides above which probability a label, or the second of two
    classes, is predicted (`sft_jax.evaluation.thresholds`). They are saved in `thresholds.json` of
    the run directory, and `sft_jax.load` uses them for this checkpoint. Every later evaluation of
    the checkpoint has their metrics too, under `at_thresholds`.

    With `calibrate` the split valid decides by which temperature logits are divided
    (`sft_jax.evaluation.calibration`). It is saved in `temperature.json` and used likewise. The
    results have the calibration error without and with it under `calibration`.

    Args:
      workdir: Run directory.
      split: Name of the split: train, valid or test.
      which: Name of the checkpoint: best, latest, or a step.
      modalities: Names of the modalities that the model gets; by default all. The others are
        left out of its inputs.
      dataset: Data to evaluate on, such as from `sft_jax.data.arrays.from_arrays`, standardised by
        the run's own statistics; by default the data of the run's config.
      data_folders: Current folders of the config's `data` by field, such as
        `{"manual_dir": "clips"}`; by default the folders at the time of training.
      thresholds: Metric that thresholds maximise, f1 or balanced_accuracy; empty for none.
      calibrate: Whether to fit the temperature.
      show: Function of the result and predictions, called before any picture is drawn.
      then: Function of the evaluated checkpoint, result and predictions, called last.

    Returns:
      The content of the JSON file, and the predictions.

    Raises:
      RunDirectoryError: If `workdir` is not a run directory, or its data has changed or is
        missing. Also if its config does not name its data and `dataset` is None.
      NoCheckpointError: If there is no such checkpoint.
      DamagedCheckpointError: If the checkpoint is damaged, and `Checkpoints` finds no substitute.
      NotFiniteError: If an output of the model is NaN or infinite.
      OSError: If `eval/` can't be written to, before anything is evaluated.
      ValueError: If the split is unknown, or model and dataset have different tasks. Also if
        `Dataset.like` refuses `dataset`, or `check_subset` refuses `modalities`. Also if
        thresholds or a temperature are to be chosen on another split than valid, on other data
        or without some modalities. Also if the task has none.
    """
    run = _writable_run(workdir)
    restored = restore(run, which, dataset, data_folders=data_folders)
    info = restored.run.dataset.info
    if thresholds:
        threshold_choice.check_request(thresholds, split, info.task, len(info.class_names))
    if calibrate:
        calibration.check_request(split, info.task)
    if (thresholds or calibrate) and (
        modalities is not None or restored.run.data(split) != report.OWN
    ):
        name = f"thresholds={thresholds!r}: they are" if thresholds else "calibrate: it is"
        raise ValueError(f"{name} chosen on the run's own data, with all modalities")
    evaluator = restored.run.evaluator(split, modalities)
    result, predictions = evaluate_restored(
        run, restored, evaluator, split, which, thresholds, calibrate
    )
    if show:
        show(result, predictions)
    draw(run, result, predictions)
    if then:
        then(restored, result, predictions)
    return result, predictions


def evaluate_restored(
    run: RunDirectory,
    restored: Restored,
    evaluator: Evaluator,
    split: str,
    which: str,
    thresholds: str = "",
    calibrate: bool = False,
) -> tuple[dict[str, Any], Predictions]:
    """Evaluates a restored checkpoint like `evaluate_run`, but without pictures.

    Args:
      run: Run directory.
      restored: Checkpoint of the run.
      evaluator: Evaluator of this run, or of the run whose model and dataset it shares.
      split: Split of the evaluator.
      which: Name that the checkpoint was requested by.
      thresholds: Metric that the thresholds maximise; see `evaluate_run`.
      calibrate: Whether to fit the temperature.
    """
    predictions, info = evaluator.predict(restored.params), restored.run.dataset.info
    with own_data.naming_checkpoint(run, which, restored.step):
        metrics = task_metrics(predictions, info.class_names, info.metrics)
    chosen = run.thresholds(restored.step)
    if thresholds:
        chosen = threshold_choice.choose(predictions, info.class_names, thresholds)
        run.save_chosen("thresholds", chosen, step=restored.step, maximise=thresholds)
    if chosen:
        metrics["at_thresholds"] = threshold_choice.threshold_metrics(
            predictions, info.class_names, chosen
        )
    if predictions.task != "regression":
        temperature = run.temperature(restored.step)
        if calibrate:
            temperature = calibration.fit_temperature(predictions)
            run.save_chosen("temperature", temperature, step=restored.step)
        metrics["calibration"] = calibration.calibration_metrics(predictions, temperature)
    result = {
        "split": split,
        "checkpoint": which,
        "step": restored.step,
        "parameters": restored.parameters,
        "data": restored.run.data(split),
        "modalities": [*evaluator.modalities],
        "left_out": sorted(set(restored.run.model.modalities) - set(evaluator.modalities)),
        **metrics,
        "code": version.code(),
    }
    storage.write_json(run.results / f"{report.file_stem(result)}.json", result)
    return result, predictions


def draw(run: RunDirectory, result: Mapping[str, Any], predictions: Predictions) -> None:
    """Draws the pictures of a result in the folder of its JSON file."""
    plots.draw(run.results, report.file_stem(result), result, predictions)


def evaluate_every_subset(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    dataset: Dataset | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run with every non-empty set of its modalities.

    Writes `SPLIT_subsets.json` and a picture of it to `eval/` in the run directory
    (`subsets_stem`). A model that classifies a single modality is evaluated with that modality.

    Args:
      workdir: Run directory.
      split: Name of the split: train, valid or test.
      which: Name of the checkpoint: best, latest, or a step.
      dataset: Data to evaluate on; see `evaluate_run`.
      data_folders: Current folders of the data; see `evaluate_run`.

    Returns:
      The content of the JSON file: `split`, `checkpoint`, `step`, `parameters` and `data` as in
      `evaluate_run`; `n_examples`; `score`, accuracy or mae (`SCORE_NAMES`); and `subsets`, the
      largest first, each with its `modalities`, that score and the mean `loss`.

    Raises:
      RunDirectoryError, NoCheckpointError, NotFiniteError, OSError: See `evaluate_run`.
      ValueError: See `evaluate_run`. Also if the model has more modalities than
        `MAX_MODALITIES`.
    """
    run = _writable_run(workdir)
    restored = restore(run, which, dataset, data_folders=data_folders)
    result = {
        "split": split,
        "checkpoint": which,
        "step": restored.step,
        "parameters": restored.parameters,
        "data": restored.run.data(split),
        "n_examples": len(restored.run.dataset.source(split)),
        "score": SCORE_NAMES[restored.run.model.task],
        "subsets": [
            {"modalities": [*names], **_scores(run, restored, split, which, names)}
            for names in every_subset(restored.run.model)
        ],
        "code": version.code(),
    }
    storage.write_json(run.results / f"{subsets_stem(result)}.json", result)
    picture = run.results / f"{subsets_stem(result)}.png"
    with pictures.reported(picture):
        run_plots.draw_subsets(picture, result, f"{picture.stem}: {result['score']}")
    return result


def subsets_stem(result: Mapping[str, Any]) -> str:
    """Returns the name of the file of `evaluate_every_subset`, without the ending."""
    return report.file_stem({**result, "modalities": [], "left_out": []}) + "_subsets"


def _scores(
    run: RunDirectory, restored: Restored, split: str, which: str, names: Sequence[str]
) -> dict[str, float]:
    evaluator = restored.run.evaluator(split, names)
    predictions = evaluator.predict(restored.params)
    with own_data.naming_checkpoint(run, which, restored.step):
        check_outputs(predictions.logits, predictions.ids)
    return evaluator.scores(predictions)


def _writable_run(workdir: str | os.PathLike[str]) -> RunDirectory:
    """Opens a run directory, and checks before any work that results can be written to it."""
    run = RunDirectory(storage.as_path(workdir))
    run.read_config()
    run.make_results()
    return run
