"""Accuracy of experiments with several seeds: one table for each suite of `accuracy_suites.py`.

python -m benchmarks.accuracy --suite=watch_ablation --json=ablation.json
python -m benchmarks.accuracy --suite=av_mnist --manual_dir=raw --json=av_mnist.json

Trains with `sft_jax.experiment.train_seeds` and evaluates the checkpoint of best validation with
`sft_jax.evaluation.seeds.evaluate_seeds`, as train.py and eval.py do. A suite with classical models
trains a logistic regression and a random forest on statistics of the same windows.

The result is written after each row. Rows in the file that are fresh (`benchmarks.freshness`) are
not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import classical, freshness, harness
from benchmarks.accuracy_suites import SUITES, Suite
from sft_jax import experiment
from sft_jax.config import ExperimentConfig
from sft_jax.data.outline import outline
from sft_jax.data.registry import open_dataset
from sft_jax.evaluation.seeds import evaluate_seeds
from sft_jax.modules.factory import build_model
from sft_jax.profile import flops
from sft_jax.profile.budgets import evaluate_budgets
from sft_jax.profile.measure import measure

_TIMED_STEPS = 20


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument(
        "--suite", required=True, choices=SUITES, metavar="SUITE", help=f"of {', '.join(SUITES)}"
    )
    arguments.add_argument(
        "--seeds", type=harness.numbers, help="comma-separated; default those of the suite"
    )
    arguments.add_argument(
        "--only", action="append", metavar="ROW", help="row of the suite; may be repeated"
    )
    arguments.add_argument("--manual_dir", default="", help="folder with the raw files of AV-MNIST")
    arguments.add_argument(
        "--runs", type=pathlib.Path, help="folder to keep the run directories in"
    )
    return arguments


def train_and_evaluate(
    configs: Sequence[ExperimentConfig],
    seeds: Sequence[int],
    runs: pathlib.Path,
    budgets: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> dict[str, Any]:
    """Trains experiments with several seeds and evaluates their best checkpoints.

    Args:
      configs: Experiments whose runs are taken together.
      seeds: Seeds that each is trained with.
      runs: Folder for the run directories.
      budgets: Numbers of kept tokens that the runs of the first experiment are evaluated with.
      strides: Strides that they are evaluated with, each with every budget.

    Returns:
      JSON values: accuracies in test and validation, with means; steps of the checkpoints; and
      the cost of one example, with its parameters, operations and tokens. With budgets or strides
      also the `test` and `valid` accuracies of each, with its operations and milliseconds.
    """
    shapes = outline(configs[0].data)
    model = build_model(configs[0].model, shapes.modalities, shapes.num_outputs)
    scores: dict[str, list[float]] = {"valid": [], "test": []}
    steps: list[int] = []
    counts: list[int] = []
    for number, config in enumerate(configs):
        folder = runs / str(number)
        experiment.train_seeds(dataclasses.replace(config, seeds=tuple(seeds)), folder)
        for split, accuracies in scores.items():
            result = evaluate_seeds(folder, split, "best")
            accuracies += result["metrics"]["accuracy"]["values"]
        steps += result["steps"]
        counts += [result["n_examples"]] * len(result["seeds"])
    by_budget = budget_rows(runs / "0", budgets, strides) if budgets or strides else {}
    return {
        "parameters": flops.num_parameters(model),
        "forward_flops": flops.forward_cost(model).flops,
        "tokens": {name: spec.num_tokens for name, spec in shapes.modalities.items()},
        **harness.summary(scores["test"], counts),
        "valid_accuracies": scores["valid"],
        "valid_accuracy_mean": statistics.fmean(scores["valid"]),
        "best_steps": steps,
        **by_budget,
    }


def budget_rows(
    folder: pathlib.Path, budgets: Sequence[int], strides: Sequence[int]
) -> dict[str, Any]:
    """Accuracies and cost of the best checkpoints of a folder of runs, with each budget."""
    results = {
        split: evaluate_budgets(folder, split, "best", budgets, strides=strides)["budgets"]
        for split in ("valid", "test")
    }
    return {
        "budgets": [
            {
                **{name: value for name, value in row.items() if name != "metrics"},
                **{split: rows[i]["metrics"]["accuracy"] for split, rows in results.items()},
            }
            for i, row in enumerate(results["test"])
        ]
    }


def step_seconds(config: ExperimentConfig) -> float:
    """Median seconds of a training step, in a process of its own, on random examples."""
    row = measure(config, outline(config.data), batch_sizes=[], steps=_TIMED_STEPS)
    return row["train_step_seconds"]


def classical_rows(
    configs: Sequence[ExperimentConfig], seeds: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Test accuracies of classical models on the data of experiments, with each seed."""
    by_run = [
        classical.baselines(dataset, seed)
        for dataset in (open_dataset(config.data) for config in configs)
        for seed in seeds
    ]
    return {
        name: harness.summary(
            [run[name]["accuracy"] for run in by_run], [run[name]["n_examples"] for run in by_run]
        )
        for name in by_run[0]
    }


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Test accuracies of the second row minus those of the first, seed by seed."""
    each = [b - a for a, b in zip(first["accuracies"], second["accuracies"], strict=True)]
    deviation = statistics.stdev(each) if len(each) > 1 else None
    return {"mean": statistics.fmean(each), "std": deviation, "each": each}


def read_or_begin(
    path: pathlib.Path, name: str, seeds: Sequence[int], scope: str
) -> dict[str, Any]:
    """Reads the result of an earlier start, or begins a new one.

    Raises:
      ValueError: If the file is of another suite or of other seeds.
    """
    return harness.read_or_begin(path, scope, {"suite": name, "seeds": list(seeds)}, "models")


def experiments(suite: Suite, name: str) -> list[dict[str, Any]]:
    """The experiments of a row of a suite, as JSON values; none for a classical model."""
    variants = [variant._asdict() for variant in suite.rows.get(name, ())]
    return json.loads(json.dumps(variants, default=dict))


def _is_fresh(models: Mapping[str, Any], name: str, suite: Suite) -> bool:
    """Returns True for a row of this code and of the experiments that the suite now names."""
    row = models.get(name)
    return (
        row is not None
        and bool(freshness.state(row.get("code"), suite.scope).fresh)
        and row.get("experiments") == experiments(suite, name)
    )


def measure_rows(
    suite: Suite, chosen: Sequence[str], options: argparse.Namespace, result: dict[str, Any]
) -> None:
    """Measures rows that the result lacks or has from other code, and writes it after each.

    Args:
      suite: Suite of the rows.
      chosen: Names of the rows.
      options: Parsed arguments.
      result: Result so far; gets the new rows.
    """
    models, seeds, code = result["models"], result["seeds"], freshness.identity(suite.scope)
    for name in chosen:
        if _is_fresh(models, name, suite):
            continue
        print(name, flush=True)
        begin = time.monotonic()
        configs = [variant.experiment(options.manual_dir) for variant in suite.rows[name]]
        with tempfile.TemporaryDirectory() as temporary:
            # Runs of other code are not taken for runs of this.
            folder = (options.runs or pathlib.Path(temporary)) / code["scope_digest"][-12:]
            runs = folder / name.replace("/", "_")
            budgets, strides = suite.budgets.get(name, ()), suite.strides.get(name, ())
            row = train_and_evaluate(configs, seeds, runs, budgets, strides)
        if suite.step_seconds:
            row["train_step_seconds"] = step_seconds(configs[0])
        # The code of each row: rows of one file may be of several commits.
        models[name] = {**row, "experiments": experiments(suite, name), "code": code}
        # In the order of the suite, also if a row is measured again.
        models = {name: models[name] for name in (*suite.rows, *models) if name in models}
        result["models"] = models
        harness.write(options.json, result)
        print(f"  {time.monotonic() - begin:.0f} s, test {row['accuracies']}", flush=True)


def print_table(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a Markdown table."""
    print("\n| | test accuracy | valid accuracy | parameters | FLOPs per example | ms a step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, row in models.items():
        accuracy = f"{row['accuracy_mean']:.3f}"
        if row["accuracy_std"] is not None:
            accuracy += f" ± {row['accuracy_std']:.3f}"
        cells = ["", "", ""]
        if "parameters" in row:
            cells = [
                f"{row['valid_accuracy_mean']:.3f}",
                f"{row['parameters']:,}",
                f"{row['forward_flops']:,}",
            ]
        seconds = row.get("train_step_seconds")
        cells.append("" if seconds is None else f"{1000 * seconds:.1f}")
        print("|", " | ".join([name, accuracy, *cells]), "|")


def main() -> None:
    """Measures the rows that the file lacks, and prints the table."""
    options = parser().parse_args()
    suite = SUITES[options.suite]
    chosen = options.only or list(suite.rows)
    if unknown := sorted(set(chosen) - set(suite.rows)):
        parser().error(f"--only: no rows {unknown} in {options.suite}; it has {list(suite.rows)}")
    result = read_or_begin(options.json, options.suite, options.seeds or suite.seeds, suite.scope)
    measure_rows(suite, chosen, options, result)
    models = result["models"]
    if suite.classical and not options.only and not _is_fresh(models, "random forest", suite):
        configs = [variant.experiment() for variant in next(iter(suite.rows.values()))]
        code = freshness.identity(suite.scope)
        rows = classical_rows(configs, result["seeds"])
        models |= {name: {**row, "experiments": [], "code": code} for name, row in rows.items()}
    pairs = {data: pair for data, pair in suite.differences.items() if set(pair) <= set(models)}
    if pairs:
        result["differences"] = {
            data: differences(models[first], models[second])
            for data, (first, second) in pairs.items()
        }
    harness.write(options.json, result)
    print_table(models)
    for data, (first, second) in pairs.items():
        print(f"{second} - {first}: {json.dumps(result['differences'][data])}")


if __name__ == "__main__":
    main()
