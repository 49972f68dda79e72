"""Trains the model of a config and saves everything about the run in a directory.

python train.py --config=configs/watch.py:pool=max,k=1 --config.optim.lr=3e-4 --workdir=runs/watch

The same command resumes a run that was stopped. With --extend a run goes on to more epochs than
it was started with. --config.seeds=0,1,2 trains one run for each seed, in WORKDIR/seed_0 and so on.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from sft_jax import command_line, config_io, experiment
from sft_jax.parallel import preflight
from sft_jax.runs import storage


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command, except those that `command_line.run` adds."""
    own: dict[str, Any] = {"flag_values": values}
    text = "Config, as FILE or FILE:ARG; also the name of a shipped one, such as watch."
    command_line.define_config(values, text)
    text = "Run directory, also gs://...; made unless it exists."
    flags.DEFINE_string("workdir", None, text, **own)
    text = "Let a run that has been trained go on to a larger --config.train.epochs."
    flags.DEFINE_bool("extend", False, text, **own)
    for name in ("config", "workdir"):
        flags.mark_flag_as_required(name, values)


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the experiment that the flags describe."""
    config = config_io.from_mapping(values.config)
    workdir = storage.as_path(values.workdir)
    preflight.require(preflight.cheap(workdir, config))
    best = f"best valid {config.train.best_metric}"
    if config.seeds:
        for seed, run in experiment.train_seeds(config, workdir, extend=values.extend).items():
            print(
                f"seed {seed} done: {run.steps} steps; {best} {run.best_value} at step"
                f" {run.best_step}; run directory: {run.workdir}"
            )
    else:
        result = experiment.train(config, workdir, extend=values.extend)
        print(
            f"done: {result.state.step} steps; {best} {result.best_value} at step"
            f" {result.best_step}\nrun directory: {workdir}"
        )
    print(f"evaluate with: python eval.py --workdir={workdir}")


def run() -> None:
    """Runs the command in this process."""
    define_flags(flags.FLAGS)
    command_line.run(main, compilation_cache=True, distributed=True)
