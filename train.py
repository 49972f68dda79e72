"""Trains the model of a config and saves everything about the run in a directory.

python train.py --config=configs/watch.py:pool=max,k=1 --config.optim.lr=3e-4 --workdir=runs/watch

The same command again goes on where the run was stopped.
"""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags

from sft_jax import command_line, config_io, experiment
from sft_jax.training import checks, storage

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as FILE or FILE:ARG.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory, also gs://...; made if it is not there.", required=True
)
flags.mark_flag_as_required("config")


def main() -> None:
    """Runs the experiment that the flags describe."""
    config = config_io.from_mapping(_CONFIG.value)
    workdir = storage.as_path(_WORKDIR.value)
    checks.require(checks.cheap(workdir, config))
    result = experiment.train(config, workdir)
    print(
        f"done: {result.state.step} steps; best valid {config.train.best_metric}"
        f" {result.best_value} at step {result.best_step}\nrun directory: {workdir}\n"
        f"evaluate with: python eval.py --workdir={workdir}"
    )


if __name__ == "__main__":
    command_line.run(main, compilation_cache=True, distributed=True)
