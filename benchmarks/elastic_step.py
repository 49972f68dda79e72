"""Cost of a training step of elastic models, beside a step for one budget or one patch size.

python -m benchmarks.elastic_step --json=benchmarks/results/elastic_step.json

The experiments are those of the study (`benchmarks.study.sets`), with random examples of full
length. With several strides a step is the mean over them, as each is taken equally often. Each
experiment is in a process of its own, on one core. All processes live through the run and take
turns, so that other work of the machine falls on all. CPU seconds are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import harness, suites
from benchmarks.study.rows import experiment_of
from benchmarks.study.sets import SETS, StudySet
from sft_jax import config_io
from sft_jax.profile.isolated import IsolatedFunction

TIMED: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "watch, any k": ("watch", "any k", ("k=20", "sft")),
    "watch, any patch": ("watch", "any patch", ("patch=2",)),
    "av_mnist, any k": ("av_mnist", "any k", ("k=16", "sft")),
    "hapt, any k": ("hapt", "any k", ("k=16", "sft")),
}
"""Set of the study, its elastic row, and the rows that it is compared with, by title."""

_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=TIMED)
    arguments.add_argument("--turns", type=int, default=5, help="turns of each")
    arguments.add_argument("--steps", type=int, default=3, help="steps of a turn")
    return arguments


class Side:
    """Training steps of one experiment, one for each stride, compiled at the first call."""

    def __init__(self) -> None:
        self._take_all: Callable[[], None] | None = None
        self._strides = 0

    def __call__(self, request: Mapping[str, Any]) -> float:
        """Times steps; CPU seconds of one.

        Args:
          request: `config`, an experiment; number of `steps` to take with each stride.
        """
        if self._take_all is None:
            # Before JAX counts the cores that it may use.
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
            self._take_all, self._strides = _compile(request["config"])
        begin = time.process_time()
        for _ in range(request["steps"]):
            self._take_all()
        return (time.process_time() - begin) / (request["steps"] * self._strides)


def _compile(values: Mapping[str, Any]) -> tuple[Callable[[], None], int]:
    """Function that takes one step with each stride, and the number of strides."""
    import jax

    from sft_jax.data.outline import outline
    from sft_jax.parallel import sharding
    from sft_jax.profile.measure import random_batch
    from sft_jax.training import assembly

    config = config_io.from_mapping(values)
    data, mesh = outline(config.data), sharding.make_mesh(devices=jax.devices()[:1])
    size = config.train.batch_size
    assembled = assembly.assemble_model(
        config, data.modalities, data.num_outputs, num_examples=1000 * size, mesh=mesh
    )
    batch, seed = random_batch(data, size, mesh), np.int32(0)
    state = assembled.new_state(0)
    steps = [step.lower(state, batch, seed).compile() for step in assembled.steps.values()]

    def take_all() -> None:
        nonlocal state
        for step in steps:
            state, metrics = step(state, batch, seed)
            jax.block_until_ready(metrics.loss)

    return take_all, len(steps)


def compare(
    one: StudySet, elastic: str, others: Sequence[str], turns: int, steps: int
) -> dict[str, Any]:
    """Compares a step of an elastic model with steps of other rows of its set.

    Args:
      one: Set of the study.
      elastic: Name of the elastic row.
      others: Names of the other rows.
      turns: Number of turns of each.
      steps: Number of steps of a turn.
    """
    names = (elastic, *others)
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in names:
            config = config_io.to_json(experiment_of(one.base, one.rows[name], ""))
            call = stack.enter_context(
                IsolatedFunction("benchmarks.elastic_step:Side", environment=_ENVIRONMENT)
            )
            sides[name] = lambda request, call=call, config=config: call(
                {"config": config, **request}
            )
        taken = harness.in_turns(sides, {"steps": steps}, turns)
    return {
        "cpu_seconds": {name: statistics.median(turn[name] for turn in taken) for name in names},
        "elastic_over": {
            name: harness.spread([turn[elastic] / turn[name] for turn in taken]) for name in others
        },
        "turns": taken,
    }


def main() -> None:
    """Compares the steps of each title, and writes the result after each."""
    options = parser().parse_args()
    result = harness.environment(suites.SUITES["elastic_step"].scope)
    for name in options.only or TIMED:
        key, elastic, others = TIMED[name]
        result[name] = compare(SETS[key], elastic, others, options.turns, options.steps)
        print(name, json.dumps(result[name]["elastic_over"]), flush=True)
        harness.write(options.json, result)


if __name__ == "__main__":
    main()
