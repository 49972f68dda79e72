"""Evaluation of the runs of several seeds, as `sft_jax.training.seeds` lays them out."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from typing import Any

from sft_jax.data.datasets import Dataset
from sft_jax.evaluation import subsets
from sft_jax.evaluation.run import evaluate_run
from sft_jax.training import run_directory, seeds, storage


def evaluate_seeds(
    workdir: str | os.PathLike[str],
    split: str,
    which: str,
    modalities: Sequence[str] | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of each run, and says how much the metrics differ between them.

    Each is evaluated as `sft_jax.evaluation.run.evaluate_run` does, which takes the same
    arguments and raises the same errors. Writes `SPLIT_seeds.json` to `eval/` in `workdir`.

    Args:
      workdir: the folder of the runs.
      split: train, valid or test.
      which: best, latest, or a step.
      modalities: names of those that the models are given; by default all.
      dataset: what they are evaluated on.

    Returns:
      What is in the JSON file: `split`, `checkpoint`, `modalities`, `left_out`, `n_examples`;
      `seeds`, by seed its `step` and those `metrics` that are one number; and `mean` and `std` of
      each over the seeds. The standard deviation is that of a sample (n - 1), None of one seed;
      both are None for a metric that some run has none of.

    Raises:
      RunDirectoryError: if there are no runs in `workdir`.
    """
    workdir = storage.as_path(workdir)
    folders = seeds.found(workdir)
    if not folders:
        raise run_directory.RunDirectoryError(f"{workdir} has no folder seed_N with a run")
    results = {
        seed: evaluate_run(folder, split, which, modalities, dataset)[0]
        for seed, folder in folders.items()
    }
    first = next(iter(results.values()))
    names = [name for name in first if any(isinstance(of[name], float) for of in results.values())]
    values = {name: [of[name] for of in results.values()] for name in names}
    kept = ("split", "checkpoint", "modalities", "left_out", "n_examples")
    result = {
        **{name: first[name] for name in kept},
        "seeds": {
            str(seed): {"step": of["step"], "metrics": {name: of[name] for name in names}}
            for seed, of in results.items()
        },
        "mean": {name: _of(statistics.mean, values[name], 1) for name in names},
        "std": {name: _of(statistics.stdev, values[name], 2) for name in names},
    }
    run_directory.write_json(file(workdir, result), result)
    return result


def file(workdir: storage.AnyPath, result: dict[str, Any]) -> storage.AnyPath:
    """Where `evaluate_seeds` writes a result."""
    folder = workdir / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{subsets.file_stem(result)}_seeds.json"


def _of(statistic: Any, values: list[float | None], least: int) -> float | None:
    known = [value for value in values if value is not None]
    return statistic(known) if len(known) == len(values) >= least else None
