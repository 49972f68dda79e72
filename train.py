"""Trains the model of a config and saves everything about the run in a directory.

python train.py --config=configs/watch.py:pool=max,k=1 --config.optim.lr=3e-4 --workdir=runs/watch

The same command resumes a run that was stopped. --config.seeds=0,1,2 trains one run for each
seed, in WORKDIR/seed_0 and so on.
"""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags

from sft_jax import command_line, config_io, experiment
from sft_jax.parallel import preflight
from sft_jax.runs import storage

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as FILE or FILE:ARG.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory, also gs://...; made unless it exists.", required=True
)
flags.mark_flag_as_required("config")


def main() -> None:
    """Runs the experiment that the flags describe."""
    config = config_io.from_mapping(_CONFIG.value)
    workdir = storage.as_path(_WORKDIR.value)
    preflight.require(preflight.cheap(workdir, config))
    best = f"best valid {config.train.best_metric}"
    if config.seeds:
        for seed, run in experiment.train_seeds(config, workdir).items():
            print(
                f"seed {seed} done: {run.steps} steps; {best} {run.best_value} at step"
                f" {run.best_step}; run directory: {run.workdir}"
            )
    else:
        result = experiment.train(config, workdir)
        print(
            f"done: {result.state.step} steps; {best} {result.best_value} at step"
            f" {result.best_step}\nrun directory: {workdir}"
        )
    print(f"evaluate with: python eval.py --workdir={workdir}")


if __name__ == "__main__":
    command_line.run(main, compilation_cache=True, distributed=True)
