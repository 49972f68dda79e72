"""Trains the model of a config and saves everything about the run in a directory.

python train.py --config=configs/watch.py:pool=max,k=1 --config.optim.lr=3e-4 --workdir=runs/watch

The same command again goes on where the run was stopped.
"""

from __future__ import annotations

import pathlib

import jax
from absl import flags
from ml_collections import config_flags

from sft_jax import command_line, config_io
from sft_jax.data import pipeline
from sft_jax.data.datasets import open_dataset
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.modules.factory import build_model
from sft_jax.training import distributed, loop, run_directory

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as FILE or FILE:ARG.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory; made if it is not there.", required=True
)
flags.mark_flag_as_required("config")


def main() -> None:
    """Runs the experiment that the flags describe."""
    config = config_io.from_mapping(_CONFIG.value)
    workdir = pathlib.Path(_WORKDIR.value)
    run_directory.prepare(workdir, config)

    dataset = open_dataset(config.data)
    info = dataset.info
    info.check_task(config.model.task)
    run_directory.write_json(workdir / "dataset.json", info.to_json())
    model = build_model(config.model, info.modalities, len(info.class_names))
    mesh = distributed.make_mesh()
    batches = pipeline.train_iterator(
        dataset.source("train"),
        config.train.batch_size,
        config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    validate = Evaluator(model, dataset.source("valid"), config.train.batch_size, mesh)
    result = loop.fit(
        config,
        model,
        batches,
        validate,
        num_examples=info.num_examples["train"],
        workdir=workdir,
        description={"dataset": info.to_json()},
        mesh=mesh,
    )
    print(
        f"done: {result.state.step} steps; best valid {config.train.best_metric}"
        f" {result.best_value} at step {result.best_step}\nrun directory: {workdir}\n"
        f"evaluate with: python eval.py --workdir={workdir}"
    )


if __name__ == "__main__":
    command_line.run(main)
