"""Measures the library on an accelerator: equality with a CPU, speed, distance from the best.

python benchmarks/accelerator.py --json=benchmarks/results/accelerator.json

Needs no network, no data and few packages: `make wheels` packs what a CUDA image with JAX, Flax,
Optax and Orbax lacks, which this takes in then:

python3 -m pip install --no-index --no-deps --target /tmp/site .wheels/*.whl
PYTHONPATH=/tmp/site:. python3 benchmarks/accelerator.py --json=FILE

The result is written whenever there is more of it. Sections come in the order of their worth, and
what no longer fits in `--seconds` is named as left out. An error is part of the result; the exit
status is 1 then. What each section measures stands in its file in `accelerator_sections/`.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.accelerator_sections import plan  # noqa: E402
from benchmarks.summaries import write  # noqa: E402
from sft_jax import version  # noqa: E402

_JSON = flags.DEFINE_string("json", None, "Where the result goes; needed.")
_SECONDS = flags.DEFINE_float("seconds", 450, "After which it stops by itself.", lower_bound=1)
_SMALLEST = flags.DEFINE_bool("smallest", False, "A tiny form, to see that it works, on a CPU too.")
_ONLY = flags.DEFINE_multi_string(
    "only", [], "A section to run, or how names of its rows begin; may be repeated, default all."
)
_COMMIT = flags.DEFINE_string("commit", None, "Of the code, where git knows it wrongly.")

_NO_ACCELERATOR = """JAX found no accelerator here, only a CPU. There is nothing to compare it with
and no device memory, cuDNN or roofline to measure. `--smallest` runs a tiny form on a CPU."""


class Results:
    """Results so far, on disk at any time."""

    def __init__(self, path: pathlib.Path, commit: str | None) -> None:
        """Begins a file.

        Args:
          path: of the file.
          commit: of the code, if git does not know it, as in a copy.
        """
        self._path, self._lock = path, threading.Lock()
        made_by = version.environment()
        if commit:
            made_by["code"] |= {"commit": commit, "commit_is_from": "--commit"}
        self._result: dict[str, Any] = {"command": " ".join(sys.argv), **made_by, "sections": {}}
        self.failed: list[str] = []

    def note(self, **fields: Any) -> None:
        """Adds fields beside the sections."""
        with self._lock:
            self._result |= fields
            write(self._path, self._result)

    def add(self, section: str, row: dict[str, Any]) -> None:
        """Adds fields to a row of a section, which its `name` names."""
        name = row.pop("name")
        with self._lock:
            self._result["sections"].setdefault(section, {}).setdefault(name, {}).update(row)
            write(self._path, self._result)
        if wrong := sorted(field for field in row if field.endswith("error")):
            self.failed.append(f"{section}, {name}: {row[wrong[0]].strip().splitlines()[-1]}")
        if row.get("equal") is False:
            self.failed.append(f"{section}, {name}: not equal: {json.dumps(row)}")
        print(f"{section}, {name}: {json.dumps(row)[:300]}", flush=True)

    def rows(self, section: str) -> dict[str, Any]:
        """The rows of a section so far."""
        return self._result["sections"].get(section, {})


def run_child(child: plan.Child, results: Results, end: float) -> None:
    """Runs one part in a process of its own; takes its rows as they come, until `end`."""
    left = end - time.monotonic()
    if left < child.least_seconds:
        what = f"{left:.0f} s were left of --seconds, and it takes {child.least_seconds:.0f} s"
        results.add(child.section, {"name": child.name, "left_out": what})
        return
    begin, left = time.monotonic(), min(left, child.most_seconds)
    command = [sys.executable, "-m", f"benchmarks.accelerator_sections.{child.module}"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [*command, json.dumps(child.request)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(child),
        ) as process,
    ):
        late = threading.Timer(left, process.kill)
        late.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                results.add(child.section, json.loads(line))
        status = process.wait()
        in_time = late.is_alive()
        late.cancel()
        took = {"name": child.name, "process_seconds": time.monotonic() - begin}
        if not in_time:
            took["cut_short"] = f"after {left:.0f} s"
        elif status:
            errors.seek(0)
            took["error"] = f"ended with status {status}\n{errors.read()[-8000:]}"
        results.add(child.section, took)


def _environment(child: plan.Child) -> dict[str, str]:
    path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    given = os.environ.get("XLA_FLAGS", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        **child.environment,
        "XLA_FLAGS": f"{given} {child.environment.get('XLA_FLAGS', '')}".strip(),
    }


def run_all(groups: list[list[list[plan.Child]]], results: Results) -> None:
    """Runs groups one after the other, the lanes of a group at the same time."""
    end = time.monotonic() + _SECONDS.value

    def run_lane(lane: list[plan.Child]) -> None:
        for child in lane:
            if not _ONLY.value or _is_chosen(child):
                run_child(child, results, end)

    for group in groups:
        with concurrent.futures.ThreadPoolExecutor(len(group)) as pool:
            for lane in [pool.submit(run_lane, lane) for lane in group]:
                lane.result()


def _is_chosen(child: plan.Child) -> bool:
    return any(child.section == only or child.name.startswith(only) for only in _ONLY.value)


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


def main(_: list[str]) -> None:
    """Runs all sections; exits with 1 if anything failed, with 2 where there is no accelerator."""
    if not _JSON.value:
        raise app.UsageError("--json=FILE is needed")
    begin, results = time.monotonic(), Results(pathlib.Path(_JSON.value), _COMMIT.value)
    smallest = _SMALLEST.value
    groups = plan.make(pathlib.Path(), smallest=smallest)
    names = [child.name for group in groups for lane in group for child in lane]
    for only in _ONLY.value:
        if only not in plan.SECTIONS and not any(name.startswith(only) for name in names):
            raise app.UsageError(f"--only={only}: sections are {plan.SECTIONS}, rows are {names}")
    results.note(smallest=smallest, seconds_allowed=_SECONDS.value, complete=False)
    run_child(plan.MACHINE, results, time.monotonic() + _SECONDS.value)
    device = _first_device(results)
    if device is None:
        sys.exit(f"the devices could not be listed: {'; '.join(results.failed)}")
    results.note(device=device.kind)
    if device.platform == "cpu" and not smallest:
        results.note(message=_NO_ACCELERATOR)
        print(_NO_ACCELERATOR, file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as folder:
        run_all(plan.make(pathlib.Path(folder), smallest=smallest), results)
    _judge_resuming(results)
    took = time.monotonic() - begin
    results.note(complete=True, seconds=took, failed=results.failed)
    print(f"{took:.0f} s; written: {_JSON.value}")
    if results.failed:
        sys.exit("\n".join(["failed:", *results.failed]))


if __name__ == "__main__":
    app.run(main)
