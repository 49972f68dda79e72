"""Ways to train on unequal classes: clinical records, 14 % of them positive.

python -m benchmarks.imbalance --manual_dir=FOLDER --json=FILE

The data are those of the PhysioNet/Computing in Cardiology Challenge 2012: 48 hours in intensive
care, and whether the patient died in hospital. FOLDER holds set-a.tar.gz, set-b.tar.gz,
Outcomes-a.txt and Outcomes-b.txt. A fifth of set a is for validation, and set b is the test split.

An hour has the mean of each measurement or the one before, and a flag for each that was made.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import pathlib
import tarfile
import tempfile
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.suites import SUITES
from sft_jax import experiment
from sft_jax.config import ExperimentConfig, ModelConfig, OptimConfig, TrainConfig
from sft_jax.data.arrays import from_arrays
from sft_jax.data.dataset import Dataset
from sft_jax.evaluation.seeds import evaluate_seeds

HOURS = 48
STATIC = ("Age", "Gender", "Height", "Weight", "ICUType")
VITALS = (
    *("Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP"),
    *("FiO2", "GCS", "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP", "MechVent", "Na"),
    *("NIDiasABP", "NIMAP", "NISysABP", "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2"),
    *("SysABP", "Temp", "TroponinI", "TroponinT", "Urine", "WBC"),
)
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "metric": {"best_metric": "average_precision"},
    "weights": {"best_metric": "average_precision", "class_weights": "balanced"},
    "sampling": {"best_metric": "average_precision", "sampling": "balanced"},
}
METRICS = ("roc_auc", "average_precision", "brier", "balanced_accuracy", "macro_f1")


def read_record(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a record.

    Args:
      text: Lines `Time,Parameter,Value`.

    Returns:
      `[1, 5]` values of `STATIC`, and `[48, 72]` hours: values of `VITALS`, then flags. What was
      never measured is NaN.
    """
    static = np.full((1, len(STATIC)), np.nan, np.float32)
    sums, counts = (np.zeros((HOURS, len(VITALS))) for _ in range(2))
    for time, name, value in csv.reader(io.StringIO(text)):
        if name in STATIC and float(value) >= 0:
            static[0, STATIC.index(name)] = float(value)
        elif name in VITALS:
            hour = min(int(time[:2]), HOURS - 1)
            sums[hour, VITALS.index(name)] += float(value)
            counts[hour, VITALS.index(name)] += 1
    values = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    for hour in range(1, HOURS):
        values[hour] = np.where(np.isnan(values[hour]), values[hour - 1], values[hour])
    return static, np.concatenate([values, counts > 0], axis=1, dtype=np.float32)


def read_set(folder: pathlib.Path, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Reads a set, "a" or "b": inputs by modality, and 1 for each patient who died."""
    with (folder / f"Outcomes-{name}.txt").open(newline="") as file:
        died = {row["RecordID"]: int(row["In-hospital_death"]) for row in csv.DictReader(file)}
    records = {}
    with tarfile.open(folder / f"set-{name}.tar.gz") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content and member.name.endswith(".txt"):
                records[pathlib.Path(member.name).stem] = read_record(content.read().decode())
    ids = sorted(records.keys() & died.keys())
    static, hours = (np.stack([records[key][i] for key in ids]) for i in range(2))
    return {"static": static, "hours": hours}, np.array([died[key] for key in ids])


def open_data(folder: pathlib.Path) -> Dataset:
    """Opens the dataset; every fifth patient of set a is for validation."""
    inputs, labels = read_set(folder, "a")
    valid = np.arange(len(labels)) % 5 == 4
    splits = {"train": ~valid, "valid": valid}
    parts = {
        split: ({name: array[chosen] for name, array in inputs.items()}, labels[chosen])
        for split, chosen in splits.items()
    }
    parts["test"] = read_set(folder, "b")
    return from_arrays(
        {split: part[0] for split, part in parts.items()},
        {split: part[1] for split, part in parts.items()},
        class_names=("survived", "died"),
        patch_size={"hours": 4},
        not_finite="mean",
    )


def config(seeds: list[int], epochs: int, **train: Any) -> ExperimentConfig:
    """Experiment with changes of the section `train`."""
    kept = {"static": 1, "hours": 4}
    model = ModelConfig(width=32, num_heads=4, n_post=1, k=kept, dropout=0.2, embedding_std=0.02)
    section = dataclasses.replace(TrainConfig(epochs=epochs, ema_decay=0.99), **train)
    optim = OptimConfig(weight_decay=0.05)
    return ExperimentConfig(seeds=tuple(seeds), model=model, optim=optim, train=section)


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
    data = open_data(options.manual_dir)
    result: dict[str, Any] = {**harness.environment(SUITES["imbalance"].scope), "ways": {}}
    for way in options.only or WAYS:
        with tempfile.TemporaryDirectory() as folder:
            experiment.train_seeds(config(options.seeds, options.epochs, **WAYS[way]), folder, data)
            evaluated = evaluate_seeds(folder, "test", "best", dataset=data)
        result["n_examples"] = evaluated["n_examples"]
        metrics = {name: evaluated["metrics"][name] for name in METRICS}
        result["ways"][way] = {"train": WAYS[way], "steps": evaluated["steps"], **metrics}
        harness.write(options.json, result)
        for name, values in metrics.items():
            print(f"{way}: {name} {values['mean']:.4f} ± {values['std'] or 0:.4f}", flush=True)


if __name__ == "__main__":
    main()
