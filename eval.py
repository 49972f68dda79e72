"""Evaluates a run: tables on the terminal, JSON and a picture in the run directory.

python eval.py --workdir=runs/watch [--split=test] [--checkpoint=best] [--predictions=FILE.csv]
"""

from __future__ import annotations

import pathlib

from absl import flags
from rich.console import Console

from sft_jax import command_line
from sft_jax.evaluation import report
from sft_jax.evaluation.metrics import PARTS
from sft_jax.evaluation.run import evaluate_run

_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory of train.py.", required=True)
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "valid", "test"], "What to evaluate on.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.")
_PREDICTIONS = flags.DEFINE_string("predictions", None, "CSV file to write predictions to.")


def main() -> None:
    """Runs the evaluation that the flags describe."""
    workdir = pathlib.Path(_WORKDIR.value)
    result, predictions = evaluate_run(workdir, _SPLIT.value, _CHECKPOINT.value)
    report.print_tables(Console(), result)
    if _PREDICTIONS.value:
        names = tuple(result[PARTS[predictions.task]])
        report.write_predictions(pathlib.Path(_PREDICTIONS.value), predictions, names)
    print(f"run directory: {workdir}\nresults: {workdir / 'eval' / result['split']}.json")


if __name__ == "__main__":
    command_line.run(main)
