"""Interrupts runs of train.py again and again, and checks that nothing is lost.

python -m benchmarks.kills --kills=50 --json=benchmarks/results/kills.json
python -m benchmarks.kills --only="full disk" --kills=20 --json=kills.json

Uses the smartwatch exercises, prepared anew. One run is left alone. Another is interrupted at
random moments or in the next evaluation, from the preparation of the data on. The same command
starts it each time, until it has ended. In the end the parameters of both are compared. Their
batches show how many examples an epoch had twice or not at all.

The run is interrupted in several ways, each as often as `--kills`. Its process is killed
(SIGKILL), or asked to end (SIGTERM), whereupon it saves its state. One of two processes is killed.
The disk of the run directory is full, until the run has ended with an error. That needs the right
to mount a disk. A result that has some ways is continued with the others.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import freshness, harness
from benchmarks.kills.disk import Disk
from benchmarks.kills.runs import Run, Started, compare
from benchmarks.suites import SUITES

_PATIENCE = 300.0  # Seconds in which a run on a full disk must end.


class Way(NamedTuple):
    """A way of interrupting a run.

    Attributes:
      processes: Number of processes of the run.
      number: Signal to send to one of them; None to fill the disk.
    """

    processes: int
    number: signal.Signals | None


WAYS = {
    "SIGKILL": Way(1, signal.SIGKILL),
    "SIGTERM": Way(1, signal.SIGTERM),
    "SIGKILL to one of two processes": Way(2, signal.SIGKILL),
    "full disk": Way(1, None),
}


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=WAYS)
    arguments.add_argument("--kills", type=int, default=50, help="interruptions of each way")
    arguments.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    return arguments


def send(started: Started, number: signal.Signals, chance: random.Random) -> None:
    """Sends a signal to one process; the others end with it.

    Raises:
      RuntimeError: If the process ends otherwise than by the signal.
    """
    struck = chance.choice(started.processes)
    struck.send_signal(number)
    code = struck.wait()
    started.end_others(struck)
    # While there is nothing to save, SIGTERM ends the process in the default way.
    if code not in (0, -number, *((128 + number,) if number == signal.SIGTERM else ())):
        raise RuntimeError(f"train.py ended with {code}: {started.run.errors()}")


def fill(started: Started, disk: Disk) -> None:
    """Fills the disk until the run has ended, then frees it.

    Raises:
      RuntimeError: If the run ends without naming the disk, or does not end.
    """
    with disk.filled():
        try:
            codes = started.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"train.py goes on for {_PATIENCE:.0f} s on a full disk") from None
    if any(codes) and "No space left" not in started.run.errors():
        raise RuntimeError(f"train.py ended with {codes}: {started.run.errors()}")


def interrupt(
    run: Run,
    strike: Callable[[Started], None],
    seconds: float,
    activity: str | None,
    delay: float,
) -> tuple[str, float] | None:
    """Starts a run and interrupts it.

    Args:
      run: Run to interrupt.
      strike: Function that interrupts the run and waits for its end.
      seconds: Least number of seconds before the interruption.
      activity: Activity of the run to wait for; None for any.
      delay: Seconds between that activity and the interruption.

    Returns:
      The activity and the seconds until the run's end; None if it had ended before.
    """
    started, begin = run.start(), time.monotonic()
    while started.is_running() and time.monotonic() < begin + seconds:
        time.sleep(0.002)
    while started.is_running() and activity not in (started.activity(), None):
        time.sleep(0.002)
    time.sleep(delay)
    if not started.is_running():
        return None
    moment, begin = started.activity(), time.monotonic()
    strike(started)
    return moment, time.monotonic() - begin


def latest_moment(run: float, start: float, kills: int) -> float:
    """Latest moment of an interruption after a start, so that the run lasts for all of them.

    Args:
      run: Seconds that the run takes if left alone.
      start: Seconds of these before the first step.
      kills: Number of interruptions.
    """
    each = 0.5 * (run - start) / kills  # Mean seconds of training between two interruptions.
    return start + each + math.sqrt(each * (each + 2 * start))


def interrupt_until_done(
    run: Run, kills: int, until: float, strike: Callable[[Started], None], chance: random.Random
) -> dict[str, list[float]]:
    """Interrupts a run as often as asked for, then lets it end.

    Args:
      run: Run to interrupt.
      kills: Number of interruptions.
      until: Latest moment after a start, in seconds.
      strike: Function that interrupts the run and waits for its end.
      chance: Source of the random moments.

    Returns:
      Seconds from each interruption to the end of the run, by its activity.
    """
    seconds_to_end: dict[str, list[float]] = collections.defaultdict(list)
    for count in range(kills):
        # The first starts prepare data. Evaluations take a small part of the time.
        when = (
            (0, "preparing data", chance.uniform(0, 3))
            if count < 3
            else (chance.uniform(0, until), chance.choice([None, None, "evaluating"]), 0)
        )
        moment = interrupt(run, strike, *when)
        if moment is None:
            raise RuntimeError(f"the run ended after {count} interruptions: {run.errors()}")
        activity, seconds = moment
        seconds_to_end[activity].append(seconds)
        print(f"  {count + 1}: {activity}, {seconds:.1f} s", flush=True)
    run.finish()
    return seconds_to_end


def measure(way: Way, kills: int, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Interrupts a run in a way, and compares it with one left alone.

    Args:
      way: Way of interrupting.
      kills: Number of interruptions.
      seed: Seed of the random moments.
      folder: Folder for the runs.

    Returns:
      JSON values of the way.
    """
    epochs, chance = 3 * kills, random.Random(seed)

    def make(name: str, data: str) -> Run:
        place = folder / name
        return Run(place, folder / data, folder / "cache", epochs, way.processes)

    whole = make("whole", "data_of_whole")
    whole.finish()  # Compiles; the timed runs below load its programs.
    seconds = make("timed", "data_of_whole").finish()
    until = latest_moment(seconds, whole.finish(), kills)
    interrupted = make("interrupted", "data")
    with Disk(interrupted.disk, mounted=way.number is None) as disk:

        def strike(started: Started) -> None:
            if way.number is None:
                fill(started, disk)
            else:
                send(started, way.number, chance)

        seconds_to_end = interrupt_until_done(interrupted, kills, until, strike, chance)
        return {
            "kills": kills,
            "killed_while": {name: len(each) for name, each in seconds_to_end.items()},
            "most_seconds_to_end": {name: max(each) for name, each in seconds_to_end.items()},
            **compare(whole, interrupted),
        }


def main() -> None:
    """Trains, interrupts, compares and writes the result after each way."""
    options = parser().parse_args()
    scope, begun = SUITES["kills"].scope, {"each": options.kills, "seed": options.seed}
    try:
        result = harness.read_or_begin(options.json, scope, begun, "rows")
    except ValueError as error:
        sys.exit(f"error: {error}")
    code = freshness.identity(scope)
    for name in options.only or WAYS:
        if name in result["rows"] and freshness.state(result["rows"][name]["code"], scope).fresh:
            continue
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            row = measure(WAYS[name], options.kills, options.seed, pathlib.Path(folder))
        result["rows"][name] = {**row, "code": code}
        harness.write(options.json, result)
        print(json.dumps(row, indent=2), flush=True)


if __name__ == "__main__":
    main()
