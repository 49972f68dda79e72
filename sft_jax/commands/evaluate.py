"""Evaluates a run: tables on the terminal; JSON, pictures and a page in the run directory.

python eval.py --workdir=runs/watch [--split=test] [--checkpoint=best] [--predictions=FILE.csv]
    [--modalities=NAME,NAME | --every_subset] [--k=0,1,4] [--stride=1,2,4] [--depth=2,4]
    [--cascade=0,4,20 [--cascade_tolerance=0.005]] [--data_dir=FOLDER] [--manual_dir=FOLDER]
    [--thresholds=f1|balanced_accuracy] [--calibrate] [--report=false]

For runs of several seeds (train.py --config.seeds=0,1,2) it prints the value of each metric by
seed, with mean and standard deviation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from absl import flags
from rich.console import Console

from sft_jax import command_line
from sft_jax.data.card import Card
from sft_jax.data.card_report import print_summary
from sft_jax.evaluation import report
from sft_jax.evaluation.calibration import temperature_of_result
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import BREAKDOWN
from sft_jax.evaluation.run import evaluate_every_subset, evaluate_run, subsets_stem
from sft_jax.evaluation.seeds import evaluate_seeds
from sft_jax.evaluation.thresholds import CRITERIA
from sft_jax.page import kept
from sft_jax.page import writing as page
from sft_jax.profile import budgets, cascade
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory, SeedsDirectory


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command, except those that `command_line.run` adds."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "Run directory of train.py.", **own)
    splits = ["train", "valid", "test"]
    flags.DEFINE_enum("split", "test", splits, "Split to evaluate on.", **own)
    flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.", **own)
    flags.DEFINE_string("predictions", None, "CSV file to write predictions to.", **own)
    text = "Modalities that the model gets, the others left out; default all."
    flags.DEFINE_list("modalities", None, text, **own)
    text = "Instead, compare the model's scores with each set of modalities."
    flags.DEFINE_bool("every_subset", False, text, **own)
    text = "Instead, compare accuracy and cost with each of these numbers of kept tokens."
    flags.DEFINE_list("k", None, text, **own)
    text = "Instead, compare accuracy and cost with each of these strides, with each --k if given."
    flags.DEFINE_list("stride", None, text, **own)
    text = "Instead, compare accuracy and cost with each of these numbers of blocks."
    flags.DEFINE_list("depth", None, text, **own)
    text = "Instead, classify with the smallest of these numbers of kept tokens first, and go on."
    flags.DEFINE_list("cascade", None, text, **own)
    text = "Accuracy on the validation split that --cascade may lose."
    flags.DEFINE_float("cascade_tolerance", cascade.TOLERANCE, text, **own)
    text = "With --split=valid, choose and save the thresholds that maximise this metric."
    flags.DEFINE_enum("thresholds", None, CRITERIA, text, **own)
    text = "With --split=valid, fit and save the temperature of the probabilities."
    flags.DEFINE_bool("calibrate", False, text, **own)
    flags.DEFINE_bool("report", True, "Write report.html of the run directory.", **own)
    flags.DEFINE_string("data_dir", None, "Current folder of the prepared data.", **own)
    flags.DEFINE_string("manual_dir", None, "Current folder of the raw files.", **own)
    flags.mark_flag_as_required("workdir", values)


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the evaluation that the flags describe, and writes the page of each run."""
    _evaluate(values)
    if not values.report:
        return
    run = RunDirectory(storage.as_path(values.workdir))
    seeds = SeedsDirectory.existing(run.path).runs.values() if run.read_config().seeds else [run]
    for place in seeds:
        print(f"page: {page.write(place)}")


