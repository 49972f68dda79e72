"""Seconds from the start of a process to its first prediction, with and without a compiled program.

python -m benchmarks.first_prediction --json=benchmarks/results/first_prediction.json

Each start is `import sft_jax; sft_jax.load(W).predict(x)` in a process of its own, on all cores.
`cold` has an empty cache of compiled programs, and `warm` the cache that a cold start filled. The
two take turns. The files of Python and of the run have been read before.

The run is configs/watch.py with seed 0, trained for one epoch beforehand, or `--workdir=FOLDER`.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import harness
from benchmarks.suites import SUITES
from configs import watch
from sft_jax import command_line, config_io, experiment
from sft_jax.profile.isolated import IsolatedFunction

KINDS = ("cold", "warm")


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    text = "run directory; default: configs/watch.py is trained for one epoch"
    arguments.add_argument("--workdir", type=pathlib.Path, help=text)
    arguments.add_argument("--starts", type=int, default=10, help="starts of each kind")
    return arguments


def start(workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
    """Starts a process and waits for its prediction.

    Args:
      workdir: Run directory.
      cache: Folder of compiled programs.

    Returns:
      `total` seconds, from here, and the parts that the process has measured.
    """
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(command_line.CACHED_FROM_SECONDS),
    }
    begin = time.perf_counter()
    function = "benchmarks.first_prediction_side:predict"
    with IsolatedFunction(function, environment=environment) as predict:
        parts = predict(str(workdir.absolute()))
        return {"total": time.perf_counter() - begin, **parts}


def measure(workdir: pathlib.Path, starts: int) -> dict[str, list[dict[str, float]]]:
    """Starts processes in turn; the seconds of each by kind.

    Args:
      workdir: Run directory.
      starts: Number of starts of each kind.

    Raises:
      ValueError: If a warm start compiled a program again, or nothing was cached.
    """
    seconds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as name:
        warm = pathlib.Path(name) / "warm"
        start(workdir, warm)
        programs = _programs(warm)
        for number in range(starts):
            seconds["cold"].append(start(workdir, pathlib.Path(name) / f"cold_{number}"))
            seconds["warm"].append(start(workdir, warm))
        if not programs or _programs(warm) != programs:
            raise ValueError("the cache was empty, or a warm start compiled a program again")
    return seconds


def _programs(cache: pathlib.Path) -> set[str]:
    return {path.name for path in cache.glob("*-cache")}


def summary(seconds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Median and range of each part."""
    return {part: harness.spread([row[part] for row in seconds]) for part in seconds[0]}


def main() -> None:
    """Measures, writes the result and prints it."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = options.workdir or pathlib.Path(folder) / "run"
        if not options.workdir:
            config = watch.get_config()
            config.train.epochs = 1
            experiment.train(config_io.from_mapping(config), workdir)
        seconds = measure(workdir, options.starts)
    kinds = {kind: summary(rows) for kind, rows in seconds.items()}
    harness.write(
        options.json,
        {
            **harness.environment(SUITES["first_prediction"].scope),
            "starts": options.starts,
            "seconds": kinds,
        },
    )
    for kind, parts in kinds.items():
        print(kind, *(f"{name} {part['median']:.2f} s" for name, part in parts.items()), sep=", ")


if __name__ == "__main__":
    main()
