"""Why a row of the study is as it is: corrupted modalities, and tokens left out one by one.

python -m benchmarks.study.why --set=watch --study=study_watch.json --runs=FOLDER --json=FILE

`--study` is a result of `python -m benchmarks.study`, and FOLDER has its run directories. Nothing
is trained.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from benchmarks import harness
from benchmarks.study import corruption, leave_out
from benchmarks.study.__main__ import folder
from benchmarks.study.sets import SETS, SFT
from sft_jax.evaluation.restored import Restored, restore
from sft_jax.runs import storage
from sft_jax.runs.directory import SeedsDirectory


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--set", required=True, choices=SETS, metavar="SET")
    text = "folder of the run directories of the study"
    arguments.add_argument("--runs", type=pathlib.Path, required=True, help=text)
    text = "result of benchmarks.study for the set"
    arguments.add_argument("--study", type=pathlib.Path, required=True, help=text)
    text = "examples whose tokens are left out; default 100"
    arguments.add_argument("--examples", type=int, default=100, help=text)
    arguments.add_argument(
        "--rows", type=harness.names, default=["sft", "k=0", "late", "concat", "mbt"]
    )
    return arguments


def runs_of(place: pathlib.Path, rate: float) -> list[Restored]:
    """Best checkpoints of a row, one for each seed, with one model and dataset."""
    found: list[Restored] = []
    folders = SeedsDirectory.existing(storage.as_path(place / f"rate_{rate:g}")).runs.values()
    for run in folders:
        found.append(restore(run, "best", None, found[0].run if found else None))
    return found


def main() -> None:
    """Measures the rows, and writes the result after each."""
    options = parser().parse_args()
    study: dict[str, Any] = json.loads(options.study.read_text())
    one = SETS[options.set]
    if lacking := [name for name in options.rows if name not in study["rows"]]:
        parser().error(f"--rows: {options.study} has no rows {lacking}")
    result = {
        **harness.environment(one.scope),
        "set": options.set,
        "metric": one.metric,
        "rows": {},
    }
    for name in options.rows:
        row = study["rows"][name]
        runs = runs_of(folder(options.runs, name, row), row["rate"])
        own: dict[str, Any] = {"corrupted": corruption.curves(runs, one.metric)}
        if name == SFT:
            own["left_out"] = [leave_out.measure(run, options.examples) for run in runs]
        result["rows"][name] = own
        harness.write(options.json, result)


if __name__ == "__main__":
    main()
