"""Growth of memory and time of training one self-attention with the length of the sequence.

python -m benchmarks.growth --json=benchmarks/results/growth.json --picture=growth.png

Forward and backward of `SelfAttention` of the paper's width, each kind and length in a process of
its own, on one CPU core. A slope is that of a least-squares line on logarithmic axes: 1 is linear
growth, 2 quadratic. Costs that do not depend on the length can only lower a slope, so slopes are
also taken over the longer sequences alone.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.suites import SUITES
from sft_jax.modules.attention import SelfAttention
from sft_jax.ops.attention.windowed import WindowPattern
from sft_jax.profile import process_memory
from sft_jax.profile.isolated import run_isolated
from sft_jax.structs import Tokens

KINDS: Mapping[str, Mapping[str, Any]] = {
    "exact": {"kernel": "tiled"},
    "sparse": {"pattern": WindowPattern()},
    "plain": {"kernel": "plain"},
}
"""Fields of `SelfAttention` by kind."""

MEASURES = ("temporary_bytes", "growth_bytes", "cpu_seconds", "wall_seconds")

_WIDTH, _HEADS = 40, 5
_FEW = 8  # Tokens that the parameters are made with.
_MIN_CALLS, _MAX_CALLS = 5, 200


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=KINDS)
    arguments.add_argument("--picture", type=pathlib.Path, help="file to draw the growth to")
    lengths = [2**i for i in range(8, 15)]
    arguments.add_argument(
        "--lengths",
        type=harness.numbers,
        default=lengths,
        help=f"tokens, CLS included; default {lengths}",
    )
    arguments.add_argument(
        "--plain_up_to", type=int, default=4096, help="longest sequence for `plain`"
    )
    arguments.add_argument(
        "--slopes_from",
        type=harness.numbers,
        default=[0, 1024],
        help="least length of each slope; default 0,1024",
    )
    arguments.add_argument(
        "--seconds", type=float, default=3, help="least time that each is measured for"
    )
    return arguments


def lower(kind: str, length: int) -> tuple[jax.stages.Lowered, tuple[Any, ...]]:
    """Lowers a training step of one layer; also its arguments.

    Args:
      kind: One of `KINDS`.
      length: Number of tokens.
    """
    layer = SelfAttention(_HEADS, **KINDS[kind])
    shape = (2, 1, length, _WIDTH)
    values, cotangent = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    tokens = Tokens(values, jnp.ones((1, length), bool))
    few = Tokens(values[:, :_FEW], tokens.mask[:, :_FEW])
    params = layer.init(jax.random.key(0), few)

    def loss(params: Any, values: jax.Array, mask: jax.Array, cotangent: jax.Array) -> jax.Array:
        return (layer.apply(params, Tokens(values, mask))[0] * cotangent).sum()

    arguments = (params, values, tokens.mask, cotangent)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments), arguments


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compiles a training step of one layer, and measures it in this process, on one core.

    Args:
      request: `kind`, one of `KINDS`; `length` in tokens; `seconds` to repeat the step for.
    """
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    lowered, arguments = lower(request["kind"], request["length"])
    compiled = lowered.compile()
    jax.block_until_ready(arguments)
    with process_memory.growth() as memory:
        jax.block_until_ready(compiled(*arguments))
    return {
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "growth_bytes": memory.peak_bytes,
        **_times(lambda: compiled(*arguments), request["seconds"]),
    }


