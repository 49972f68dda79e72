"""Cost of classifying one window on one thread, by every runtime, side by side.

python -m benchmarks.edge --json=benchmarks/results/edge.json

Each runtime is a process of its own, and all stay on the same core of the CPU (Linux). They take
turns, so that other work of the machine falls on all. Raw values go in and probabilities come out.

The run is configs/watch.py with seed 0, trained beforehand, or `--workdir=FOLDER`. LiteRT is
installed in an environment of its own, or `--litert_python=FILE` names a Python that has it. A
runtime whose tools are missing is skipped, and the result says why: gcc for C; clang, lld and Node
for WebAssembly; the extra [onnx].
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import sft_jax
from benchmarks import harness
from benchmarks.edge import runtimes
from benchmarks.edge.runtimes import RUNTIMES, Job, Prepared
from benchmarks.edge.sides import Windows
from benchmarks.suites import SUITES
from configs import watch
from sft_jax import config_io, experiment
from sft_jax.data import pipeline
from sft_jax.data.dataset import Dataset
from sft_jax.export import comparison, opened
from sft_jax.profile.isolated import IsolatedFunction

FIRST = next(iter(RUNTIMES))

Side = Callable[[Mapping[str, Any]], Any]
"""A process of a runtime; see `sides.py`."""


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=RUNTIMES)
    text = "run directory; default: configs/watch.py is trained"
    arguments.add_argument("--workdir", type=pathlib.Path, help=text)
    text = "Python with litert-converter and ai-edge-litert; default: they are installed"
    arguments.add_argument("--litert_python", help=text)
    text = "numbers of tokens kept, comma-separated; that of the run is added"
    arguments.add_argument("--k", type=harness.numbers, default=[0, 4, 20], help=text)
    arguments.add_argument("--rounds", type=int, default=40, help="turns that each runtime has")
    arguments.add_argument("--calls", type=int, default=200, help="calls of a turn")
    return arguments


def write_windows(dataset: Dataset, folder: pathlib.Path) -> np.ndarray:
    """Writes the test split for `sides.Windows` and returns the labels.

    Raises:
      ValueError: If an example is not of full length.
    """
    batch = comparison.stack(dataset, range(dataset.info.num_examples[opened.SPLIT]))
    if short := sorted(name for name, mask in batch.masks.items() if not mask.all()):
        raise ValueError(f"{', '.join(short)} has padding; expected examples of full length alone")
    Windows.write(folder, batch.raw, len(dataset.info.class_names))
    return pipeline.stack_labels(dataset.source(opened.SPLIT))


@contextlib.contextmanager
def open_sides(
    prepared: Mapping[str, Prepared], windows: pathlib.Path
) -> Iterator[tuple[dict[str, Side], dict[str, str]]]:
    """Starts a process for each runtime, all on one core; yields them with their versions.

    Args:
      prepared: Opened models by runtime.
      windows: Folder of the windows.
    """
    core, allowed = max(os.sched_getaffinity(0)), os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        os.sched_setaffinity(0, {core})  # Processes inherit it.
        stack.callback(os.sched_setaffinity, 0, allowed)
        sides: dict[str, Side] = {}
        versions: dict[str, str] = {}
        for name, (path, _, program) in prepared.items():
            function = f"benchmarks.edge.sides:{RUNTIMES[name].side}"
            given = {} if program is None else {"program": program}
            environment = {"JAX_PLATFORMS": "cpu"}
            side = IsolatedFunction(function, environment=environment, **given)
            sides[name] = stack.enter_context(side)
            versions |= sides[name]({"open": str(path.absolute()), "windows": str(windows)})
        yield sides, versions


def compare(sides: Mapping[str, Side], turns: Sequence[tuple[str, int]], labels: np.ndarray) -> Any:
    """Compares the outputs of all windows with those of the first runtime.

    Args:
      sides: Processes by runtime.
      turns: Pairs of runtime and `k`.
      labels: Class of each window.

    Returns:
      For each turn `largest_difference` of a probability, `same_class`, the number of windows,
      and `accuracy`.
    """
    outputs = {(name, k): np.array(sides[name]({"k": k})) for name, k in turns}
    compared = {}
    for (name, k), own in outputs.items():
        wanted = outputs[FIRST, k]
        compared[name, k] = {
            "largest_difference": float(np.abs(own - wanted).max()),
            "same_class": int((own.argmax(1) == wanted.argmax(1)).sum()),
            "accuracy": float((own.argmax(1) == labels).mean()),
        }
    return compared


def measure(
    sides: Mapping[str, Side], turns: Sequence[tuple[str, int]], rounds: int, calls: int
) -> Any:
    """Times the turns again and again.

    Args:
      sides: Processes by runtime.
      turns: Pairs of runtime and `k`.
      rounds: Number of times that each has its turn.
      calls: Number of calls of a turn.

    Returns:
      For each turn the microseconds of a call, `wall` and `cpu`, and `ratio`: wall-clock time over
      that of the first runtime in the same round. Each is the `median` of the rounds, and `range`.
    """
    seconds: list[dict[tuple[str, int], dict[str, float]]] = []
    for number in range(rounds):
        # No runtime is always the first.
        order = turns[:: 1 if number % 2 else -1]
        seconds.append({(name, k): sides[name]({"k": k, "calls": calls}) for name, k in order})
    return {
        (name, k): {
            "wall": harness.spread([1e6 * row[name, k]["wall"] for row in seconds]),
            "cpu": harness.spread([1e6 * row[name, k]["cpu"] for row in seconds]),
            "ratio": harness.spread(
                [row[name, k]["wall"] / row[FIRST, k]["wall"] for row in seconds]
            ),
        }
        for name, k in turns
    }


def rows(
    prepared: Mapping[str, Prepared],
    sides: Mapping[str, Side],
    labels: np.ndarray,
    k: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Compares and times all runtimes; the rows of the result by name.

    Args:
      prepared: Opened models by runtime.
      sides: Processes by runtime.
      labels: Class of each window.
      k: Number of tokens that the run was trained for.
      options: The options `k`, `rounds` and `calls` of the command line.
    """
    budgets = sorted({*options.k, k})
    turns = [(n, b) for b in budgets for n in prepared if b == k or RUNTIMES[n].any_k]
    compared = compare(sides, turns, labels)
    measured = measure(sides, turns, options.rounds, options.calls)
    return {
        name: {
            "title": RUNTIMES[name].title,
            "bytes": prepared[name].size,
            "k": {str(b): compared[name, b] | measured[name, b] for n, b in turns if n == name},
        }
        for name in prepared
    }


