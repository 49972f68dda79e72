"""Confidence cascades of one trained model: few kept tokens first, more where it is unsure.

An example is classified with the smallest number of tokens `k`. If the largest probability is not
above a threshold, it goes on to the next `k`, up to the largest. The threshold is one number for
all `k`, chosen on the validation split. It is the lowest whose accuracy is at most a tolerance
below that of the largest `k`.

The part of the model before fusion is computed once, for all `k`, and counted once. Each `k` that
an example gets to adds the cost of its own fusion and head.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table

from sft_jax.data.dataset import Dataset
from sft_jax.evaluation import own_data, report, seeds
from sft_jax.evaluation.evaluator import Evaluator, Predictions
from sft_jax.evaluation.metrics import is_family, task_metrics
from sft_jax.evaluation.restored import OpenedRun, Restored, restore
from sft_jax.evaluation.scores import check_outputs, probabilities
from sft_jax.modules.budget import with_budget
from sft_jax.modules.elastic import Fusion, Trunk, part
from sft_jax.modules.factory import param_shapes
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.profile import budgets, flops
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory
from sft_jax.structs import CLASS_TASKS

TOLERANCE = 0.005
"""Default of the accuracy on the validation split that a cascade may lose."""


def evaluate_cascade(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    kept: Sequence[int],
    tolerance: float = TOLERANCE,
    modalities: Sequence[str] | None = None,
    dataset: Dataset | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint as a cascade, with a threshold chosen on the validation split.

    Writes a JSON file to `eval/` in the directory (`cascade_stem`). A folder of several seeds has
    a threshold for each seed, and gives the mean and spread of each figure.

    Args:
      workdir: Run directory, or a folder of the runs of several seeds.
      split: Name of the split: train, valid or test.
      which: Name of the checkpoint: best, latest, or a step.
      kept: Numbers of tokens kept of each modality, at least two.
      tolerance: Accuracy on the validation split, from 0 to 1, that the cascade may lose.
      modalities: Modalities that the model gets; see `evaluate_run`.
      dataset: Data to evaluate on; see `evaluate_run`.
      data_folders: Current folders of the data; see `evaluate_run`.
      show: Function of the result, called at the end.

    Returns:
      The content of the JSON file: `split`, `checkpoint`, `steps`, `seeds` and similar fields, as
      in `sft_jax.profile.budgets.evaluate_budgets`; `tolerance`; and `threshold`. `valid` has the
      accuracies on the validation split, of the `cascade` and of the `largest` k. `stages` has
      each `k` in ascending order: `share`, of the examples that stop there; `flops` of one of
      them; and `accuracy` of all examples with this k alone. `flops` is the mean over the
      examples, `flops_of_largest` that of the largest k alone, both of full length. `metrics` are
      those of the cascade. Figures have `values` by seed, `mean` and `std`.

    Raises:
      RunDirectoryError, NoCheckpointError, NotFiniteError, OSError: See `evaluate_run`.
      ValueError: See `evaluate_run`. Also for a task other than single_label and ordinal, fewer
        than two budgets, or one that does not fit the model.
    """
    kept = sorted(set(kept))
    folder = RunDirectory(storage.as_path(workdir))
    runs = budgets.writable_runs(folder)
    first: Restored | None = None
    figures, metrics, steps = [], [], []
    for place in runs.values():
        like = first.run if first else None
        restored = restore(place, which, dataset, like, data_folders=data_folders)
        if first is None:
            first = restored
            check_cascade(first.run.model, kept, tolerance)
            evaluators = _evaluators(first.run, {"valid", split}, kept, modalities)
            names = evaluators[split][0].modalities
            costs = stage_flops(first.run.model, kept, names)
        with own_data.naming_checkpoint(place, which, restored.step):
            own, scores = _evaluate(restored, evaluators, split, tolerance, costs)
        figures.append(own)
        metrics.append(scores)
        steps.append(restored.step)
    assert first is not None
    result = {
        **budgets.described(first, split, which, names),
        "n_seeds": len(runs),
        "seeds": [*runs],
        "steps": steps,
        "tolerance": tolerance,
        "stages": [
            {"k": k, "flops": costs[i], **seeds.summarise([own["stages"][i] for own in figures])}
            for i, k in enumerate(kept)
        ],
        "valid": seeds.summarise([own["valid"] for own in figures]),
        **seeds.summarise([own["all"] for own in figures]),
        "flops_of_largest": _flops_alone(first.run.model, kept[-1], names),
        "metrics": seeds.summarise(metrics),
    }
    storage.write_json(folder.results / f"{cascade_stem(result)}.json", result)
    if show:
        show(result)
    return result


