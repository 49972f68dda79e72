"""The study of one dataset: SFT beside its controls, with paired intervals, and their cost.

python -m benchmarks.study --set=watch --json=study_watch.json --runs=FOLDER [--cost]

Each row has the same budget of tuning: three learning rates, chosen on the validation split with
the first seed. Checkpoints are those of best validation, and the test split is evaluated once.

The result is written after each row, and rows in the file are not repeated. `--runs` keeps the run
directories, with the predictions that paired intervals need. A killed start goes on from there.
With `--cost` the rows are timed, in turns, and nothing is trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import time
from typing import Any

from benchmarks import harness
from benchmarks.study import cost, rows
from benchmarks.study.sets import CLS_ALONE, SETS, SFT, StudySet
from sft_jax import version
from sft_jax.compare.differences import difference
from sft_jax.compare.intervals import RESAMPLES

CONFIDENCE = 0.95


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, seeds=(0, 1, 2, 3, 4))
    names = ", ".join(SETS)
    arguments.add_argument(
        "--set", required=True, choices=SETS, metavar="SET", help=f"one of {names}"
    )
    arguments.add_argument(
        "--only", action="append", metavar="ROW", help="row of the set; may be repeated"
    )
    arguments.add_argument("--manual_dir", default="", help="folder with raw files of all datasets")
    text = "folder to keep the run directories in"
    arguments.add_argument("--runs", type=pathlib.Path, required=True, help=text)
    arguments.add_argument("--cost", action="store_true", help="time the rows, and train nothing")
    return arguments


def read_or_begin(options: argparse.Namespace) -> dict[str, Any]:
    """Reads the result of an earlier start, or begins a new one.

    Raises:
      ValueError: If the file is of another set or of other seeds.
    """
    begun = {"set": options.set, "metric": SETS[options.set].metric, "seeds": options.seeds}
    if not options.json.exists():
        return {**harness.environment(), **begun, "rows": {}}
    result: dict[str, Any] = json.loads(options.json.read_text())
    if wrong := [key for key, value in begun.items() if result.get(key) != value]:
        raise ValueError(
            f"{options.json} has {wrong[0]}={result.get(wrong[0])}, not {begun[wrong[0]]}: remove"
            " it to begin anew"
        )
    return result


def train(one: StudySet, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Trains and tests the rows that the result lacks, and writes it after each.

    Args:
      one: Set of the rows.
      options: Parsed arguments.
      result: Result so far; gets the new rows.
    """
    for name, row in one.rows.items():
        if name in result["rows"] or (options.only and name not in options.only):
            continue
        print(name, flush=True)
        begin = time.process_time()
        config = rows.experiment_of(one.base, row, options.manual_dir)
        values = rows.train_row(config, row, result["seeds"], folder(options.runs, name))
        own = {**values, "cpu_seconds": time.process_time() - begin, "code": version.code()}
        found = {**result["rows"], name: own}
        result["rows"] = {name: found[name] for name in one.rows if name in found}
        harness.write(options.json, result)
        tested = own["test"][one.metric]
        print(f"  {own['cpu_seconds']:.0f} s, {tested['mean']:.4f} ± {tested['std'] or 0:.4f}")


def folder(runs: pathlib.Path, name: str) -> pathlib.Path:
    """Folder of the run directories of a row."""
    return runs / name.replace(", ", "_").replace(" ", "_")


def compare(one: StudySet, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Adds the paired differences of each row from the row of SFT, and from that of CLS alone."""
    tested = {
        name: rows.tested(folder(options.runs, name), own) for name, own in result["rows"].items()
    }
    for base in {SFT, CLS_ALONE} & {*tested}:
        for name, own in result["rows"].items():
            if name == base:
                continue
            found = difference(tested[name], tested[base], one.metric, CONFIDENCE, RESAMPLES)
            values = None if found is None else dataclasses.asdict(found)
            own.setdefault("differences", {})[base] = values


def main() -> None:
    """Measures the rows that the file lacks, and compares all."""
    options = parser().parse_args()
    one, result = SETS[options.set], read_or_begin(options)
    if unknown := sorted({*(options.only or ())} - {*one.rows}):
        parser().error(f"--only: no rows {unknown} in {options.set}; it has {[*one.rows]}")
    if options.cost:
        result["cost"] = cost.measure_rows(one, options.only or [*one.rows], options.manual_dir)
    else:
        train(one, options, result)
        compare(one, options, result)
    harness.write(options.json, result)


if __name__ == "__main__":
    main()
