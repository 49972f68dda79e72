"""Runs of train.py by one process or several, which keep notes of their activity."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks import harness

_GRACE = 5.0  # Seconds that the other processes have to end by themselves.


class Run:
    """A run of train.py in a folder.

    Attributes:
      disk: Folder of the run directory, and nothing else.
      workdir: Run directory.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        data: pathlib.Path,
        cache: pathlib.Path,
        epochs: int,
        processes: int = 1,
    ) -> None:
        """Makes the folder.

        Args:
          folder: Folder of the notes and, in `disk/run`, of the run directory.
          data: Folder of the prepared data.
          cache: Folder of compiled programs.
          epochs: Number of epochs.
          processes: Number of processes that train together.
        """
        self._folder, self.disk = folder, folder / "disk"
        self.workdir = self.disk / "run"
        self._checkpoints = self.workdir / "checkpoints" / "latest"
        self._data, self._cache, self._epochs, self._processes = data, cache, epochs, processes
        self.disk.mkdir(parents=True)

    def start(self) -> Started:
        """Starts the run, or continues it."""
        for path in self._folder.glob("activity_*"):
            path.unlink()
        overrides = ("model.n_post=2", f"train.epochs={self._epochs}", "train.keep_latest=2")
        command = [
            *(sys.executable, "-m", "benchmarks.kills.program", "--config=configs/watch.py"),
            f"--workdir={self.workdir}",
            *(f"--config.{override}" for override in overrides),
        ]
        environment = {
            **os.environ,
            "TFDS_DATA_DIR": str(self._data),
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
        }
        begin, address, processes = time.time(), f"localhost:{_free_port()}", []
        for number in range(self._processes):
            notes = {
                "KILLS_ACTIVITY": str(self._note(number)),
                "KILLS_BATCHES": str(self._ids(number)),
            }
            job = [f"--coordinator={address}", f"--num_processes={self._processes}"]
            job = [*job, f"--process_id={number}"] if self._processes > 1 else []
            errors = (self._folder / f"errors_{number}").open("w")
            processes.append(
                subprocess.Popen(
                    [*command, *job],
                    cwd=harness.ROOT,
                    env={**environment, **notes},
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
            )
            errors.close()
        return Started(self, processes, begin)

    def activity(self, begin: float) -> str:
        """Reads the last activity that the first process has noted.

        Args:
          begin: Time of the start. What is older was left by interruptions.
        """
        for partial in self.workdir.glob("checkpoints/*/*.orbax-checkpoint-tmp*"):
            with contextlib.suppress(FileNotFoundError):
                if partial.stat().st_mtime > begin:
                    return "saving"
        path = self._note(0)
        return (path.read_text() if path.exists() else "") or "starting"

    def errors(self) -> str:
        """Reads what the processes wrote to stderr in the last start."""
        return "\n".join(
            (self._folder / f"errors_{number}").read_text() for number in range(self._processes)
        )

    def finish(self) -> float:
        """Lets the run end; returns its seconds.

        Raises:
          RuntimeError: If it ends with an error.
        """
        begin = time.monotonic()
        codes = self.start().wait()
        if any(codes):
            raise RuntimeError(f"train.py ended with {codes}: {self.errors()}")
        return time.monotonic() - begin

    def last_step(self) -> int:
        """Step of the last checkpoint."""
        steps = (path.name for path in self._checkpoints.iterdir())
        return max(int(name) for name in steps if name.isdecimal())

    def state(self) -> dict[str, np.ndarray]:
        """Arrays of the model and the optimiser in the last checkpoint, by name."""
        folder = self._checkpoints.absolute() / str(self.last_step()) / "state"
        with ocp.PyTreeCheckpointer() as reader:
            restored = reader.restore(folder)
        leaves, _ = jax.tree_util.tree_flatten_with_path(restored)
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

    def batches(self) -> list[list[str]]:
        """Ids of each step's examples, as they were last read, of all processes.

        Batches that were read ahead of a step that was not taken do not count.
        """
        shares = [_last_batches(self._ids(number)) for number in range(self._processes)]
        return [
            [*itertools.chain.from_iterable(share[step] for share in shares)]
            for step in range(1, self.last_step() + 1)
        ]

    def starts(self) -> int:
        """Number of starts that came to the run directory."""
        return len((self.workdir / "starts.jsonl").read_text().splitlines())

    def valid_metrics(self) -> list[dict[str, float]]:
        """Metrics of the validation split at each evaluation."""
        text = (self.workdir / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if any(name.startswith("valid/") for name in line)]

    def _note(self, number: int) -> pathlib.Path:
        return self._folder / f"activity_{number}"

    def _ids(self, number: int) -> pathlib.Path:
        return self._folder / f"batches_{number}.jsonl"


class Started:
    """One start of a run."""

    def __init__(self, run: Run, processes: list[subprocess.Popen[bytes]], begin: float) -> None:
        """Holds the processes of the start, and its time."""
        self.run, self.processes, self._begin = run, processes, begin

    def is_running(self) -> bool:
        """Returns True until one of the processes has ended."""
        return all(process.poll() is None for process in self.processes)

    def activity(self) -> str:
        """Reads the last activity of the first process."""
        return self.run.activity(self._begin)

    def wait(self, seconds: float | None = None) -> list[int]:
        """Waits until all processes have ended; returns their exit statuses.

        Raises:
          subprocess.TimeoutExpired: If one has not ended in time.
        """
        end = None if seconds is None else time.monotonic() + seconds
        return [
            process.wait(None if end is None else max(0.0, end - time.monotonic()))
            for process in self.processes
        ]

    def end_others(self, struck: subprocess.Popen[bytes]) -> None:
        """Ends the processes beside one that has ended, as a launcher does after a grace time."""
        others = [process for process in self.processes if process is not struck]
        end = time.monotonic() + _GRACE
        for process in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            process.send_signal(signal.SIGKILL)
            process.wait()


def lost(batches: list[list[str]], examples: int) -> tuple[int, int]:
    """Number of examples that epochs had more than once, and of those they had not at all."""
    seen = [name for batch in batches for name in batch]
    whole = range(0, len(seen) - examples + 1, examples)
    counts = [collections.Counter(seen[start : start + examples]) for start in whole]
    repeated = sum(number - 1 for count in counts for number in count.values())
    return repeated, sum(examples - len(count) for count in counts)


def compare(whole: Run, interrupted: Run) -> dict[str, Any]:
    """Compares parameters, batches and metrics of two runs.

    Raises:
      RuntimeError: If their states have different parts.
    """
    expected, actual = whole.state(), interrupted.state()
    if expected.keys() != actual.keys():
        raise RuntimeError("the two states differ in their parts")
    different = [key for key in expected if not np.array_equal(expected[key], actual[key])]
    examples = json.loads((interrupted.workdir / "dataset.json").read_text())["num_examples"]
    expected_batches, batches = whole.batches(), interrupted.batches()
    repeated, missed = lost(batches, examples["train"])
    return {
        "starts_that_came_to_the_run_directory": interrupted.starts(),
        "steps": len(batches),
        "parameter_differences": len(different),
        "compared_arrays": len(expected),
        "repeated_examples": repeated,
        "missed_examples": missed,
        "batches_that_differ": sum(a != b for a, b in zip(expected_batches, batches, strict=True)),
        "validation_metrics_equal": whole.valid_metrics() == interrupted.valid_metrics(),
    }


def _last_batches(path: pathlib.Path) -> dict[int, list[str]]:
    """Ids by step, as they were last read."""
    last: dict[int, list[str]] = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # Empty, or cut by a kill.
            step, ids = json.loads(line)
            last[step] = ids
    return last


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port
