"""Accuracy and cost of trained models at several strides, depths and numbers of kept tokens."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
from sft_jax.modules.depth import with_depth
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.profile import flops
from sft_jax.profile.measure import median_seconds
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory
from sft_jax.structs import ModalitySpec

_TIMED_RUNS = 20

_MEANINGS = {"k": "number of kept tokens", "stride": "stride", "depth": "number of blocks"}


class Setting(NamedTuple):
    """Number of kept tokens, stride and number of blocks; None for those of the run."""

    k: int | None
    stride: int | None
    depth: int | None = None

    @property
    def fields(self) -> dict[str, int]:
        """Fields that are set."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def model(self, model: Any) -> Any:
        """Clones a model for the setting."""
        strided = with_stride(model, self.stride or 1)
        deep = strided if self.depth is None else with_depth(strided, self.depth)
        return deep if self.k is None else with_budget(deep, self.k)

    def params(self, model: Any, params: Any) -> Any:
        """Computes the parameters of the clone."""
        return resize_params(model, params, self.stride or 1)


def evaluate_budgets(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    budgets: Sequence[int],
    modalities: Sequence[str] | None = None,
    dataset: Dataset | None = None,
    *,
    strides: Sequence[int] = (),
    depths: Sequence[int] = (),
    data_folders: Mapping[str, str] | None = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint with several strides, depths and numbers of kept tokens, and costs it.

    Writes a JSON file and a picture to `eval/` in the directory (`budgets_stem`). A folder of
    several seeds gives the mean and spread of each metric.

    Args:
      workdir: Run directory, or a folder of the runs of several seeds.
      split: Name of the split: train, valid or test.
      which: Name of the checkpoint: best, latest, or a step.
      budgets: Numbers of tokens kept of each modality; empty for that of the run.
      modalities: Modalities that the model gets; see `evaluate_run`.
      dataset: Data to evaluate on; see `evaluate_run`.
      strides: Strides (`sft_jax.modules.stride`), each with every budget; empty for 1 alone.
      depths: Numbers of blocks of each modality (`sft_jax.modules.depth`), each with every stride;
        empty for all blocks.
      data_folders: Current folders of the data; see `evaluate_run`.
      show: Function of the result, called before the picture is drawn.

    Returns:
      The content of the JSON file: `split`, `checkpoint`, `steps`, `seeds` and similar fields, as
      in `sft_jax.evaluation.seeds.evaluate_seeds`; `score`, accuracy or mae (`SCORE_NAMES`);
      `device`; and `budgets`. Each budget has its `k`, `stride` or `depth`, or several; `flops`,
      counted for one example of full length; `milliseconds`, the median of one example on one
      device; and `metrics`, with `values` by seed, `mean` and `std`.

    Raises:
      RunDirectoryError, NoCheckpointError, NotFiniteError, OSError: See `evaluate_run`.
      ValueError: See `evaluate_run`. Also without any budget, stride and depth, or if one does not
        fit the model (`with_budget`, `with_stride`, `with_depth`).
    """
    settings = _settings(budgets, strides, depths)
    folder = RunDirectory(storage.as_path(workdir))
    runs = writable_runs(folder)
    first: Restored | None = None
    metrics: dict[Setting, list[dict[str, Any]]] = {setting: [] for setting in settings}
    steps = []
    for place in runs.values():
        like = first.run if first else None
        restored = restore(place, which, dataset, like, data_folders=data_folders)
        if first is None:
            first = restored
            evaluators = _evaluators(first.run, split, settings, modalities)
        for setting, evaluator in evaluators.items():
            metrics[setting].append(_metrics(place, restored, setting, evaluator, which))
        steps.append(restored.step)
    assert first is not None
    names = evaluators[settings[0]].modalities
    result = {
        **described(first, split, which, names),
        "n_seeds": len(runs),
        "seeds": [*runs],
        "steps": steps,
        "device": jax.local_devices()[0].device_kind,
        "budgets": [
            _row(first, setting, names) | {"metrics": seeds.summarise(metrics[setting])}
            for setting in settings
        ],
    }
    stem = budgets_stem(result)
    storage.write_json(folder.results / f"{stem}.json", result)
    if show:
        show(result)
    picture = folder.results / f"{stem}.png"
    with pictures.reported(picture):
        draw_budgets(picture, result)
    return result


def writable_runs(folder: RunDirectory) -> Mapping[int, RunDirectory]:
    """Opens a run, or a folder of the runs of several seeds, to write its results.

    Returns:
      Run directory by seed.

    Raises:
      RunDirectoryError, OSError: See `sft_jax.evaluation.seeds.writable_runs`.
    """
    config = folder.read_config()
    runs = seeds.writable_runs(folder.path).runs if config.seeds else {config.seed: folder}
    folder.make_results()
    return runs


def described(
    restored: Restored, split: str, which: str, modalities: Sequence[str]
) -> dict[str, Any]:
    """Describes the subject of a result, in the fields that all results share."""
    opened = restored.run
    return {
        "split": split,
        "checkpoint": which,
        "parameters": restored.parameters,
        "data": opened.data(split),
        "modalities": [*modalities],
        "left_out": sorted(set(opened.model.modalities) - set(modalities)),
        "n_examples": len(opened.dataset.source(split)),
        "score": SCORE_NAMES[opened.model.task],
        "code": version.code(),
    }


def _settings(
    budgets: Sequence[int], strides: Sequence[int], depths: Sequence[int]
) -> list[Setting]:
    if not budgets and not strides and not depths:
        raise ValueError("budgets, strides and depths are empty: give at least one number")
    axes = (numbers or (None,) for numbers in (budgets, strides, depths))
    return [Setting(*own) for own in itertools.product(*axes)]


def _evaluators(
    opened: OpenedRun,
    split: str,
    settings: Sequence[Setting],
    modalities: Sequence[str] | None,
) -> dict[Setting, Evaluator]:
    """Makes the evaluators of a split; checks every setting before any compilation."""
    models = {setting: setting.model(opened.model) for setting in settings}
    return {
        setting: dataclasses.replace(opened, model=model).evaluator(split, modalities)
        for setting, model in models.items()
    }


def _row(restored: Restored, setting: Setting, modalities: Sequence[str]) -> dict[str, float]:
    model = restored.run.model
    params = setting.params(model, restored.params)
    return {**setting.fields, **cost(setting.model(model), params, modalities)}


def _metrics(
    place: RunDirectory, restored: Restored, setting: Setting, evaluator: Evaluator, which: str
) -> dict[str, Any]:
    params = setting.params(restored.run.model, restored.params)
    predictions, info = evaluator.predict(params), restored.run.dataset.info
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
    names = {"k": "budgets", "stride": "strides", "depth": "depths"}
    return "_".join([report.file_stem(result), *(names[name] for name in _varied(result))])


def _varied(result: Mapping[str, Any]) -> list[str]:
    """Names of the fields that tell rows apart."""
    return [name for name in _MEANINGS if name in result["budgets"][0]]


def print_budgets(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the result of `evaluate_budgets`, one row for each budget.

    Each family of metrics has a table of its own.
    """
    console.print(report.heading(result), highlight=False)
    rows, varied = result["budgets"], _varied(result)
    metrics = rows[0]["metrics"]
    scalars = [name for name in metrics if not is_family(name)]
    table = _table([*varied, "MFLOPs", "ms, batch of 1", *scalars])
    for row in rows:
        values = [cell(row["metrics"][name]) for name in scalars]
        costs = (f"{row['flops'] / 1e6:.2f}", f"{row['milliseconds']:.2f}")
        table.add_row(*(str(row[name]) for name in varied), *costs, *values)
    console.print(table)
    for family in filter(is_family, metrics):
        table = _table([*varied, *metrics[family]], title=family)
        for row in rows:
            values = [cell(metric) for metric in row["metrics"][family].values()]
            table.add_row(*(str(row[name]) for name in varied), *values)
        console.print(table)


def _table(columns: Sequence[str], title: str | None = None) -> Table:
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def cell(metric: Mapping[str, Any]) -> str:
    """Formats the mean and the spread of a figure."""
    if metric["mean"] is None:
        return "-"
    return f"{metric['mean']:.4f}" + (f" ± {metric['std']:.4f}" if metric["std"] else "")


def draw_budgets(path: storage.AnyPath, result: Mapping[str, Any]) -> None:
    """Draws the score against operations and against time, a point for each budget.

    Args:
      path: Path of the picture.
      result: Result of `evaluate_budgets`.
    """
    rows, score, varied = result["budgets"], result["score"], _varied(result)
    means = [row["metrics"][score]["mean"] for row in rows]
    spread = [row["metrics"][score]["std"] or 0 for row in rows] if result["n_seeds"] > 1 else None
    panels = {
        "MFLOPs of one example": [row["flops"] / 1e6 for row in rows],
        f"ms of one example, {result['device']}": [row["milliseconds"] for row in rows],
    }
    title = f"{budgets_stem(result)}: {score} by {' and '.join(_MEANINGS[n] for n in varied)}"
    with pictures.drawn(path, (10, 4), [title, *panels]) as figure:
        figure.suptitle(title)
        for axes, (unit, costs) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            if len(varied) == 1:  # Otherwise a line would lead from one k to the next.
                axes.plot(costs, means, color="lightgrey", zorder=0)
            for i, row in enumerate(rows):
                error = spread[i] if spread else None
                # Names beside the points would cover each other: small budgets cost the same.
                label = ", ".join(f"{name}={row[name]}" for name in varied)
                axes.errorbar(costs[i], means[i], yerr=error, fmt="o", capsize=3, label=label)
            axes.set(xlabel=unit, ylabel=score)
            axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def read_numbers(name: str, texts: Sequence[str] | None, least: int) -> list[int]:
    """Reads the numbers of the flag `--name`, in ascending order; none without the flag.

    Raises:
      ValueError: For anything other than whole numbers from `least`.
    """
    if texts is None:
        return []
    wrong = [text for text in texts if not text.strip().isdecimal() or int(text) < least]
    if wrong or not texts:
        raise ValueError(
            f"--{name}={','.join(texts)}: expected whole numbers from {least}, such as {least},2,4"
        )
    return sorted({int(text) for text in texts})
