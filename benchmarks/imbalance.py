"""Ways to train on unequal classes: clinical records, 14 % of them positive.

python -m benchmarks.imbalance --manual_dir=FOLDER --json=FILE

FOLDER holds the raw files of PhysioNet 2012 (`python -m sft_jax.data list` says which). A fifth of
set a is for validation, and set b is the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile
from typing import Any

from benchmarks import harness
from benchmarks.suites import SUITES
from configs import physionet2012
from sft_jax import config_io, experiment
from sft_jax.config import ExperimentConfig
from sft_jax.evaluation.seeds import evaluate_seeds

WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "metric": {"best_metric": "average_precision"},
    "weights": {"best_metric": "average_precision", "class_weights": "balanced"},
    "sampling": {"best_metric": "average_precision", "sampling": "balanced"},
}
METRICS = ("roc_auc", "average_precision", "brier", "balanced_accuracy", "macro_f1")


def config(folder: pathlib.Path, seeds: list[int], epochs: int, **train: Any) -> ExperimentConfig:
    """Experiment with changes of the section `train`."""
    base = config_io.from_mapping(physionet2012.get_config())
    fields = {"manual_dir": str(folder), "test_sets": ("b",)}
    return dataclasses.replace(
        base,
        seeds=tuple(seeds),
        data=dataclasses.replace(base.data, **fields),
        train=dataclasses.replace(base.train, epochs=epochs, **train),
    )


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, seeds=(0, 1, 2), only=WAYS)
    text = "folder with the raw files"
    arguments.add_argument("--manual_dir", type=pathlib.Path, required=True, help=text)
    arguments.add_argument("--epochs", type=int, default=10, help="default 10")
    return arguments


def main() -> None:
    """Trains each way with each seed, and writes the metrics of the test split."""
    options = parser().parse_args()
    result: dict[str, Any] = {**harness.environment(SUITES["imbalance"].scope), "ways": {}}
    for way in options.only or WAYS:
        with tempfile.TemporaryDirectory() as folder:
            own = config(options.manual_dir, options.seeds, options.epochs, **WAYS[way])
            experiment.train_seeds(own, folder)
            evaluated = evaluate_seeds(folder, "test", "best")
        result["n_examples"] = evaluated["n_examples"]
        metrics = {name: evaluated["metrics"][name] for name in METRICS}
        result["ways"][way] = {"train": WAYS[way], "steps": evaluated["steps"], **metrics}
        harness.write(options.json, result)
        for name, values in metrics.items():
            print(f"{way}: {name} {values['mean']:.4f} ± {values['std'] or 0:.4f}", flush=True)


if __name__ == "__main__":
    main()
