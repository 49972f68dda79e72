"""How memory and time of training one self-attention grow with the length of the sequence.

python benchmarks/growth.py --json=benchmarks/results/growth.json --picture=growth.png

Forward and backward of `SelfAttention` of the paper's width, each kind and length in a process of
its own, on one core. A slope is that of a least-squares line on logarithmic axes: 1 is linear
growth, 2 quadratic. What does not depend on the length can only lower a slope, so that it is
also taken over the longer sequences alone.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmarks.summaries import environment, write  # noqa: E402
from sft_jax.modules.attention import SelfAttention  # noqa: E402
from sft_jax.ops.attention.windowed import WindowPattern  # noqa: E402
from sft_jax.profile import process_memory  # noqa: E402
from sft_jax.structs import Tokens  # noqa: E402

KINDS: Mapping[str, Mapping[str, Any]] = {
    "exact": {"kernel": "blocked"},
    "sparse": {"pattern": WindowPattern()},
    "plain": {"kernel": "plain"},
}
"""What is set of `SelfAttention`."""

MEASURES = ("temporary_bytes", "growth_bytes", "cpu_seconds", "wall_seconds")

_JSON = flags.DEFINE_string("json", None, "Where the result goes.")
_PICTURE = flags.DEFINE_string("picture", "", "File to draw the growth to.")
_KINDS = flags.DEFINE_list("kinds", list(KINDS), "Which.")
_LENGTHS = flags.DEFINE_list(
    "lengths", [str(2**i) for i in range(8, 15)], "Tokens, CLS among them."
)
_PLAIN_UP_TO = flags.DEFINE_integer("plain_up_to", 4096, "The longest for `plain`.")
_SLOPES_FROM = flags.DEFINE_list("slopes_from", ["0", "1024"], "Slopes are over lengths from here.")
_SECONDS = flags.DEFINE_float("seconds", 3, "How long each is timed at the least.")
_ONE = flags.DEFINE_string("one", "", "Measure this one here, as KIND:LENGTH, and print JSON.")

_WIDTH, _HEADS = 40, 5
_FEW = 8  # Tokens that the parameters are made with.
_LEAST_CALLS, _MOST_CALLS = 5, 200


def measure(kind: str, length: int, seconds: float) -> dict[str, Any]:
    """Compiles a training step of one layer, and measures it in this process, on one core."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    layer = SelfAttention(_HEADS, **KINDS[kind])
    shape = (2, 1, length, _WIDTH)
    values, cotangent = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    tokens = Tokens(values, jnp.ones((1, length), bool))
    few = Tokens(values[:, :_FEW], tokens.mask[:, :_FEW])
    params = layer.init(jax.random.key(0), few)

    def loss(params: Any, values: jax.Array, mask: jax.Array, cotangent: jax.Array) -> jax.Array:
        return (layer.apply(params, Tokens(values, mask))[0] * cotangent).sum()

    arguments = (params, values, tokens.mask, cotangent)
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    jax.block_until_ready(arguments)
    growth = _growth(lambda: compiled(*arguments))
    return {
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "growth_bytes": growth,
        **_times(lambda: compiled(*arguments), seconds),
    }


def _growth(call: Callable[[], Any]) -> int | None:
    """By how much the resident set grows at the most in the first call; None if not known."""
    process_memory.settle()
    before = process_memory.resident_bytes()
    if before is None or not process_memory.reset_peak():
        return None
    jax.block_until_ready(call())
    peak = process_memory.peak_bytes()
    return None if peak is None else max(peak - before, 0)


def _times(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Medians over calls."""
    wall: list[float] = []
    cpu: list[float] = []
    while len(wall) < _LEAST_CALLS or (sum(wall) < seconds and len(wall) < _MOST_CALLS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        cpu.append(time.process_time() - begin_cpu)
        wall.append(time.perf_counter() - begin)
    return {
        "calls": len(wall),
        "wall_seconds": statistics.median(wall),
        "cpu_seconds": statistics.median(cpu),
    }


def _in_own_process(kind: str, length: int) -> dict[str, Any]:
    command = [sys.executable, __file__, f"--one={kind}:{length}", f"--seconds={_SECONDS.value}"]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def slopes(rows: Mapping[str, Mapping[str, Any]], start: int) -> dict[str, float | None]:
    """Of each measure over the lengths from `start` on; None for fewer than two points above 0."""
    found: dict[str, float | None] = {}
    for name in MEASURES:
        points = [(int(n), row[name]) for n, row in rows.items() if int(n) >= start and row[name]]
        found[name] = None
        if len(points) > 1:
            found[name] = float(np.polyfit(*np.log(np.array(points, float)).T, 1)[0])
    return found


def _table(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown: what was measured, and the slopes."""
    lines = ["| kind | length | XLA plans, MiB | process grows, MiB | CPU ms | ms |"]
    lines.append("|" + " --- |" * 6)
    for kind, of in kinds.items():
        for length, row in of["lengths"].items():
            memory = [_shown(row[name], 2**20) for name in MEASURES[:2]]
            times = [_shown(row[name], 1e-3) for name in MEASURES[2:]]
            lines.append("| " + " | ".join([kind, length, *memory, *times]) + " |")
    lines += ["", "| slopes of | lengths | XLA plans | process grows | CPU time | time |"]
    lines.append("|" + " --- |" * 6)
    for kind, of in kinds.items():
        for row in of["slopes"]:
            cells = [_shown(row[name], 1) for name in MEASURES]
            span = "{} to {}".format(*row["lengths"])
            lines.append("| " + " | ".join([kind, span, *cells]) + " |")
    return lines


def _shown(value: float | None, unit: float) -> str:
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
        for kind, of in kinds.items():
            slope = of["slopes"][-1][name]
            lengths = [int(length) for length in of["lengths"]]
            # What is not known, or below a page, is left out of the line.
            values = [(row[name] or np.nan) / unit for row in of["lengths"].values()]
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
    found = []
    for start in starts:
        lengths = [int(length) for length in rows if int(length) >= start]
        if lengths:
            found.append({"lengths": [lengths[0], lengths[-1]], **slopes(rows, start)})
    return found


def main(_: list[str]) -> None:
    """Measures each, writes the result and prints Markdown tables."""
    if _ONE.value:
        kind, length = _ONE.value.split(":")
        print(json.dumps(measure(kind, int(length), _SECONDS.value)))
        return
    if not _JSON.value:
        raise app.UsageError("--json must have a value")
    kinds: dict[str, Any] = {}
    result = {
        **environment(),
        "of": f"one self-attention of width {_WIDTH} with {_HEADS} heads, batch 1, float32,"
        " forward and backward, on one core; medians over calls",
        "temporary_bytes": "what XLA plans for intermediate results",
        "growth_bytes": "growth of the resident set over the idle process in the first call",
        "kinds": kinds,
    }
    starts = sorted(int(start) for start in _SLOPES_FROM.value)
    for kind in _KINDS.value:
        rows: dict[str, Any] = {}
        for length in sorted(int(length) for length in _LENGTHS.value):
            if kind != "plain" or length <= _PLAIN_UP_TO.value:
                print(f"measuring {kind} at {length}", file=sys.stderr, flush=True)
                rows[str(length)] = _in_own_process(kind, length)
        kinds[kind] = {"lengths": rows, "slopes": _slope_rows(rows, starts)}
        write(pathlib.Path(_JSON.value), result)
    print(*_table(kinds), sep="\n")
    if _PICTURE.value:
        draw(pathlib.Path(_PICTURE.value), kinds)


if __name__ == "__main__":
    app.run(main)
