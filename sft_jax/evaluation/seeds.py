"""Evaluation of the runs of several seeds, with the mean and spread of each metric."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sft_jax.data.dataset import Dataset
from sft_jax.evaluation import report, run
from sft_jax.evaluation.metrics import is_family
from sft_jax.runs import directory, seeds, storage
from sft_jax.runs.directory import RunDirectoryError


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
    """Evaluates a checkpoint of the run of each seed, and computes mean and spread of each metric.

    Each run directory `seed_N` there is in `workdir` gets the files that `evaluate_run` writes. The
    metrics of all are written to `eval/SPLIT.json` in `workdir`, or to a file of the name that
    `evaluate_run` gives such a result. All is compiled once. Pictures are drawn in the end.

    Args:
      workdir: the folder with the run directories.
      split: train, valid or test.
      which: best, latest, or a step.
      modalities: as `evaluate_run`, as for `dataset`.
      dataset: what is evaluated on.
      data_folders: as `evaluate_run`.
      show: called with what is returned, before any picture is drawn.

    Returns:
      What is in the JSON file: what `sft_jax.evaluation.run.SHARED` names, as for one run;
      `n_examples`; `n_seeds`; `seeds`, ascending; `steps`, those of their checkpoints;
      `unfinished`, the seeds whose training has not come to its end; and `metrics`, each metric's
      `values` in the order of the seeds, their `mean` and `std`, the sample standard deviation
      (n - 1), which is null of one seed. Both are null where a value is. Families of metrics
      (`DatasetInfo.metrics`) are nested under their names.

    Raises:
      RunDirectoryError: if `workdir` holds no runs of seeds, they differ in more than their
        seeds, or as `evaluate_run` says of any.
      NoCheckpointError, DamagedCheckpointError, NotFiniteError, OSError, ValueError: as
        `evaluate_run`.
    """
    workdir = storage.as_path(workdir)
    folders = seeds.found(workdir)
    if not folders:
        raise RunDirectoryError(f"{workdir} holds no runs of seeds: there is no seed_N in it")
    first, *others = folders.values()
    seeds.check_equal(directory.read_config(first), others)
    for path in (workdir, *folders.values()):
        run.results_folder(path)
    like: run.Restored | None = None
    results, predictions, unfinished = {}, {}, []
    for seed, folder in folders.items():
        restored = run.restore(folder, which, dataset, like, data_folders=data_folders)
        if like is None:
            like, evaluator = restored, restored.evaluator(split, modalities)
        results[seed], predictions[seed] = run.evaluate_restored(
            folder, restored, evaluator, split, which
        )
        if not restored.done:
            unfinished.append(seed)
    of_first = results[min(results)]
    result = {
        **{key: of_first[key] for key in run.SHARED},
        "n_examples": of_first["n_examples"],
        "n_seeds": len(results),
        "seeds": [*results],
        "steps": [of["step"] for of in results.values()],
        "unfinished": unfinished,
        "metrics": summarise([*results.values()]),
    }
    path = run.results_folder(workdir) / f"{report.file_stem(result)}.json"
    directory.write_json(path, result)
    if show:
        show(result)
    for seed, folder in folders.items():
        run.draw(folder, results[seed], predictions[seed])
    return result


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Values, mean and sample standard deviation of each metric of several results.

    Args:
      results: as `evaluate_run` returns them. Their floats are taken, null among them, and those
        of their families of metrics; not those of each class.
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
    whole = len(defined) == len(values)
    return {
        "values": values,
        "mean": statistics.fmean(defined) if whole else None,
        "std": statistics.stdev(defined) if whole and len(defined) > 1 else None,
    }
