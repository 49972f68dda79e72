"""Measures the library on an accelerator: equality with a CPU, speed, distance from the best.

`benchmarks/accelerator.py` starts it, and says what it needs.

The result is written whenever there is more of it. Sections come in the order of their worth.
Parts that no longer fit in `--seconds` are named as left out. An error is part of the result; the
exit status is 1 then. The docstring of each file of `accelerator_sections/` describes its section.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import freshness, harness
from benchmarks.accelerator_sections import plan
from benchmarks.suites import SUITES
from sft_jax import version

_NO_ACCELERATOR = """JAX found no accelerator here, only a CPU. There is nothing to compare it with
and no device memory, cuDNN or roofline to measure. `--smallest` runs a tiny form on a CPU."""


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument(
        "--seconds", type=float, default=450, help="time limit for the whole; default 450"
    )
    arguments.add_argument(
        "--smallest", action="store_true", help="a tiny form, which runs on a CPU too"
    )
    arguments.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="section, or beginning of the names of rows; may be repeated; default all",
    )
    arguments.add_argument("--commit", help="commit of the code, where git does not know it")
    return arguments


class Results:
    """Results so far, always written to a file."""

    def __init__(self, path: pathlib.Path, commit: str | None) -> None:
        """Begins a file.

        Args:
          path: File of the results.
          commit: Commit of the code, if git does not know it, as in a copy.
        """
        self._path, self._lock = path, threading.Lock()
        code = freshness.identity(SUITES["accelerator_h200_first"].scope)
        environment = {**version.environment(), "code": code}
        if commit:
            code |= {"commit": commit, "commit_is_from": "--commit"}
        self._result: dict[str, Any] = {
            "command": harness.command(),
            **environment,
            "sections": {},
        }
        self.failed: list[str] = []

    def note(self, **fields: Any) -> None:
        """Adds fields beside the sections."""
        with self._lock:
            self._result |= fields
            harness.write(self._path, self._result)

    def add(self, section: str, row: dict[str, Any]) -> None:
        """Adds fields to the row of a section with the same `name`."""
        name = row.pop("name")
        with self._lock:
            self._result["sections"].setdefault(section, {}).setdefault(name, {}).update(row)
            harness.write(self._path, self._result)
        if wrong := sorted(field for field in row if field.endswith("error")):
            self.failed.append(f"{section}, {name}: {row[wrong[0]].strip().splitlines()[-1]}")
        if row.get("equal") is False:
            self.failed.append(f"{section}, {name}: not equal: {json.dumps(row)}")
        print(f"{section}, {name}: {json.dumps(row)[:300]}", flush=True)

    def rows(self, section: str) -> dict[str, Any]:
        """Rows of a section so far."""
        return self._result["sections"].get(section, {})


def run_child(child: plan.Child, results: Results, end: float) -> None:
    """Runs one part in a process of its own; adds its rows as they come, until `end`."""
    left = end - time.monotonic()
    if left < child.least_seconds:
        reason = f"{left:.0f} s were left of --seconds, and it takes {child.least_seconds:.0f} s"
        results.add(child.section, {"name": child.name, "left_out": reason})
        return
    begin, left = time.monotonic(), min(left, child.most_seconds)
    command = [sys.executable, "-m", f"benchmarks.accelerator_sections.{child.module}"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [*command, json.dumps(child.request)],
            cwd=harness.ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(child),
        ) as process,
    ):
        timer = threading.Timer(left, process.kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                results.add(child.section, json.loads(line))
        status = process.wait()
        in_time = timer.is_alive()
        timer.cancel()
        row = {"name": child.name, "process_seconds": time.monotonic() - begin}
        if not in_time:
            row["cut_short"] = f"after {left:.0f} s"
        elif status:
            errors.seek(0)
            row["error"] = f"ended with status {status}\n{errors.read()[-8000:]}"
        results.add(child.section, row)


def _environment(child: plan.Child) -> dict[str, str]:
    path = filter(None, [str(harness.ROOT), os.environ.get("PYTHONPATH")])
    xla_flags = os.environ.get("XLA_FLAGS", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        **child.environment,
        "XLA_FLAGS": f"{xla_flags} {child.environment.get('XLA_FLAGS', '')}".strip(),
    }


def run_all(
    groups: list[list[plan.Lane]], results: Results, *, seconds: float, only: Sequence[str]
) -> None:
    """Runs groups one after the other, the lanes of a group at the same time.

    Args:
      groups: Groups of lanes of processes.
      results: Results that the rows are added to.
      seconds: Time limit for the whole.
      only: Sections, or beginnings of the names of rows; empty for all.
    """
    end = time.monotonic() + seconds

    def run_lane(lane: plan.Lane) -> None:
        for child in lane:
            if not only or _is_chosen(child, only):
                run_child(child, results, end)

    for group in groups:
        with concurrent.futures.ThreadPoolExecutor(len(group)) as pool:
            for lane in [pool.submit(run_lane, lane) for lane in group]:
                lane.result()


def _is_chosen(child: plan.Child, only: Sequence[str]) -> bool:
    return child.section in only or child.name.startswith(tuple(only))


def _judge_resuming(results: Results) -> None:
    for name, row in results.rows("resume").items():
        if "whole_sha256" in row and "resumed_sha256" in row:
            equal = row["whole_sha256"] == row["resumed_sha256"]
            results.add("resume", {"name": name, "equal": equal})


class _Device(NamedTuple):
    kind: str
    platform: str


def _first_device(results: Results) -> _Device | None:
    for row in results.rows("machine").values():
        if "kind" in row:
            return _Device(row["kind"], row["platform"])
    return None


def _check_only(only: Sequence[str], *, smallest: bool) -> None:
    groups = plan.make(pathlib.Path(), smallest=smallest)
    names = [child.name for group in groups for lane in group for child in lane]
    for name in only:
        if name not in plan.SECTIONS and not any(row.startswith(name) for row in names):
            parser().error(f"--only={name}: sections are {plan.SECTIONS}, rows are {names}")


def main() -> None:
    """Runs all sections; exits with 1 if anything failed, with 2 where there is no accelerator."""
    options = parser().parse_args()
    _check_only(options.only, smallest=options.smallest)
    begin, results = time.monotonic(), Results(options.json, options.commit)
    results.note(smallest=options.smallest, seconds_allowed=options.seconds, complete=False)
    run_child(plan.MACHINE, results, begin + options.seconds)
    device = _first_device(results)
    if device is None:
        sys.exit(f"the devices could not be listed: {'; '.join(results.failed)}")
    results.note(device=device.kind)
    if device.platform == "cpu" and not options.smallest:
        results.note(message=_NO_ACCELERATOR)
        print(_NO_ACCELERATOR, file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as folder:
        groups = plan.make(pathlib.Path(folder), smallest=options.smallest)
        run_all(groups, results, seconds=options.seconds, only=options.only)
    _judge_resuming(results)
    seconds = time.monotonic() - begin
    results.note(complete=True, seconds=seconds, failed=results.failed)
    print(f"{seconds:.0f} s; written: {options.json}")
    if results.failed:
        sys.exit("\n".join(["failed:", *results.failed]))


if __name__ == "__main__":
    main()
