"""Kills a run of train.py again and again, and checks that nothing is lost.

python -m benchmarks.kills --kills=50 --json=benchmarks/results/kills.json
python -m benchmarks.kills --kills=20 --signal=TERM --json=benchmarks/results/terminations.json

Uses the smartwatch exercises, prepared anew. One run is left alone. Another is killed (SIGKILL) at
random moments or in the next evaluation, from the preparation of the data on. The same command
starts it each time, until it has ended. In the end the parameters of both are compared. Their
batches show how many examples an epoch had twice or not at all. With SIGTERM the run saves its
state; then the seconds until its end are measured.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks import harness
from benchmarks.suites import SUITES


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--kills", type=int, default=50, help="number of kills")
    arguments.add_argument("--signal", default="KILL", choices=["KILL", "TERM"])
    arguments.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    return arguments


class Run:
    """A run of train.py in a folder, which keeps notes of its activity."""

    def __init__(
        self, folder: pathlib.Path, data: pathlib.Path, cache: pathlib.Path, epochs: int
    ) -> None:
        self.folder, self.workdir, self._epochs = folder, folder / "run", epochs
        folder.mkdir()
        self._environment = {
            **os.environ,
            "KILLS_NOTES": str(folder),
            "TFDS_DATA_DIR": str(data),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
        }

    def start(self) -> subprocess.Popen[str]:
        """Starts the run, or continues it."""
        (self.folder / "activity").unlink(missing_ok=True)
        self._begin = time.time()
        overrides = ("model.n_post=2", f"train.epochs={self._epochs}", "train.keep_latest=2")
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.kills_program",
                "--config=configs/watch.py",
                f"--workdir={self.workdir}",
                *(f"--config.{override}" for override in overrides),
            ],
            cwd=harness.ROOT,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def activity(self) -> str:
        """Reads the last activity that the run has noted."""
        for partial in self.workdir.glob("checkpoints/*/*.orbax-checkpoint-tmp*"):
            with contextlib.suppress(FileNotFoundError):
                if partial.stat().st_mtime > self._begin:  # Older ones are left by kills.
                    return "saving"
        path = self.folder / "activity"
        return (path.read_text() if path.exists() else "") or "starting"

    def finish(self) -> float:
        """Lets the run end; returns its seconds."""
        begin = time.monotonic()
        process = self.start()
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"train.py ended with {process.returncode}: {errors}")
        return time.monotonic() - begin

    def state(self) -> dict[str, np.ndarray]:
        """Arrays of the model and the optimiser in the last checkpoint, by name."""
        steps = (self.workdir / "checkpoints" / "latest").iterdir()
        last = max(int(path.name) for path in steps if path.name.isdecimal())
        folder = self.workdir.absolute() / "checkpoints" / "latest" / str(last) / "state"
        with ocp.PyTreeCheckpointer() as reader:
            leaves, _ = jax.tree_util.tree_flatten_with_path(reader.restore(folder))
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

    def batches(self) -> list[list[str]]:
        """Ids of each step's examples, as the step was last taken."""
        lines = (self.folder / "batches.jsonl").read_text().splitlines()
        last: dict[int, list[str]] = {}
        for line in lines:
            try:
                step, ids = json.loads(line)
            except json.JSONDecodeError:  # A kill has cut the line, and what followed it.
                continue
            last[step] = ids
        return [last[step] for step in sorted(last)]


def kill(
    run: Run, seconds: float, activity: str | None, delay: float, number: signal.Signals
) -> tuple[str, float] | None:
    """Starts a run and sends it a signal.

    Args:
      run: Run to kill.
      seconds: Least number of seconds before the signal.
      activity: Activity of the run to wait for; None for any.
      delay: Seconds between that activity and the signal.
      number: Signal to send.

    Returns:
      The activity and the seconds until the run's end; None if it had ended before.
    """
    process = run.start()
    moment, begin = "", time.monotonic()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        while process.poll() is None and activity not in (run.activity(), None):
            time.sleep(0.002)
        time.sleep(delay)
        moment, begin = run.activity(), time.monotonic()
        process.send_signal(number)
    process.communicate()
    seconds_to_end = time.monotonic() - begin
    if process.returncode == 0:
        return None
    # While there is nothing to save, SIGTERM ends the process in the default way.
    if process.returncode not in (-number, *((128 + number,) if number == signal.SIGTERM else ())):
        raise RuntimeError(f"train.py ended with {process.returncode}")
    return moment, seconds_to_end