def check_cascade(model: Any, kept: Sequence[int], tolerance: float) -> None:
    """Checks that a model can be evaluated as a cascade.

    Args:
      model: Model to evaluate.
      kept: Numbers of kept tokens in ascending order.
      tolerance: Accuracy that may be lost.

    Raises:
      ValueError: If there are fewer than two budgets, one of them does not fit the model, or the
        tolerance is not from 0 to 1. Also if the model is no `SparseFusionTransformer` of classes.
    """
    if type(model) is not SparseFusionTransformer:
        raise ValueError(
            f"cascade={[*kept]}: {type(model).__name__} can't be cut before fusion;"
            " SparseFusionTransformer alone can"
        )
    if model.task not in CLASS_TASKS:
        raise ValueError(
            f"cascade={[*kept]}: the task is {model.task!r}; the largest probability decides for"
            f" {' and '.join(CLASS_TASKS)} alone"
        )
    if len(kept) < 2:
        raise ValueError(f"cascade={[*kept]}: expected at least two numbers of kept tokens")
    if not 0 <= tolerance < 1:
        raise ValueError(f"cascade_tolerance={tolerance} must be at least 0 and below 1")
    for k in kept:
        with_budget(model, k)


def _evaluators(
    opened: OpenedRun,
    splits: set[str],
    kept: Sequence[int],
    modalities: Sequence[str] | None,
) -> dict[str, list[Evaluator]]:
    """Makes an evaluator of each budget, for each split."""
    cut = [dataclasses.replace(opened, model=with_budget(opened.model, k)) for k in kept]
    return {split: [own.evaluator(split, modalities) for own in cut] for split in splits}