def compilers() -> dict[str, str]:
    """Versions of the compilers that are there, and the CPU that gcc takes this machine for."""
    programs = [name for name in ("gcc", "clang") if shutil.which(name)]
    found = {name: _output(name, "--version").splitlines()[0] for name in programs}
    if "gcc" in found:
        options = _output("gcc", "-march=native", "-Q", "--help=target")
        found["-march=native"] = re.findall(r"^ *-march= *\t*(\S+)", options, re.MULTILINE)[0]
    return found


def _output(*command: str) -> str:
    return subprocess.check_output(command, text=True)


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Lines about a result, for a terminal."""
    for name, row in result["rows"].items():
        for k, figures in row["k"].items():
            time, ratio = (figures[key]["median"] for key in ("wall", "ratio"))
            yield f"{name}, k={k}: {time:.0f} µs, {ratio:.2f} times {FIRST}"
    yield from (f"{name} was skipped: {reason}" for name, reason in result["skipped"].items())


def main() -> None:
    """Prepares and measures the runtimes, writes the result and prints it."""
    options = parser().parse_args()
    names = [name for name in RUNTIMES if name in (FIRST, *(options.only or RUNTIMES))]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        workdir = options.workdir or folder / "run"
        if not options.workdir:
            experiment.train(config_io.from_mapping(watch.get_config()), workdir)
        classifier = sft_jax.load(workdir)
        job = Job(workdir, classifier, folder, options.litert_python)
        labels = write_windows(opened.open_run(workdir).dataset, folder)
        prepared, skipped = runtimes.prepare(job, names)
        with open_sides(prepared, folder) as (sides, versions):
            measured = rows(prepared, sides, labels, classifier.model.k, options)
    result = {
        **harness.environment(SUITES["edge"].scope),
        "runtimes": versions | compilers(),
        "n_examples": len(labels),
        "k": classifier.model.k,
        "rounds": options.rounds,
        "calls": options.calls,
        "rows": measured,
        "skipped": skipped,
    }
    harness.write(options.json, result)
    print(*lines(result), sep="\n")


if __name__ == "__main__":
    main()
