"""Evaluates a run: tables on the terminal, JSON and a picture in the run directory.

python eval.py --workdir=runs/watch [--split=test] [--checkpoint=best] [--predictions=FILE.csv]
    [--modalities=NAME,NAME | --every_subset] [--data_dir=FOLDER] [--manual_dir=FOLDER]

Of the runs of several seeds (train.py --config.seeds=0,1,2) it prints each metric's value by
seed, and their mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import flags
from rich.console import Console

from sft_jax import command_line
from sft_jax.data.card_report import print_summary
from sft_jax.evaluation import report
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import BREAKDOWN
from sft_jax.evaluation.run import (
    evaluate_every_subset,
    evaluate_run,
    read_card,
    subsets_stem,
)
from sft_jax.evaluation.seeds import evaluate_seeds
from sft_jax.runs import directory, seeds, storage
from sft_jax.runs.directory import CARD

_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory of train.py.", required=True)
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "valid", "test"], "What to evaluate on.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.")
_PREDICTIONS = flags.DEFINE_string("predictions", None, "CSV file to write predictions to.")
_MODALITIES = flags.DEFINE_list(
    "modalities", None, "Modalities that the model is given, the others left out; default all."
)
_EVERY_SUBSET = flags.DEFINE_bool(
    "every_subset", False, "Instead, compare what the model is worth with each set of modalities."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the prepared data is by now.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Where the raw files are by now.")


def main() -> None:
    """Runs the evaluation that the flags describe."""
    workdir = storage.as_path(_WORKDIR.value)
    what = (workdir, _SPLIT.value, _CHECKPOINT.value)
    folders = {"data_dir": _DATA_DIR.value, "manual_dir": _MANUAL_DIR.value}
    for name, folder in folders.items():
        if folder and not storage.as_path(folder).exists():
            raise ValueError(f"--{name}={folder}: there is no such folder")
    moved = {field: folder for field, folder in folders.items() if folder is not None}
    if numbers := directory.read_config(workdir).seeds:
        if _EVERY_SUBSET.value or _PREDICTIONS.value:
            raise ValueError(
                f"--every_subset and --predictions are of one run, and {workdir} holds those of"
                f" several seeds: give one of them, such as --workdir={workdir}/seed_{numbers[0]}"
            )
        first = next(iter(seeds.found(workdir).values()), workdir)
        evaluate_seeds(*what, _MODALITIES.value, data_folders=moved, show=_show_seeds(first))
        return
    if _EVERY_SUBSET.value:
        if _MODALITIES.value is not None or _PREDICTIONS.value:
            raise ValueError("--every_subset goes with neither --modalities nor --predictions")
        result = evaluate_every_subset(*what, data_folders=moved)
        report.print_subsets(Console(), result)
        _print_data(workdir)
        _print_paths(workdir, subsets_stem(result))
        return
    file = storage.as_path(_PREDICTIONS.value) if _PREDICTIONS.value else None
    if file:
        storage.prepare_file(file)
    evaluate_run(*what, _MODALITIES.value, data_folders=moved, show=_show(workdir, file))


def _show(
    workdir: storage.AnyPath, file: storage.AnyPath | None
) -> Callable[[dict[str, Any], Predictions], None]:
    def show(result: dict[str, Any], predictions: Predictions) -> None:
        report.print_tables(Console(), result)
        if file:
            names = tuple(result[BREAKDOWN[predictions.task]])
            report.write_predictions(file, predictions, names)
        _print_data(workdir)
        _print_paths(workdir, report.file_stem(result))

    return show


def _show_seeds(first: storage.AnyPath) -> Callable[[dict[str, Any]], None]:
    def show(result: dict[str, Any]) -> None:
        report.print_seeds(Console(), result)
        _print_data(first)
        _print_paths(first.parent, report.file_stem(result))

    return show


def _print_data(workdir: storage.AnyPath) -> None:
    if card := read_card(workdir):
        print_summary(Console(), card, str(workdir / CARD))


def _print_paths(workdir: storage.AnyPath, stem: str) -> None:
    print(f"run directory: {workdir}\nresults: {workdir / 'eval' / stem}.json")


if __name__ == "__main__":
    command_line.run(main, compilation_cache=True, distributed=True)
