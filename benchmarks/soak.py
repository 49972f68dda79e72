"""Trains for hours, and watches the memory, threads, open files and disk of the process.

python -m benchmarks.soak --hours=2 --json=benchmarks/results/soak.json

Uses the smartwatch exercises and a small model, so that many steps, evaluations and checkpoints fit
into an hour. In the end the process gets SIGTERM, saves its state and ends. The growth of memory is
the slope of a least-squares line over the second half of the time. Its interval of 95 % is of a
bootstrap over blocks of successive samples, as they are not independent.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.suites import SUITES
from sft_jax.parallel.preemption import EXIT_STATUS

_EPOCHS = 10**6
_BLOCKS = 12  # Of the second half.
_RESAMPLES = 2000


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--hours", type=float, default=2.0, help="length of the training")
    arguments.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    return arguments


def sample(process: int, workdir: pathlib.Path) -> dict[str, float]:
    """Memory, threads and open files of a process, and the disk of its run directory.

    Args:
      process: Number of the process.
      workdir: Run directory.
    """
    status = harness.process_status(process)
    return {
        "anonymous_mib": int(status["RssAnon"]) / 2**10,
        "threads": int(status["Threads"]),
        "open_files": len([*pathlib.Path(f"/proc/{process}/fd").iterdir()]),
        "disk_mib": _bytes(workdir) / 2**20,
    }


def _bytes(folder: pathlib.Path) -> int:
    """Bytes of all files of a folder; those that vanish meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def growth(hours: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    """Slope of values over hours, with its interval.

    Args:
      hours: `[n]` hours of the samples.
      values: `[n]` samples.
    """
    blocks = np.array_split(np.arange(len(hours)), _BLOCKS)
    random = np.random.default_rng(0)

    def slope(chosen: np.ndarray) -> float:
        return float(np.polyfit(hours[chosen], values[chosen], 1)[0])

    drawn = [
        slope(np.concatenate([blocks[i] for i in random.integers(_BLOCKS, size=_BLOCKS)]))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"per_hour": slope(np.arange(len(hours))), "interval": [float(low), float(high)]}


def watch(
    process: subprocess.Popen[bytes], workdir: pathlib.Path, seconds: float, every: float
) -> list[dict[str, float]]:
    """Samples a process until a time has passed.

    Args:
      process: Training.
      workdir: Its run directory.
      seconds: Time from the first metrics on.
      every: Seconds between samples.

    Raises:
      RuntimeError: If the process ends before.
    """
    samples: list[dict[str, float]] = []
    begin = 0.0
    while not begin or time.monotonic() < begin + seconds:
        if process.poll() is not None:
            raise RuntimeError(f"train.py ended with {process.returncode}")
        if not begin and (workdir / "metrics.jsonl").exists():
            begin = time.monotonic()
        if begin:
            own = {"hours": (time.monotonic() - begin) / 3600}
            samples.append(own | sample(process.pid, workdir))
        time.sleep(every)
    return samples


def main() -> None:
    """Trains, watches and writes the result."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        workdir = pathlib.Path(name) / "run"
        changes = {"model.n_post": 1, "train.epochs": _EPOCHS}
        command = [sys.executable, "train.py", "--config=configs/watch.py", f"--workdir={workdir}"]
        command += [f"--config.{field}={value}" for field, value in changes.items()]
        process = subprocess.Popen(command, cwd=harness.ROOT, stdout=subprocess.DEVNULL)
        try:
            samples = watch(process, workdir, 3600 * options.hours, options.every)
            process.send_signal(signal.SIGTERM)
            status = process.wait()
        finally:
            process.kill()
        if status != EXIT_STATUS:
            raise RuntimeError(f"train.py ended with {status} after SIGTERM")
        lines = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    half = samples[len(samples) // 2 :]
    hours = np.array([one["hours"] for one in half])
    measured = [name for name in samples[0] if name != "hours"]
    result = {
        **harness.environment(SUITES["soak"].scope),
        "hours": samples[-1]["hours"],
        "steps": max(line["step"] for line in lines),
        "evaluations": sum(any(n.startswith("valid/") for n in line) for line in lines),
        "first": samples[0],
        "half": half[0],
        "last": samples[-1],
        "growth": {name: growth(hours, np.array([one[name] for one in half])) for name in measured},
        "samples": samples[:: max(1, len(samples) // 120)],
    }
    harness.write(options.json, result)
    print(json.dumps({key: result[key] for key in ("steps", "half", "last", "growth")}, indent=2))


if __name__ == "__main__":
    main()
