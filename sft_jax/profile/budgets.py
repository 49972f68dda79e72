"""Accuracy and cost of trained models at several numbers of kept tokens."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from sft_jax import version
from sft_jax.data.dataset import Dataset
from sft_jax.evaluation import own_data, pictures, report, seeds
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.evaluation.metrics import is_family, task_metrics
from sft_jax.evaluation.restored import OpenedRun, Restored, restore
from sft_jax.modules.budget import with_budget
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.profile import flops
from sft_jax.profile.measure import median_seconds
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory
from sft_jax.structs import ModalitySpec

_TIMED_RUNS = 20


def evaluate_budgets(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    budgets: Sequence[int],
    modalities: Sequence[str] | None = None,
    dataset: Dataset | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint with several numbers of kept tokens, and counts and times each.

    Writes `SPLIT_budgets.json` and a picture to `eval/` in the directory (`budgets_stem`). A folder
    of several seeds gives the mean and spread of each metric.

    Args:
      workdir: Run directory, or a folder of the runs of several seeds.
      split: Name of the split: train, valid or test.
      which: Name of the checkpoint: best, latest, or a step.
      budgets: Numbers of tokens kept of each modality.
      modalities: Modalities that the model gets; see `evaluate_run`.
      dataset: Data to evaluate on; see `evaluate_run`.
      data_folders: Current folders of the data; see `evaluate_run`.
      show: Function of the result, called before the picture is drawn.

    Returns:
      The content of the JSON file: `split`, `checkpoint`, `steps`, `seeds` and similar fields, as
      in `sft_jax.evaluation.seeds.evaluate_seeds`; `score`, accuracy or mae (`SCORE_NAMES`);
      `device`; and `budgets`. Each budget has its `k`; `flops`, counted for one example
      of full length; `milliseconds`, the median of one example on one device; and `metrics`, with
      `values` by seed, `mean` and `std`.

    Raises:
      RunDirectoryError, NoCheckpointError, NotFiniteError, OSError: See `evaluate_run`.
      ValueError: See `evaluate_run`. Also if a budget does not fit the model (`with_budget`).
    """
    folder = RunDirectory(storage.as_path(workdir))
    config = folder.read_config()
    runs = seeds.writable_runs(folder.path).runs if config.seeds else {config.seed: folder}
    folder.make_results()
    first: Restored | None = None
    metrics: dict[int, list[dict[str, Any]]] = {k: [] for k in budgets}
    steps = []
    for place in runs.values():
        like = first.run if first else None
        restored = restore(place, which, dataset, like, data_folders=data_folders)
        if first is None:
            first = restored
            evaluators = _evaluators(first.run, split, budgets, modalities)
        for k, evaluator in evaluators.items():
            metrics[k].append(_metrics(place, restored, evaluator, which))
        steps.append(restored.step)
    assert first is not None
    opened, names = first.run, evaluators[budgets[0]].modalities
    result = {
        "split": split,
        "checkpoint": which,
        "parameters": first.parameters,
        "data": opened.data(split),
        "modalities": [*names],
        "left_out": sorted(set(opened.model.modalities) - set(names)),
        "n_examples": len(opened.dataset.source(split)),
        "n_seeds": len(runs),
        "seeds": [*runs],
        "steps": steps,
        "score": SCORE_NAMES[opened.model.task],
        "device": jax.local_devices()[0].device_kind,
        "budgets": [
            {"k": k, **cost(with_budget(opened.model, k), first.params, names)}
            | {"metrics": seeds.summarise(metrics[k])}
            for k in budgets
        ],
        "code": version.code(),
    }
    stem = budgets_stem(result)
    storage.write_json(folder.results / f"{stem}.json", result)
    if show:
        show(result)
    picture = folder.results / f"{stem}.png"
    with pictures.reported(picture):
        draw_budgets(picture, result)
    return result


def _evaluators(
    opened: OpenedRun, split: str, budgets: Sequence[int], modalities: Sequence[str] | None
) -> dict[int, Evaluator]:
    """Makes the evaluators of a split by budget; checks every budget before any compilation."""
    models = {k: with_budget(opened.model, k) for k in budgets}
    return {
        k: dataclasses.replace(opened, model=model).evaluator(split, modalities)
        for k, model in models.items()
    }


