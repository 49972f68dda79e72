"""Finds a learning rate: trains a few steps while the rate rises, and draws the loss.

python -m sft_jax.lr_range --config=configs/watch.py --out=lr_range [--lowest=1e-6] [--highest=1]
    [--steps=100]

Writes lr_range.json and lr_range.png. No run directory is made, and no checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

from sft_jax import command_line, config_io, version
from sft_jax.config import ExperimentConfig
from sft_jax.data import pipeline
from sft_jax.data.dataset import Dataset
from sft_jax.data.registry import open_dataset
from sft_jax.evaluation import pictures
from sft_jax.evaluation.rate_plot import draw_rates
from sft_jax.parallel import sharding
from sft_jax.runs import storage
from sft_jax.starting import begin_from, read_source
from sft_jax.training import assembly
from sft_jax.training.rates import RateRange, range_of, rising


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command, except those that `command_line.run` adds."""
    own: dict[str, Any] = {"flag_values": values}
    command_line.define_config(values, "Config, as FILE or FILE:ARG, or the name of a shipped one.")
    flags.DEFINE_string("out", None, "Folder of the results; made unless it exists.", **own)
    flags.DEFINE_float("lowest", 1e-6, "Learning rate of the first step.", **own)
    flags.DEFINE_float("highest", 1.0, "Learning rate of the last step.", **own)
    flags.DEFINE_integer("steps", 100, "Number of steps.", **own)
    for name in ("config", "out"):
        flags.mark_flag_as_required(name, values)


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the range test that the flags describe."""
    config, folder = config_io.from_mapping(values.config), storage.as_path(values.out)
    report, picture = folder / "lr_range.json", folder / "lr_range.png"
    storage.prepare_file(report)
    result = find(config, lowest=values.lowest, highest=values.highest, steps=values.steps)
    about = {"command": sys.argv, **version.environment(), "config": config_io.to_json(config)}
    storage.write_whole(
        report, json.dumps({**about, **dataclasses.asdict(result)}, indent=2) + "\n"
    )
    marked = {}
    if result.steepest is not None and result.smallest is not None:
        marked = {"steepest fall": result.steepest, "smallest loss": result.smallest}
    if result.rates:
        with pictures.reported(picture):
            title = f"{config.model.name} on {config.data.name}, {config.optim.name}"
            draw_rates(picture, result.rates, result.losses, result.smoothed, marked, title)
    print(_summary(result, values.steps))
    print(f"written: {report}, {picture}")


def find(
    config: ExperimentConfig,
    dataset: Dataset | None = None,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
) -> RateRange:
    """Runs a range test from the initial state of a run.

    The schedule of the config has no effect; all its other settings have, `train.init_from` too.

    Args:
      config: Experiment.
      dataset: Dataset with a split `train`; by default the one that the config names.
      lowest: Learning rate of the first step.
      highest: Learning rate of the last step.
      steps: Number of steps, unless the loss diverges before.

    Raises:
      ValueError: If the rates are not in order, or there are too few steps. Also see
        `sft_jax.experiment.train`.
    """
    schedule = rising(lowest, highest, steps)
    data = open_dataset(config.data) if dataset is None else dataset
    data.info.check_task(config.model.task)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    assembled = assembly.assemble_model(
        config,
        data.info.modalities,
        len(data.info.class_names),
        num_examples=data.info.num_examples["train"],
        mesh=mesh,
        schedule=schedule,
    )
    rates = [float(schedule(step)) for step in range(steps)]
    return range_of(rates, _losses(config, data, assembled, mesh))


def _losses(
    config: ExperimentConfig, data: Dataset, assembled: assembly.Assembled, mesh: jax.sharding.Mesh
) -> Iterator[float]:
    """Yields the training loss of one step after the other."""
    path, names = config.train.init_from, data.info.class_names
    if path:
        state, _ = begin_from(read_source(path), path, assembled, config.seed, names)
    else:
        state = assembled.new_state(config.seed)
    batches = pipeline.train_iterator(
        data.source("train"), config.train.batch_size, config.seed, process_index=0, process_count=1
    )
    seed = jax.device_put(np.int32(config.seed), sharding.replicated(mesh))
    step = 0
    while True:
        step += 1
        batch, _ = next(batches)
        take_step = assembled.step_at(config.seed, step)
        state, metrics = take_step(state, sharding.put_batch(batch, mesh), seed)
        yield float(metrics.loss)


def _summary(result: RateRange, steps: int) -> str:
    ended = ""
    if len(result.rates) < steps:
        last = f" at a rate of {result.rates[-1]:.2g}" if result.rates else ""
        ended = f"; ended after {len(result.rates)} of {steps} steps, as the loss diverged{last}"
    if result.steepest is None:
        return f"the loss never fell{ended}: try lower rates, or more steps"
    return (
        f"the loss falls most steeply at a rate of {result.steepest:.2g}, and is smallest at"
        f" {result.smallest:.2g}{ended}\ntry --config.optim.lr={result.steepest:.1g}"
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    command_line.run(main, compilation_cache=True)
