"""Evaluation of the runs of several seeds, with the mean and spread of each metric."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sft_jax.data.dataset import Dataset
from sft_jax.evaluation import report, run
from sft_jax.evaluation.metrics import is_family
from sft_jax.evaluation.restored import OpenedRun, restore
from sft_jax.runs import directory, storage
from sft_jax.runs.directory import RunDirectoryError, SeedsDirectory


def evaluate_seeds(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    modalities: Sequence[str] | None = None,
    dataset: Dataset | None = None,
    *,
    data_folders: Mapping[str, str] | None = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Evaluates the runs of several seeds, and computes mean and spread of each metric.

    Each run directory `seed_N` in `workdir` gets the files that `evaluate_run` writes. The
    metrics of all runs are written to `eval/SPLIT.json` in `workdir`, with the variations of the
    name as in `evaluate_run`. The model is compiled once. Pictures are drawn at the end.

    Args:
      workdir: Folder of the run directories.
      split: Name of the split: train, valid or test.
      which: Name of the checkpoint: best, latest, or a step.
      modalities: Modalities that the model gets; see `evaluate_run`.
      dataset: Data to evaluate on; see `evaluate_run`.
      data_folders: Current folders of the data; see `evaluate_run`.
      show: Function of the result, called before any picture is drawn.

    Returns:
      The content of the JSON file:
      - the fields of one run that are listed in `sft_jax.evaluation.run.SHARED`;
      - `n_examples`, `n_seeds`, and `seeds` in ascending order;
      - `steps`, the steps of the checkpoints;
      - `unfinished`, the seeds whose training has not finished;
      - `metrics`, with `values` in the order of the seeds, `mean` and `std` of each metric.

      `std` is the sample standard deviation (n - 1), and null for one seed. Both are null where a
      value is. Families of metrics (`DatasetInfo.metrics`) are nested under their names.

    Raises:
      RunDirectoryError: If `workdir` holds no runs of seeds, they differ in more than their
        seeds, or `evaluate_run` refuses one of them.
      NoCheckpointError, DamagedCheckpointError, NotFiniteError, OSError, ValueError: See
        `evaluate_run`.
    """
    folder = writable_runs(storage.as_path(workdir))
    like: OpenedRun | None = None
    results, predictions, unfinished = {}, {}, []
    for seed, place in folder.runs.items():
        restored = restore(place, which, dataset, like, data_folders=data_folders)
        if like is None:
            like, evaluator = restored.run, restored.run.evaluator(split, modalities)
        results[seed], predictions[seed] = run.evaluate_restored(
            place, restored, evaluator, split, which
        )
        if not restored.done:
            unfinished.append(seed)
    one = next(iter(results.values()))
    result = {
        **{key: one[key] for key in run.SHARED},
        "n_examples": one["n_examples"],
        "n_seeds": len(results),
        "seeds": [*results],
        "steps": [result["step"] for result in results.values()],
        "unfinished": unfinished,
        "metrics": summarise([*results.values()]),
    }
    storage.write_json(folder.results / f"{report.file_stem(result)}.json", result)
    if show:
        show(result)
    for seed, place in folder.runs.items():
        run.draw(place, results[seed], predictions[seed])
    return result


def writable_runs(path: storage.AnyPath) -> SeedsDirectory:
    """Runs of a folder, which differ in their seeds alone, and whose results can be written.

    Raises:
      RunDirectoryError: If there are none, or they differ in more than their seeds.
      OSError: If a folder of results can't be written to.
    """
    folder = SeedsDirectory.existing(path)
    if not folder.runs:
        raise RunDirectoryError(f"{folder} holds no runs of seeds: there is no seed_N in it")
    first, *others = folder.runs.values()
    directory.check_settings(first.read_config(), others)
    for place in (folder, *folder.runs.values()):
        place.make_results()
    return folder


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Computes values, mean and sample standard deviation of each metric of several results.

    Args:
      results: Results of `evaluate_run`. Floats and nulls are summarised, in families of metrics
        too, but not in the metrics of each class.
    """
    summary: dict[str, Any] = {}
    for name in results[0]:
        values = [result[name] for result in results]
        if is_family(name):
            summary[name] = summarise(values)
        elif all(value is None or isinstance(value, float) for value in values):
            summary[name] = _spread(values)
    return summary


def _spread(values: list[float | None]) -> dict[str, Any]:
    defined = [value for value in values if value is not None]
    complete = len(defined) == len(values)
    return {
        "values": values,
        "mean": statistics.fmean(defined) if complete else None,
        "std": statistics.stdev(defined) if complete and len(defined) > 1 else None,
    }