def latest_moment(run: float, start: float, kills: int) -> float:
    """Latest moment of a kill after a start, so that the run lasts for all kills.

    Args:
      run: Seconds that the run takes if left alone.
      start: Seconds of these before the first step.
      kills: Number of kills.
    """
    each = 0.5 * (run - start) / kills  # Mean seconds of training between two kills.
    return start + each + math.sqrt(each * (each + 2 * start))


def lost(batches: list[list[str]], examples: int) -> tuple[int, int]:
    """Number of examples that epochs had more than once, and of those they had not at all."""
    seen = [name for batch in batches for name in batch]
    whole = range(0, len(seen) - examples + 1, examples)
    counts = [collections.Counter(seen[start : start + examples]) for start in whole]
    repeated = sum(number - 1 for count in counts for number in count.values())
    return repeated, sum(examples - len(count) for count in counts)


def kill_until_done(
    run: Run, kills: int, until: float, number: signal.Signals, chance: random.Random
) -> dict[str, list[float]]:
    """Kills a run as often as asked for, then lets it end.

    Args:
      run: Run to kill.
      kills: Number of kills.
      until: Latest moment of a kill after a start, in seconds.
      number: Signal to send.
      chance: Source of the random moments.

    Returns:
      Seconds from each signal to the end of the run, by its activity.
    """
    seconds_to_end: dict[str, list[float]] = collections.defaultdict(list)
    for count in range(kills):
        # The first starts prepare data. Evaluations take a small part of the time.
        when = (
            (0, "preparing data", chance.uniform(0, 3))
            if count < 3
            else (chance.uniform(0, until), chance.choice([None, None, "evaluating"]), 0)
        )
        moment = kill(run, *when, number)
        if moment is None:
            raise RuntimeError(f"the run ended after {count} kills: make it longer")
        activity, seconds = moment
        seconds_to_end[activity].append(seconds)
        print(f"{number.name} {count + 1}: {activity}, {seconds:.1f} s", flush=True)
    run.finish()
    return seconds_to_end


def compare(whole: Run, killed: Run) -> dict[str, Any]:
    """Compares parameters, batches and metrics of two runs.

    Raises:
      RuntimeError: If their states have different parts.
    """
    expected, actual = whole.state(), killed.state()
    if expected.keys() != actual.keys():
        raise RuntimeError("the two states differ in their parts")
    different = [key for key in expected if not np.array_equal(expected[key], actual[key])]
    examples = json.loads((killed.workdir / "dataset.json").read_text())["num_examples"]
    whole_batches, killed_batches = whole.batches(), killed.batches()
    repeated, missed = lost(killed_batches, examples["train"])
    starts = (killed.workdir / "starts.jsonl").read_text().splitlines()
    return {
        "starts_that_came_to_the_run_directory": len(starts),
        "steps": len(killed_batches),
        "parameter_differences": len(different),
        "compared_arrays": len(expected),
        "repeated_examples": repeated,
        "missed_examples": missed,
        "batches_that_differ": sum(
            a != b for a, b in zip(whole_batches, killed_batches, strict=True)
        ),
        "validation_metrics_equal": _valid_metrics(whole) == _valid_metrics(killed),
    }


def _valid_metrics(run: Run) -> list[dict[str, float]]:
    text = (run.workdir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if any(name.startswith("valid/") for name in line)]


def main() -> None:
    """Trains, kills, compares and writes the result."""
    options = parser().parse_args()
    number = signal.Signals[f"SIG{options.signal}"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cache, epochs = folder / "cache", 3 * options.kills
        whole = Run(folder / "whole", folder / "data_of_whole", cache, epochs)
        whole.finish()  # Compiles; the timed runs below load its programs.
        seconds = Run(folder / "timed", folder / "data_of_whole", cache, epochs).finish()
        until = latest_moment(seconds, whole.finish(), options.kills)
        killed = Run(folder / "killed", folder / "data", cache, epochs)
        chance = random.Random(options.seed)
        seconds_to_end = kill_until_done(killed, options.kills, until, number, chance)
        compared = compare(whole, killed)
    result = {
        **harness.environment(SUITES["kills"].scope),
        "signal": number.name,
        "kills": options.kills,
        "killed_while": {activity: len(each) for activity, each in seconds_to_end.items()},
        "most_seconds_to_end": {activity: max(each) for activity, each in seconds_to_end.items()},
        "resumes": options.kills,
        **compared,
    }
    harness.write(options.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