def _metrics(
    place: RunDirectory, restored: Restored, evaluator: Evaluator, which: str
) -> dict[str, Any]:
    predictions, info = evaluator.predict(restored.params), restored.run.dataset.info
    with own_data.naming_checkpoint(place, which, restored.step):
        return task_metrics(predictions, info.class_names, info.metrics)


def cost(model: Any, params: Any, modalities: Sequence[str]) -> dict[str, float]:
    """Computes the operations and the time of the logits of one full-length example.

    Args:
      model: Model to measure.
      params: Parameters of the model.
      modalities: Names of the modalities that the model gets.

    Returns:
      `flops`, all arithmetic that `sft_jax.profile.flops` counts, and `milliseconds`, the median on
      the first local device, with inputs and parameters in place.
    """
    specs: dict[str, ModalitySpec] = {name: model.modalities[name] for name in modalities}
    random = np.random.default_rng(0)
    example = {n: random.standard_normal((1, *s.shape), np.float32) for n, s in specs.items()}
    args = jax.device_put((jax.device_get(params), example), jax.local_devices()[0])

    def logits(params: Any, inputs: Any) -> Any:
        return model.apply({"params": params}, inputs)

    return {
        "flops": flops.count(logits, *args).flops,
        "milliseconds": 1e3 * median_seconds(jax.jit(logits), args, _TIMED_RUNS),
    }


def budgets_stem(result: Mapping[str, Any]) -> str:
    """Returns the name of the files of `evaluate_budgets`, without the ending."""
    return report.file_stem(result) + "_budgets"


def print_budgets(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the result of `evaluate_budgets`, one row for each budget.

    Each family of metrics has a table of its own.
    """
    console.print(report.heading(result), highlight=False)
    metrics = result["budgets"][0]["metrics"]
    scalars = [name for name in metrics if not is_family(name)]
    table = _table(["MFLOPs", "ms, batch of 1", *scalars])
    for row in result["budgets"]:
        values = [_cell(row["metrics"][name]) for name in scalars]
        costs = (f"{row['flops'] / 1e6:.2f}", f"{row['milliseconds']:.2f}")
        table.add_row(str(row["k"]), *costs, *values)
    console.print(table)
    for family in filter(is_family, metrics):
        table = _table([*metrics[family]], title=family)
        for row in result["budgets"]:
            table.add_row(str(row["k"]), *map(_cell, row["metrics"][family].values()))
        console.print(table)


def _table(columns: Sequence[str], title: str | None = None) -> Table:
    table = Table(title=title)
    for name in ("k", *columns):
        table.add_column(name, justify="right")
    return table


def _cell(metric: Mapping[str, Any]) -> str:
    if metric["mean"] is None:
        return "-"
    return f"{metric['mean']:.4f}" + (f" ± {metric['std']:.4f}" if metric["std"] else "")


def draw_budgets(path: storage.AnyPath, result: Mapping[str, Any]) -> None:
    """Draws the score against operations and against time, a point for each budget.

    Args:
      path: Path of the picture.
      result: Result of `evaluate_budgets`.
    """
    rows, score = result["budgets"], result["score"]
    means = [row["metrics"][score]["mean"] for row in rows]
    spread = [row["metrics"][score]["std"] or 0 for row in rows] if result["n_seeds"] > 1 else None
    panels = {
        "MFLOPs of one example": [row["flops"] / 1e6 for row in rows],
        f"ms of one example, {result['device']}": [row["milliseconds"] for row in rows],
    }
    title = f"{budgets_stem(result)}: {score} by number of kept tokens"
    with pictures.drawn(path, (10, 4), [title, *panels]) as figure:
        figure.suptitle(title)
        for axes, (label, costs) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            axes.plot(costs, means, color="lightgrey", zorder=0)
            for i, row in enumerate(rows):
                error = spread[i] if spread else None
                # Names beside the points would cover each other: small budgets cost the same.
                axes.errorbar(
                    costs[i], means[i], yerr=error, fmt="o", capsize=3, label=f"k={row['k']}"
                )
            axes.set(xlabel=label, ylabel=score)
            axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def read_budgets(texts: Sequence[str]) -> list[int]:
    """Reads the numbers of `--k`, in ascending order.

    Raises:
      ValueError: For anything other than whole numbers.
    """
    wrong = [text for text in texts if not text.strip().isdecimal()]
    if wrong or not texts:
        raise ValueError(f"--k={','.join(texts)}: expected whole numbers from 0, such as 0,1,4")
    return sorted({int(text) for text in texts})
