"""Trains one run for each combination of values of a config's fields.

python -m sft_jax.sweep --config=configs/watch.py --grid='model.name=sft,mbt;model.k=1,4'
    --workdir=runs/sweep [--list=FILE] [--random=N --seed=0] [--per_device] [--dry_run]

The runs are in WORKDIR/model.name=sft,model.k=1 and so on. All are checked before the first starts.
The same command goes on after a stop, leaves finished runs as they are, and repeats failed ones.
--config.FIELD=VALUE applies to all runs, and --config.seeds=0,1,2 trains each with several seeds.
"""

from __future__ import annotations

from typing import Any

from absl import flags
from rich import box, markup
from rich.console import Console
from rich.table import Table

from sft_jax import command_line
from sft_jax.parallel import preflight
from sft_jax.runs import storage
from sft_jax.sweep import runs
from sft_jax.sweep.devices import several
from sft_jax.sweep.grid import Combination, draw, read_fields, read_grid, read_list
from sft_jax.sweep.ranges import read_ranges, sample


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command, except those that `command_line.run` adds."""
    own: dict[str, Any] = {"flag_values": values}
    command_line.define_config(values, "Config, as FILE or FILE:ARG, or the name of a shipped one.")
    text = "Values of fields, FIELD=VALUE,VALUE;FIELD=VALUE,VALUE: a run for each combination."
    flags.DEFINE_string("grid", None, text, **own)
    text = "File with the values of a further run in each line, FIELD=VALUE;FIELD=VALUE."
    flags.DEFINE_string("list", None, text, **own)
    text = "Number of combinations to draw, also from ranges such as loguniform(1e-4,1e-2)."
    flags.DEFINE_integer("random", None, text, **own)
    flags.DEFINE_integer("seed", 0, "Seed of the draw.", lower_bound=0, **own)
    flags.DEFINE_string("workdir", None, "Folder of the run directories.", **own)
    text = "Train a run on each device at a time, instead of each run on all devices."
    flags.DEFINE_bool("per_device", False, text, **own)
    flags.DEFINE_bool("dry_run", False, "Check the runs and print their names alone.", **own)
    for flag in ("config", "workdir"):
        flags.mark_flag_as_required(flag, values)


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    """Trains the runs that the flags describe; raises ValueError if any of them failed."""
    workdir = storage.as_path(values.workdir)
    devices = several() if values.per_device else []
    planned = runs.plan(values.config, combinations(values), workdir, devices=devices[:1])
    if values.dry_run:
        print(*(run.path for run in planned), sep="\n")
        return
    preflight.require(preflight.cheap(workdir, planned[0].config))
    outcomes = runs.train_all(planned, workdir, devices=devices[: len(planned)])
    console = Console()
    console.print(_table(outcomes))
    print(f"table: {workdir / runs.TABLE}\ncompare with: python -m sft_jax.compare {workdir}")
    if failed := [outcome for outcome in outcomes if outcome.state == "failed"]:
        raise ValueError(
            "\n".join(
                [
                    f"{len(failed)} of {len(outcomes)} runs failed; the same command repeats them:",
                    *(f"{outcome.run.path}: {outcome.error}" for outcome in failed),
                ]
            )
        )


def combinations(values: flags.FlagValues) -> list[Combination]:
    """Reads the combinations from the flags.

    Raises:
      ValueError: If there are none, or see `read_grid`, `sample`, `read_list` and `draw`.
    """
    if values.grid is None and values["list"].value is None:
        raise ValueError("a sweep needs --grid, --list or both, such as --grid='model.k=1,4'")
    fields = {} if values.grid is None else read_fields(values.grid)
    if values.random is not None and read_ranges(fields):
        if values["list"].value is not None:
            raise ValueError("--list can't be combined with ranges of numbers in --grid")
        return [*sample(fields, values.random, values.seed)]
    chosen = read_grid(values.grid) if values.grid is not None else []
    if values["list"].value is not None:
        chosen += read_list(storage.as_path(values["list"].value))
    return chosen if values.random is None else draw(chosen, values.random, values.seed)


def _table(outcomes: list[runs.Outcome]) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("best validation", justify="right")
    for outcome in outcomes:
        value = runs.mean(outcome)
        metric = outcome.run.config.train.best_metric
        text = "-" if value is None else f"{metric} {value:.4f}"
        table.add_row(markup.escape(outcome.run.name), outcome.state, text)
    return table


def run() -> None:
    """Runs the command in this process."""
    define_flags(flags.FLAGS)
    command_line.run(main, compilation_cache=True)


if __name__ == "__main__":
    run()
