"""Cost of a training step for several budgets, beside a step for one number of kept tokens.

python -m benchmarks.elastic_step --json=benchmarks/results/elastic_step.json

The experiments are those of the suites of elastic budgets, with random examples of full length.
Each step is in a process of its own, on one core. All processes live through the run and take
turns, so that other work of the machine falls on all. CPU seconds are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.accuracy_suites import SUITES, Suite
from sft_jax import config_io
from sft_jax.profile.isolated import IsolatedFunction

TIMED = ("watch_elastic", "watch_long_elastic", "av_mnist_elastic")

_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=TIMED)
    arguments.add_argument("--turns", type=int, default=5, help="turns of each")
    arguments.add_argument("--steps", type=int, default=3, help="steps of a turn")
    return arguments


class Side:
    """Training step of one experiment, compiled at the first call."""

    def __init__(self) -> None:
        self._step: Callable[[], None] | None = None

    def __call__(self, request: Mapping[str, Any]) -> float:
        """Times steps; CPU seconds of one.

        Args:
          request: `config`, an experiment; number of `steps` to take.
        """
        if self._step is None:
            # Before JAX counts the cores that it may use.
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
            self._step = _compile(request["config"])
        begin = time.process_time()
        for _ in range(request["steps"]):
            self._step()
        return (time.process_time() - begin) / request["steps"]


def _compile(values: Mapping[str, Any]) -> Callable[[], None]:
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
    compiled = assembled.step.lower(state, batch, seed).compile()

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch, seed)
        jax.block_until_ready(metrics.loss)

    return step


def compare(suite: Suite, turns: int, steps: int) -> dict[str, Any]:
    """Compares a step of the elastic model with steps for the largest budget, and for k = 4.

    Args:
      suite: Suite of elastic budgets.
      turns: Number of turns of each.
      steps: Number of steps of a turn.
    """
    names = ("elastic", f"k={max(suite.budgets['elastic'])}", "k=4")
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in names:
            config = config_io.to_json(suite.rows[name][0].experiment())
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
            name: harness.spread([turn["elastic"] / turn[name] for turn in taken])
            for name in names[1:]
        },
        "turns": taken,
    }


def main() -> None:
    """Compares the steps of each suite, and writes the result after each."""
    options = parser().parse_args()
    result = harness.environment()
    for name in options.only or TIMED:
        result[name] = compare(SUITES[name], options.turns, options.steps)
        print(name, json.dumps(result[name]["elastic_over"]), flush=True)
        harness.write(options.json, result)


if __name__ == "__main__":
    main()