def _evaluate(
    restored: Restored,
    evaluators: Mapping[str, Sequence[Evaluator]],
    split: str,
    tolerance: float,
    costs: Sequence[int],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Computes the figures of one run, and the metrics of its cascade."""
    predicted = {
        name: [evaluator.predict(restored.params) for evaluator in own]
        for name, own in evaluators.items()
    }
    confidences = {name: _confidences(stages) for name, stages in predicted.items()}
    right = {name: _right(stages) for name, stages in predicted.items()}
    threshold = choose_threshold(confidences["valid"], right["valid"], tolerance)
    stops = {name: stopping_stages(own, threshold) for name, own in confidences.items()}
    info, stages = restored.run.dataset.info, predicted[split]
    figures = {
        "all": {"threshold": threshold, "flops": float(np.take(costs, stops[split]).mean())},
        "valid": {
            "cascade": float(np.take_along_axis(right["valid"], stops["valid"][None], 0).mean()),
            "largest": float(right["valid"][-1].mean()),
        },
        "stages": [
            {"share": float((stops[split] == i).mean()), "accuracy": float(own.mean())}
            for i, own in enumerate(right[split])
        ],
    }
    return figures, task_metrics(_stopped(stages, stops[split]), info.class_names, info.metrics)


def _confidences(stages: Sequence[Predictions]) -> Float[np.ndarray, "s n"]:
    for own in stages:
        check_outputs(own.logits, own.ids)
    return np.stack(
        [probabilities(own.task, own.logits.astype(np.float64)).max(axis=1) for own in stages]
    )


def _right(stages: Sequence[Predictions]) -> Bool[np.ndarray, "s n"]:
    return np.stack([own.logits.argmax(axis=1) == own.labels for own in stages])


def _stopped(stages: Sequence[Predictions], stops: Int[np.ndarray, " n"]) -> Predictions:
    """Takes each example's outputs from the stage where it stops."""
    every = np.arange(len(stops))
    return dataclasses.replace(
        stages[-1],
        logits=np.stack([own.logits for own in stages])[stops, every],
        loss=np.stack([own.loss for own in stages])[stops, every],
    )


def stopping_stages(
    confidence: Float[np.ndarray, "s n"], threshold: float
) -> Int[np.ndarray, " n"]:
    """Finds the stage where each example stops: the first whose confidence is above a threshold.

    Args:
      confidence: Largest probability at each stage.
      threshold: Threshold, from 0 to 1; with 1 no example stops before the last stage.

    Returns:
      Number of the stage, counted from 0; the last if none is above the threshold.
    """
    above = confidence > threshold
    above[-1] = True
    stage: np.ndarray = above.argmax(axis=0)
    return stage


def choose_threshold(
    confidence: Float[np.ndarray, "s n"], right: Bool[np.ndarray, "s n"], tolerance: float
) -> float:
    """Chooses the lowest threshold whose accuracy is at most `tolerance` below the last stage's.

    The lowest threshold stops the most examples early, so that it is the cheapest. The search is
    exact: accuracy changes only where the threshold passes an example's confidence.

    Args:
      confidence: Largest probability at each stage.
      right: True where a stage classifies an example correctly.
      tolerance: Accuracy that may be lost, at least 0.

    Returns:
      Threshold in the middle between two confidences that occur, 0 if every example may stop at
      the first stage, and at most 1.
    """
    # With a threshold of at least its highest confidence so far, an example leaves a stage.
    leaves = np.maximum.accumulate(confidence[:-1], axis=0).ravel()
    change = (right[1:].astype(int) - right[:-1]).ravel()
    order = np.argsort(leaves, kind="stable")
    edges, last = np.unique(leaves[order], return_index=True)
    last = np.append(last[1:], len(order)) - 1
    counts = right[0].sum() + np.append(0, np.cumsum(change[order])[last])
    enough = right[-1].sum() - tolerance * right.shape[1]
    # The highest threshold always suffices, since every example gets to the last stage.
    best = int(np.argmax(counts >= enough - 1e-9))
    edges = np.array([*edges, 1.0])
    return 0.0 if best == 0 else float((edges[best - 1] + edges[best]) / 2)


def stage_flops(model: Any, kept: Sequence[int], modalities: Sequence[str]) -> list[int]:
    """Counts the operations of one full-length example that stops at each stage.

    The part before fusion counts once, with the pooling to every budget, as a program that may go
    on computes it.

    Args:
      model: `SparseFusionTransformer`.
      kept: Numbers of kept tokens in ascending order.
      modalities: Names of the modalities that the model gets.

    Returns:
      Operations (`sft_jax.profile.flops`) from the inputs to the logits of each stage.
    """
    trunk, fusion = part(Trunk, model, budgets=tuple(kept)), part(Fusion, model)
    variables, inputs = {"params": param_shapes(model)}, _inputs(model, modalities)
    before = flops.count(trunk.apply, variables, inputs).flops
    entering, pooled = jax.eval_shape(trunk.apply, variables, inputs)
    fused = [flops.count(fusion.apply, variables, entering, pooled[k]).flops for k in kept]
    return [before + total for total in itertools.accumulate(fused)]


def _flops_alone(model: Any, k: int, modalities: Sequence[str]) -> int:
    variables = {"params": param_shapes(model)}
    return flops.count(with_budget(model, k).apply, variables, _inputs(model, modalities)).flops


def _inputs(model: Any, modalities: Sequence[str]) -> dict[str, Any]:
    shapes = jax.eval_shape(model.example_inputs)
    return {name: shapes[name] for name in modalities}


def cascade_stem(result: Mapping[str, Any]) -> str:
    """Returns the name of the file of `evaluate_cascade`, without the ending."""
    return f"{report.file_stem(result)}_cascade"


def print_cascade(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the result of `evaluate_cascade`: a row for each stage, then the cascade."""
    console.print(report.heading(result), highlight=False)
    table = Table()
    for name in ("k", "share that stops", "MFLOPs to here", "accuracy of this k alone"):
        table.add_column(name, justify="right")
    for row in result["stages"]:
        share, accuracy = budgets.cell(row["share"]), budgets.cell(row["accuracy"])
        table.add_row(str(row["k"]), share, f"{row['flops'] / 1e6:.2f}", accuracy)
    console.print(table)
    valid = result["valid"]
    console.print(
        f"threshold {budgets.cell(result['threshold'])}, chosen on valid for a loss of at most"
        f" {result['tolerance']:g}: accuracy {budgets.cell(valid['cascade'])} there, of the largest"
        f" k {budgets.cell(valid['largest'])}",
        highlight=False,
    )
    table = Table(title="cascade")
    for name in ("metric", "value"):
        table.add_column(name, justify="right")
    table.add_row("mean MFLOPs", f"{result['flops']['mean'] / 1e6:.2f}")
    table.add_row("MFLOPs of the largest k", f"{result['flops_of_largest'] / 1e6:.2f}")
    for name, metric in result["metrics"].items():
        if not is_family(name):
            table.add_row(name, budgets.cell(metric))
    console.print(table)
