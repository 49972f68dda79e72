"""How long it takes to the first training step: cold, with every fused block compiled, and warm.

python benchmarks/compilation.py --json=benchmarks/results/compilation.json

Each start is a process of its own, at the paper's settings without mixup, on random examples:

- `product`: as it is, where equal fused blocks are one loop, with an empty compilation cache;
- `unrolled`: the same with each fused block by itself, with an empty cache;
- `second start`: `product` again, with the cache that its first start filled.

The total is of making the state, tracing and lowering the step, compiling it and the first step; it
has neither imports nor data. They take turns, the two cold ones in turned order from round to
round.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

from benchmarks.summaries import environment, write  # noqa: E402
from sft_jax import command_line, config_io  # noqa: E402
from sft_jax.data.outline import outline  # noqa: E402
from sft_jax.modules import sft  # noqa: E402
from sft_jax.parallel import sharding  # noqa: E402
from sft_jax.structs import Batch  # noqa: E402
from sft_jax.training import assembly  # noqa: E402

PARTS = ("state", "lowering", "compiling", "first_step", "total")

_JSON = flags.DEFINE_string("json", None, "Where the result goes.")
_DATASET = flags.DEFINE_enum("dataset", "vggsound", ["vggsound", "mosei"], "Whose settings.")
_ARGUMENT = flags.DEFINE_string("argument", "mixup=none", "Of the config's get_config.")
_ROUNDS = flags.DEFINE_integer("rounds", 2, "How often each is started.", lower_bound=1)
_HERE = flags.DEFINE_enum("here", None, ["product", "unrolled"], "Start this here, print JSON.")

_NEVER = 10**6


def start(dataset: str, argument: str) -> dict[str, dict[str, float]]:
    """Goes to the end of the first training step in this process; seconds of each part."""
    module = importlib.import_module(f"configs.{dataset}")
    config = config_io.from_mapping(module.get_config(argument))
    data = outline(config.data)
    size = config.train.batch_size
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    random = np.random.default_rng(0)
    specs = data.modalities.items()
    batch = sharding.put_batch(
        Batch(
            {name: random.standard_normal((size, *of.shape), np.float32) for name, of in specs},
            {name: np.ones((size, *of.lengths), bool) for name, of in specs},
            np.arange(size) % data.num_outputs,
            np.ones(size, np.float32),
        ),
        mesh,
    )
    jax.block_until_ready(batch)
    clock = _Clock()
    made = assembly.assemble_model(
        config, data.modalities, data.num_outputs, num_examples=1000 * size, mesh=mesh
    )
    seed = np.int32(config.seed)
    state = clock.took("state", lambda: jax.block_until_ready(made.new_state(config.seed)))
    lowered = clock.took("lowering", lambda: made.step.lower(state, batch, seed))
    compiled = clock.took("compiling", lowered.compile)
    clock.took("first_step", lambda: jax.block_until_ready(compiled(state, batch, seed)))
    return clock.seconds


class _Clock:
    """Seconds of each part and of all, on the clock and of all threads of this process."""

    def __init__(self) -> None:
        self.seconds = {"wall": dict.fromkeys(PARTS, 0.0), "cpu": dict.fromkeys(PARTS, 0.0)}

    def took(self, part: str, work: Callable[[], Any]) -> Any:
        """Does a part of the work."""
        clocks = {"wall": time.perf_counter, "cpu": time.process_time}
        begin = {name: now() for name, now in clocks.items()}
        result = work()
        for name, now in clocks.items():
            seconds = now() - begin[name]
            self.seconds[name][part] += seconds
            self.seconds[name]["total"] += seconds
        return result


def _in_own_process(what: str, cache: pathlib.Path) -> dict[str, Any]:
    print(f"starting {what}, {_kept(cache)} programs in the cache", file=sys.stderr, flush=True)
    own = [f"--here={what}", f"--dataset={_DATASET.value}", f"--argument={_ARGUMENT.value}"]
    threshold = str(command_line.CACHED_FROM_SECONDS)
    done = subprocess.run(
        [sys.executable, __file__, *own],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": threshold,
        },
    )
    return json.loads(done.stdout.splitlines()[-1])


def _kept(cache: pathlib.Path) -> int:
    return len(list(cache.glob("*-cache")))


def _round(number: int) -> dict[str, Any]:
    """Starts everything once."""
    with tempfile.TemporaryDirectory() as name:
        caches = {what: pathlib.Path(name) / what for what in ("product", "unrolled")}
        cold = list(caches)[:: 1 if number % 2 == 0 else -1]
        took = {what: _in_own_process(what, caches[what]) for what in cold}
        kept = _kept(caches["product"])
        took["second start"] = _in_own_process("product", caches["product"])
        if not kept or _kept(caches["product"]) != kept:
            raise ValueError("the second start found the cache empty, or compiled once more")
    return took


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, and of the ratios of totals within each."""
    ratios = {
        "unrolled / product": ("unrolled", "product"),
        "product / second start": ("product", "second start"),
    }
    return {
        "seconds": {
            what: {
                clock: {
                    part: statistics.median(took[what][clock][part] for took in rounds)
                    for part in PARTS
                }
                for clock in ("wall", "cpu")
            }
            for what in ("product", "unrolled", "second start")
        },
        "ratios": {
            name: {
                clock: [
                    took[above][clock]["total"] / took[below][clock]["total"] for took in rounds
                ]
                for clock in ("wall", "cpu")
            }
            for name, (above, below) in ratios.items()
        },
    }


def _table(summary: dict[str, Any]) -> list[str]:
    lines = ["| start | seconds of | " + " | ".join(PARTS) + " |", "|" + " --- |" * 7]
    for what, clocks in summary["seconds"].items():
        for clock, parts in clocks.items():
            cells = [what, clock, *(f"{seconds:.2f}" for seconds in parts.values())]
            lines.append("| " + " | ".join(cells) + " |")
    for name, clocks in summary["ratios"].items():
        each = "; ".join(
            f"{clock} " + ", ".join(f"{ratio:.2f}" for ratio in ratios)
            for clock, ratios in clocks.items()
        )
        lines.append(f"\n{name}, total: {each}")
    return lines


def main(_: list[str]) -> None:
    """Measures, writes the result and prints Markdown."""
    if _HERE.value:
        if _HERE.value == "unrolled":
            sft._MIN_BLOCKS_TO_SCAN = _NEVER
        print(json.dumps(start(_DATASET.value, _ARGUMENT.value)))
        return
    if not _JSON.value:
        raise app.UsageError("--json must have a value")
    rounds: list[dict[str, Any]] = []
    for number in range(_ROUNDS.value):
        rounds.append(_round(number))
        result = {
            **environment(),
            "config": f"configs/{_DATASET.value}.py:{_ARGUMENT.value}",
            "cached_from_seconds": command_line.CACHED_FROM_SECONDS,
            **_summary(rounds),
            "rounds": rounds,
        }
        write(pathlib.Path(_JSON.value), result)
    print(*_table(_summary(rounds)), sep="\n")


if __name__ == "__main__":
    app.run(main)
