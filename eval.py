"""Evaluates a run: tables on the terminal, JSON and a picture in the run directory.

python eval.py --workdir=runs/watch [--split=test] [--checkpoint=best] [--predictions=FILE.csv]
    [--modalities=NAME,NAME | --every_subset]

Of the runs of several seeds (train.py --config.seeds=0,1,2) it prints each metric's value by
seed, and their mean and standard deviation.
"""

from __future__ import annotations

from absl import flags
from rich.console import Console

from sft_jax import command_line
from sft_jax.data.card_report import print_summary
from sft_jax.evaluation import report
from sft_jax.evaluation.metrics import PARTS
from sft_jax.evaluation.run import evaluate_every_subset, evaluate_run, read_card
from sft_jax.evaluation.seeds import evaluate_seeds
from sft_jax.evaluation.subsets import file_stem
from sft_jax.training import run_directory, seeds, storage
from sft_jax.training.run_directory import CARD

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


def main() -> None:
    """Runs the evaluation that the flags describe."""
    workdir = storage.as_path(_WORKDIR.value)
    what = (workdir, _SPLIT.value, _CHECKPOINT.value)
    if numbers := run_directory.read_config(workdir).seeds:
        if _EVERY_SUBSET.value or _PREDICTIONS.value:
            raise ValueError(
                f"--every_subset and --predictions are of one run, and {workdir} holds those of"
                f" several seeds: give one of them, such as --workdir={workdir}/seed_{numbers[0]}"
            )
        _evaluate_seeds(workdir)
        return
    if _EVERY_SUBSET.value:
        if _MODALITIES.value is not None or _PREDICTIONS.value:
            raise ValueError("--every_subset goes with neither --modalities nor --predictions")
        report.print_subsets(Console(), evaluate_every_subset(*what))
        _print_data(workdir)
        _print_paths(workdir, f"{_SPLIT.value}_subsets")
        return
    result, predictions = evaluate_run(*what, _MODALITIES.value)
    report.print_tables(Console(), result)
    _print_data(workdir)
    if _PREDICTIONS.value:
        names = tuple(result[PARTS[predictions.task]])
        report.write_predictions(storage.as_path(_PREDICTIONS.value), predictions, names)
    _print_paths(workdir, file_stem(result))


def _evaluate_seeds(workdir: storage.AnyPath) -> None:
    result = evaluate_seeds(workdir, _SPLIT.value, _CHECKPOINT.value, _MODALITIES.value)
    report.print_seeds(Console(), result)
    _print_data(next(iter(seeds.found(workdir).values())))
    _print_paths(workdir, file_stem(result))


def _print_data(workdir: storage.AnyPath) -> None:
    if card := read_card(workdir):
        print_summary(Console(), card, str(workdir / CARD))


def _print_paths(workdir: storage.AnyPath, stem: str) -> None:
    print(f"run directory: {workdir}\nresults: {workdir / 'eval' / stem}.json")


if __name__ == "__main__":
    command_line.run(main, compilation_cache=True, distributed=True)