def _evaluate(values: flags.FlagValues) -> None:
    workdir = storage.as_path(values.workdir)
    run = RunDirectory(workdir)
    request = (workdir, values.split, values.checkpoint)
    folders = {"data_dir": values.data_dir, "manual_dir": values.manual_dir}
    for name, folder in folders.items():
        if folder and not storage.as_path(folder).exists():
            raise ValueError(f"--{name}={folder}: there is no such folder")
    moved = {field: folder for field, folder in folders.items() if folder is not None}
    if values.cascade is None and values["cascade_tolerance"].present:
        raise ValueError("--cascade_tolerance is given without --cascade, whose accuracy it limits")
    if values.cascade is not None:
        _run_cascade(values, request, moved)
        return
    chosen = values.thresholds or values.calibrate
    if any(values[name].present for name in ("k", "stride", "depth")):
        if values.every_subset or values.predictions or chosen:
            raise ValueError(
                "--k, --stride and --depth go with neither --every_subset, --predictions,"
                " --thresholds nor --calibrate"
            )
        budgets.evaluate_budgets(
            *request,
            budgets.read_numbers("k", values.k, 0),
            values.modalities,
            strides=budgets.read_numbers("stride", values.stride, 1),
            depths=budgets.read_numbers("depth", values.depth, 1),
            data_folders=moved,
            show=_show_budgets(run),
        )
        return
    alone = values.every_subset or values.predictions or chosen
    if run.read_config(several=not alone).seeds:
        evaluate_seeds(*request, values.modalities, data_folders=moved, show=_show_seeds(run))
        return
    if values.every_subset:
        if values.modalities is not None or values.predictions or chosen:
            raise ValueError(
                "--every_subset goes with neither --modalities, --predictions, --thresholds nor"
                " --calibrate"
            )
        result = evaluate_every_subset(*request, data_folders=moved)
        report.print_subsets(Console(), result)
        _print_data(run)
        _print_paths(run, subsets_stem(result))
        return
    file = storage.as_path(values.predictions) if values.predictions else None
    if file:
        storage.prepare_file(file)
    evaluate_run(
        *request,
        values.modalities,
        data_folders=moved,
        thresholds=values.thresholds or "",
        calibrate=values.calibrate,
        show=_show(run, file),
        then=functools.partial(kept.draw, run) if values.report else None,
    )


def _run_cascade(
    values: flags.FlagValues, request: tuple[storage.AnyPath, str, str], moved: dict[str, str]
) -> None:
    others = (
        *("k", "stride", "depth", "every_subset", "predictions", "thresholds"),
        "calibrate",
    )
    if given := [name for name in others if values[name].present]:
        raise ValueError(f"--cascade goes with none of --{', --'.join(others)}; got --{given[0]}")
    numbers = budgets.read_numbers("cascade", values.cascade, 0)
    run, console = RunDirectory(request[0]), Console()

    def show(result: dict[str, Any]) -> None:
        cascade.print_cascade(console, result)
        _print_paths(run, cascade.cascade_stem(result))

    cascade.evaluate_cascade(
        *request,
        numbers,
        values.cascade_tolerance,
        values.modalities,
        data_folders=moved,
        show=show,
    )


def _show(
    run: RunDirectory, file: storage.AnyPath | None
) -> Callable[[dict[str, Any], Predictions], None]:
    def show(result: dict[str, Any], predictions: Predictions) -> None:
        report.print_tables(Console(), result)
        if file:
            names = tuple(result[BREAKDOWN[predictions.task]])
            report.write_predictions(file, predictions, names, temperature_of_result(result))
        _print_data(run)
        _print_paths(run, report.file_stem(result))

    return show


def _show_budgets(run: RunDirectory) -> Callable[[dict[str, Any]], None]:
    def show(result: dict[str, Any]) -> None:
        budgets.print_budgets(Console(), result)
        _print_paths(run, budgets.budgets_stem(result))

    return show


def _show_seeds(folder: RunDirectory) -> Callable[[dict[str, Any]], None]:
    def show(result: dict[str, Any]) -> None:
        report.print_seeds(Console(), result)
        _print_data(next(iter(SeedsDirectory.existing(folder.path).runs.values())))
        _print_paths(folder, report.file_stem(result))

    return show


def _print_data(run: RunDirectory) -> None:
    if run.card_file.exists():
        print_summary(Console(), Card.load(run.card_file), str(run.card_file))


def _print_paths(run: RunDirectory, stem: str) -> None:
    print(f"run directory: {run}\nresults: {run.results / stem}.json")


def run() -> None:
    """Runs the command in this process."""
    define_flags(flags.FLAGS)
    command_line.run(main, compilation_cache=True, distributed=True)
