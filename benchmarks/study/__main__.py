"""The study of one dataset: SFT beside its controls, with paired intervals, and their cost.

python -m benchmarks.study --set=watch --json=study_watch.json --runs=FOLDER [--parts=rows,why,cost]

Each row has the same budget of tuning: three learning rates, chosen on the validation split with
the first seed. Checkpoints are those of best validation, and the test split is evaluated once.

The result is written after each row. Rows of the file are repeated if their code or experiment has
changed. `--runs` keeps the run directories of each. The predictions that rows are compared with lie
beside the result, so that it can be continued on another machine. A killed start goes on with the
row that it was in. The part `why` corrupts modalities and leaves tokens out. The part `cost` times
the rows in turns, so that nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

from benchmarks import freshness, harness
from benchmarks.study import classical_rows, compared, cost, rows, why
from benchmarks.study.sets import PARTS, SETS, StudyRow, StudySet
from sft_jax.data.sets.base import digest
from sft_jax.runs.directory import FOLD


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
    text = f"comma-separated, of {','.join(PARTS)}; default: all that the set has"
    arguments.add_argument("--parts", type=harness.names, help=text)
    return arguments


def train(one: StudySet, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Trains and tests the rows that the result lacks, and writes it after each.

    Args:
      one: Set of the rows.
      options: Parsed arguments.
      result: Result so far; gets the new rows.
    """
    code, every = freshness.identity(one.scope), [*one.rows, *one.classical]
    for name in options.only or every:
        identity = {"experiment": one.definition(name), "code": code}
        if is_done(result["rows"].get(name), one, name):
            continue
        print(name, flush=True)
        begin, place = time.process_time(), folder(options.runs, name, identity)
        if name in one.classical:
            config = rows.experiment_of(one.base, StudyRow(), options.manual_dir)
            values = classical_rows.fit_row(config, name, result["seeds"], one.metric, place)
        else:
            config = rows.experiment_of(one.base, one.rows[name], options.manual_dir)
            forget(place, one.rows[name], result["seeds"][0])
            values = rows.train_row(config, one.rows[name], result["seeds"], place)
        own = {**values, "cpu_seconds": time.process_time() - begin, **identity}
        own |= harness.elsewhere(result)
        found = {**result["rows"], name: own}
        result["rows"] = {name: found[name] for name in every if name in found}
        harness.write(options.json, result)
        measured = own["test"][one.metric]
        print(f"  {own['cpu_seconds']:.0f} s, {measured['mean']:.4f} ± {measured['std'] or 0:.4f}")


def forget(place: pathlib.Path, row: StudyRow, first: int) -> None:
    """Removes the runs of other seeds than the first, which a killed start left behind.

    The learning rate is chosen by the runs that are there, and so by those of the first seed.

    Args:
      place: Folder of the row.
      row: The row.
      first: Seed that chooses the rate.
    """
    for pattern in ("rate_*/seed_*", f"rate_*/{FOLD}*/seed_*") if len(row.rates) > 1 else ():
        for run in place.glob(pattern):
            if run.name != f"seed_{first}":
                shutil.rmtree(run)


def is_done(row: Mapping[str, Any] | None, one: StudySet, name: str) -> bool:
    """Returns whether a row is there, of the present code and of the present experiment."""
    return (
        row is not None
        and row["experiment"] == one.definition(name)
        and bool(freshness.state(row["code"], one.scope).fresh)
    )


def folder(runs: pathlib.Path, name: str, row: Mapping[str, Any]) -> pathlib.Path:
    """Folder of the run directories of a row, of one experiment and one state of the code alone.

    Args:
      runs: Folder of all run directories.
      name: Name of the row.
      row: Values of the row, with its `experiment` and `code`.
    """
    own = digest([row["experiment"], freshness.maker(row["code"])])
    return runs / f"{name.replace(', ', '_').replace(' ', '_')}_{own}"


def main() -> None:
    """Measures the rows that the file lacks, and compares all."""
    options = parser().parse_args()
    one = SETS[options.set]
    begun = {"set": options.set, "metric": one.metric, "seeds": options.seeds}
    result = harness.read_or_begin(options.json, one.scope, begun, "rows")
    every = [*one.rows, *one.classical]
    if unknown := sorted({*(options.only or ())} - {*every}):
        parser().error(f"--only: no rows {unknown} in {options.set}; it has {every}")
    parts = options.parts or one.parts
    if unknown := sorted({*parts} - {*one.parts}):
        parser().error(f"--parts: no part {unknown} in {options.set}; it has {[*one.parts]}")
    if "rows" in parts:
        train(one, options, result)
    folders = {name: folder(options.runs, name, row) for name, row in result["rows"].items()}
    if "rows" in parts:
        file = options.json.with_suffix(".npz")
        compared.compare(one, result, folders, file, options.manual_dir)
        harness.write(options.json, result)
    if "why" in parts and not why.is_fresh(result, folders):
        result["why"] = why.explain(one, result, folders)
        harness.write(options.json, result)
    if "cost" in parts and not cost.is_fresh(one, result):
        result["cost"] = cost.measure_rows(one, options.manual_dir)
        harness.write(options.json, result)


if __name__ == "__main__":
    main()
