"""Cost of a step beside that of another commit, on the same core, in turns.

python -m benchmarks.against_commit --other=COMMIT --json=benchmarks/results/against_commit.json

Each side is a process of its own, with the package of its commit. Both live through the run and
take turns, so that other work of the machine falls on both. The settings are those of the shipped
configs, with random examples of full length and one thread; CPU seconds are compared. Both sides
are compiled before anything is measured. Commits from before the rooms moved work too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from benchmarks import harness
from benchmarks.suites import SUITES
from sft_jax.profile.isolated import IsolatedFunction

WORK = ("train", "infer")

_SIDE = pathlib.Path(__file__).with_name("against_commit_side.py")
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
_CORE = 0


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=["vggsound", "mosei"])
    arguments.add_argument("--other", required=True, help="commit to compare with")
    arguments.add_argument("--batch_size", type=int, default=4, help="examples of a step")
    arguments.add_argument("--turns", type=int, default=5, help="turns that each side has")
    arguments.add_argument("--steps", type=int, default=3, help="steps of a turn")
    return arguments


def compare(other: pathlib.Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compares the seconds of a step, turn by turn.

    Args:
      other: Folder with the files of the other commit.
      name: Name of a config.
      options: Parsed arguments.
    """
    request = {
        "config": name,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "core": _CORE,
    }
    result: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        sides = {
            side: stack.enter_context(
                IsolatedFunction(f"{_SIDE}:Side", environment=_ENVIRONMENT, root=root)
            )
            for side, root in {"this": harness.ROOT, "other": other}.items()
        }
        for work in WORK:
            turns = harness.in_turns(sides, {**request, "work": work}, options.turns)
            result[work] = _summary(turns)
    return result


def _summary(turns: list[Mapping[str, float]]) -> dict[str, Any]:
    medians = {side: statistics.median(turn[side] for turn in turns) for side in turns[0]}
    return {
        "median_seconds": medians,
        "other_over_this": harness.spread([turn["other"] / turn["this"] for turn in turns]),
        "turns": turns,
    }


def extract(commit: str, folder: pathlib.Path) -> None:
    """Writes the files of a commit to a folder."""
    archive = subprocess.run(
        ["git", "archive", commit], cwd=harness.ROOT, check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def main() -> None:
    """Measures each config and writes the result after each."""
    options = parser().parse_args()
    result = {
        **harness.environment(SUITES["against_commit"].scope),
        "other": options.other,
        "batch_size": options.batch_size,
    }
    with tempfile.TemporaryDirectory() as folder:
        extract(options.other, pathlib.Path(folder))
        for name in options.only or ["vggsound", "mosei"]:
            result[name] = compare(pathlib.Path(folder), name, options)
            print(name, json.dumps(result[name]), flush=True)
            harness.write(options.json, result)


if __name__ == "__main__":
    main()
