"""Time to the first training step: cold, with every fused block compiled, and warm.

python -m benchmarks.compilation --json=benchmarks/results/compilation.json

Each start is a process of its own, at the paper's settings without mixup, on random examples:

- `product`: the package as it is, where equal fused blocks are one loop, with an empty cache of
  compiled programs;
- `unrolled`: the same with each fused block by itself, with an empty cache;
- `second start`: `product` again, with the cache that its first start filled.

The total covers making the state, tracing and lowering the step, compiling it and the first step,
without imports and data. The two cold starts swap places from round to round.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks import harness
from benchmarks.suites import SUITES
from sft_jax import command_line, config_io
from sft_jax.data.outline import outline
from sft_jax.modules import sft
from sft_jax.parallel import sharding
from sft_jax.profile.isolated import run_isolated
from sft_jax.profile.measure import random_batch
from sft_jax.training import assembly

PARTS = ("state", "lowering", "compiling", "first_step", "total")

_NEVER = 10**6


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--dataset", default="vggsound", choices=["vggsound", "mosei"])
    arguments.add_argument("--argument", default="mixup=none", help="argument of get_config")
    arguments.add_argument("--rounds", type=int, default=2, help="starts of each kind")
    return arguments


def start(request: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Goes to the end of the first training step in this process; seconds of each part.

    Args:
      request: `dataset`, the name of a config file; `argument` of its `get_config`; `unrolled`,
        true to compile each fused block by itself.
    """
    module = importlib.import_module(f"configs.{request['dataset']}")
    config = config_io.from_mapping(module.get_config(request["argument"]))
    data = outline(config.data)
    size = config.train.batch_size
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    batch = jax.block_until_ready(random_batch(data, size, mesh))
    min_blocks = _NEVER if request["unrolled"] else sft._MIN_BLOCKS_TO_SCAN
    clock = _Clock()
    with mock.patch.object(sft, "_MIN_BLOCKS_TO_SCAN", min_blocks):
        assembled = assembly.assemble_model(
            config, data.modalities, data.num_outputs, num_examples=1000 * size, mesh=mesh
        )
        seed = np.int32(config.seed)
        state = clock.time("state", lambda: assembled.new_state(config.seed))
        lowered = clock.time("lowering", lambda: assembled.step.lower(state, batch, seed))
        compiled = clock.time("compiling", lowered.compile)
        clock.time("first_step", lambda: compiled(state, batch, seed))
    return clock.seconds


class _Clock:
    """Seconds of each part and in total: wall-clock time, and CPU time of all threads."""

    def __init__(self) -> None:
        self.seconds = {"wall": dict.fromkeys(PARTS, 0.0), "cpu": dict.fromkeys(PARTS, 0.0)}

    def time(self, part: str, work: Callable[[], Any]) -> Any:
        """Does a part of the work, waits for its arrays and adds its seconds."""
        clocks = {"wall": time.perf_counter, "cpu": time.process_time}
        begin = {name: now() for name, now in clocks.items()}
        result = jax.block_until_ready(work())
        for name, now in clocks.items():
            seconds = now() - begin[name]
            self.seconds[name][part] += seconds
            self.seconds[name]["total"] += seconds
        return result


def _in_own_process(
    kind: str, cache: pathlib.Path, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    print(f"starting {kind}, {_cached(cache)} programs in the cache", file=sys.stderr, flush=True)
    return run_isolated(
        "benchmarks.compilation:start",
        {
            "dataset": options.dataset,
            "argument": options.argument,
            "unrolled": kind == "unrolled",
        },
        environment={
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(command_line.CACHED_FROM_SECONDS),
        },
    )


def _cached(cache: pathlib.Path) -> int:
    return len(list(cache.glob("*-cache")))


def _round(number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Starts each kind once."""
    with tempfile.TemporaryDirectory() as name:
        caches = {kind: pathlib.Path(name) / kind for kind in ("product", "unrolled")}
        cold = list(caches)[:: 1 if number % 2 == 0 else -1]
        seconds = {kind: _in_own_process(kind, caches[kind], options) for kind in cold}
        cached = _cached(caches["product"])
        seconds["second start"] = _in_own_process("product", caches["product"], options)
        if not cached or _cached(caches["product"]) != cached:
            raise ValueError("the second start had an empty cache, or compiled a program again")
    return seconds


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median seconds over rounds, and ratios of the totals within each round."""
    ratios = {
        "unrolled / product": ("unrolled", "product"),
        "product / second start": ("product", "second start"),
    }
    return {
        "seconds": {
            kind: {
                clock: {
                    part: statistics.median(seconds[kind][clock][part] for seconds in rounds)
                    for part in PARTS
                }
                for clock in ("wall", "cpu")
            }
            for kind in ("product", "unrolled", "second start")
        },
        "ratios": {
            name: {
                clock: [
                    seconds[above][clock]["total"] / seconds[below][clock]["total"]
                    for seconds in rounds
                ]
                for clock in ("wall", "cpu")
            }
            for name, (above, below) in ratios.items()
        },
    }


def _table(summary: dict[str, Any]) -> list[str]:
    lines = ["| start | seconds of | " + " | ".join(PARTS) + " |", "|" + " --- |" * 7]
    for kind, clocks in summary["seconds"].items():
        for clock, parts in clocks.items():
            cells = [kind, clock, *(f"{seconds:.2f}" for seconds in parts.values())]
            lines.append("| " + " | ".join(cells) + " |")
    for name, clocks in summary["ratios"].items():
        each = "; ".join(
            f"{clock} " + ", ".join(f"{ratio:.2f}" for ratio in ratios)
            for clock, ratios in clocks.items()
        )
        lines.append(f"\n{name}, total: {each}")
    return lines


def main() -> None:
    """Measures, writes the result and prints Markdown."""
    options = parser().parse_args()
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        rounds.append(_round(number, options))
        result = {
            **harness.environment(SUITES["compilation"].scope),
            "config": f"configs/{options.dataset}.py:{options.argument}",
            "cached_from_seconds": command_line.CACHED_FROM_SECONDS,
            **_summary(rounds),
            "rounds": rounds,
        }
        harness.write(options.json, result)
    print(*_table(_summary(rounds)), sep="\n")


if __name__ == "__main__":
    main()
