"""Arguments, environment and files of results, shared by all benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from benchmarks import freshness
from sft_jax import version
from sft_jax.runs import storage

ROOT, RESULTS = freshness.ROOT, freshness.RESULTS


def parser(
    description: str | None, *, seeds: Sequence[int] = (), only: Collection[str] = ()
) -> argparse.ArgumentParser:
    """Makes a parser with the arguments that benchmarks share.

    Args:
      description: Docstring of the benchmark, shown by `--help`.
      seeds: Default of `--seeds`, a comma-separated list; without seeds there is no such argument.
      only: Names that `--only` may choose from, repeatedly; without names there is no such
        argument. Its default is all of them.
    """
    arguments = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--json", type=pathlib.Path, required=True, help="file for the result")
    if seeds:
        text = ",".join(map(str, seeds))
        arguments.add_argument(
            "--seeds", type=numbers, default=list(seeds), help=f"comma-separated; default {text}"
        )
    if only:
        arguments.add_argument(
            "--only",
            action="append",
            choices=list(only),
            metavar="NAME",
            help=f"one of {', '.join(only)}; may be repeated; default all",
        )
    return arguments


def numbers(text: str) -> list[int]:
    """Reads a comma-separated list of whole numbers."""
    return [int(number) for number in text.split(",")]


def names(text: str) -> list[str]:
    """Reads a comma-separated list of names."""
    return text.split(",")


def environment(scope: str) -> dict[str, Any]:
    """Command, machine, code and versions of a run; see `sft_jax.version.environment`.

    Args:
      scope: Code that can change the figures (`benchmarks.freshness.PARTS`).
    """
    return {
        "command": command(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        **version.environment(),
        "code": freshness.identity(scope),
    }


def elsewhere(result: Mapping[str, Any]) -> dict[str, Any]:
    """Machine and versions of this process, as far as they differ from those of a result's start.

    A file that is continued on another machine names it in each row that was measured there.

    Args:
      result: Result with the values of `environment`.
    """
    own = environment(result["code"]["scope"])
    return {key: own[key] for key in ("machine", "versions") if own[key] != result[key]}


def command() -> str:
    """The command of this process, from the root of the repository on."""
    path = pathlib.Path(sys.argv[0]).absolute()
    if path.is_relative_to(ROOT):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        return shlex.join(["python", "-m", module, *sys.argv[1:]])
    return shlex.join([path.name, *sys.argv[1:]])


def summary(accuracies: Sequence[float], n_examples: Sequence[int]) -> dict[str, Any]:
    """Mean and sample deviation of accuracies.

    Args:
      accuracies: Accuracy of each run.
      n_examples: Number of examples that each accuracy was measured on.
    """
    return {
        "accuracy_mean": statistics.fmean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "accuracies": list(accuracies),
        "n_examples": list(n_examples),
    }


def in_turns(
    sides: Mapping[str, Callable[[Any], float]], request: Any, turns: int
) -> list[dict[str, float]]:
    """Measures several sides in turns, so that other work of the machine falls on all.

    Args:
      sides: Function of each side from the request to its seconds, by name.
      request: Argument of all functions.
      turns: Number of turns of each, after one in which programs are compiled.

    Returns:
      Seconds of each side by name, turn by turn.
    """
    taken = [{name: side(request) for name, side in sides.items()} for _ in range(turns + 1)]
    return taken[1:]


def process_status(process: int) -> dict[str, str]:
    """Fields of the status of a process, such as `RssAnon` in KiB (proc_pid_status(5)).

    Args:
      process: Number of the process.

    Raises:
      OSError: If it has ended.
    """
    lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    fields = (line.split() for line in lines)
    return {words[0].rstrip(":"): words[1] for words in fields if len(words) > 1}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and range of values."""
    return {"median": statistics.median(values), "range": [min(values), max(values)]}


def read_or_begin(
    path: pathlib.Path, scope: str, begun: Mapping[str, Any], rows: str
) -> dict[str, Any]:
    """Reads the result of an earlier start, or begins a new one.

    Args:
      path: File of the result.
      scope: Code that can change the figures (`benchmarks.freshness.PARTS`).
      begun: Fields by which a result is continued only if it has the same.
      rows: Field of the rows, which a new result has none of.

    Raises:
      ValueError: If a field of `begun` is another in the file.
    """
    if not path.exists():
        return {**environment(scope), **begun, rows: {}}
    result: dict[str, Any] = json.loads(path.read_text())
    if wrong := [key for key, value in begun.items() if result.get(key) != value]:
        raise ValueError(
            f"{path} has {wrong[0]}={result.get(wrong[0])}, not {begun[wrong[0]]}: remove it to"
            " begin anew"
        )
    return result


def write(path: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes a result as JSON; the file is either whole or as it was.

    Raises:
      ValueError: If the result does not name the code that made it.
    """
    if "digest" not in result.get("code", {}):
        raise ValueError(f"{path}: a result needs `code`, as `environment` has it")
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_whole(path, json.dumps(result, indent=2) + "\n")