def _times(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Median seconds of a call."""
    wall: list[float] = []
    cpu: list[float] = []
    while len(wall) < _MIN_CALLS or (sum(wall) < seconds and len(wall) < _MAX_CALLS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        cpu.append(time.process_time() - begin_cpu)
        wall.append(time.perf_counter() - begin)
    return {
        "calls": len(wall),
        "wall_seconds": statistics.median(wall),
        "cpu_seconds": statistics.median(cpu),
    }


def slopes(rows: Mapping[str, Mapping[str, Any]], start: int) -> dict[str, float | None]:
    """Slope of each measure over lengths of at least `start`; None for fewer than two points."""
    result: dict[str, float | None] = {}
    for name in MEASURES:
        points = [(int(n), row[name]) for n, row in rows.items() if int(n) >= start and row[name]]
        result[name] = None
        if len(points) > 1:
            result[name] = float(np.polyfit(*np.log(np.array(points, float)).T, 1)[0])
    return result


def _table(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown tables of the measurements and of the slopes."""
    lines = ["| kind | length | XLA plans, MiB | process grows, MiB | CPU ms | ms |"]
    lines.append("|" + " --- |" * 6)
    for kind, measured in kinds.items():
        for length, row in measured["lengths"].items():
            memory = [_scaled(row[name], 2**20) for name in MEASURES[:2]]
            times = [_scaled(row[name], 1e-3) for name in MEASURES[2:]]
            lines.append("| " + " | ".join([kind, length, *memory, *times]) + " |")
    lines += ["", "| slopes of | lengths | XLA plans | process grows | CPU time | time |"]
    lines.append("|" + " --- |" * 6)
    for kind, measured in kinds.items():
        for row in measured["slopes"]:
            cells = [_scaled(row[name], 1) for name in MEASURES]
            span = "{} to {}".format(*row["lengths"])
            lines.append("| " + " | ".join([kind, span, *cells]) + " |")
    return lines


def _scaled(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:,.2f}"


def draw(path: pathlib.Path, kinds: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws memory and CPU time against the length, on logarithmic axes."""
    figure = Figure(figsize=(10, 4))
    figure.set_layout_engine("constrained")
    panels = (
        ("growth_bytes", 2**20, "MiB that the process grows by"),
        ("cpu_seconds", 1e-3, "CPU ms, forward and backward"),
    )
    for axes, (name, unit, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for kind, measured in kinds.items():
            slope = measured["slopes"][-1][name]
            lengths = [int(length) for length in measured["lengths"]]
            # Unknown values, and those below a page of memory, are gaps in the line.
            values = [(row[name] or np.nan) / unit for row in measured["lengths"].values()]
            text = kind if slope is None else f"{kind}: slope {slope:.2f}"
            axes.plot(lengths, values, "o-", markersize=4, label=text)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel="tokens (log)", ylabel=f"{label} (log)")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"savefig.dpi": 120}):
        figure.savefig(path)


def _slope_rows(rows: Mapping[str, Any], starts: Sequence[int]) -> list[dict[str, Any]]:
    result = []
    for start in starts:
        lengths = [int(length) for length in rows if int(length) >= start]
        if lengths:
            result.append({"lengths": [lengths[0], lengths[-1]], **slopes(rows, start)})
    return result


def main() -> None:
    """Measures each kind, writes the result and prints Markdown tables."""
    options = parser().parse_args()
    jax.config.update("jax_platforms", "cpu")
    kinds: dict[str, Any] = {}
    result = {
        **harness.environment(SUITES["growth"].scope),
        "layer": f"one self-attention of width {_WIDTH} with {_HEADS} heads, batch 1, float32,"
        " forward and backward, on one core; medians over calls",
        "temporary_bytes": "planned by XLA for intermediate results",
        "growth_bytes": "growth of the resident set over the idle process in the first call",
        "kinds": kinds,
    }
    for kind in options.only or KINDS:
        rows: dict[str, Any] = {}
        for length in sorted(options.lengths):
            if kind == "plain" and length > options.plain_up_to:
                continue
            print(f"measuring {kind} at {length}", file=sys.stderr, flush=True)
            rows[str(length)] = run_isolated(
                "benchmarks.growth:measure",
                {"kind": kind, "length": length, "seconds": options.seconds},
                environment={"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"},
            )
        kinds[kind] = {"lengths": rows, "slopes": _slope_rows(rows, sorted(options.slopes_from))}
        harness.write(options.json, result)
    print(*_table(kinds), sep="\n")
    if options.picture:
        draw(options.picture, kinds)


if __name__ == "__main__":
    main()
