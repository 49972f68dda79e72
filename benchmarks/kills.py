"""Kills a run of train.py again and again, and looks at whether anything is lost.

python benchmarks/kills.py --kills=50 --json=benchmarks/results/kills.json
python benchmarks/kills.py --kills=20 --signal=TERM --json=benchmarks/results/terminations.json

The smartwatch exercises, prepared anew. One run is left alone; another is killed (SIGKILL) at
random moments, or in the next evaluation after one, from the preparation of the data on, and
started by the same command each time, until it has ended. In the end the parameters of both are
compared, and of the batches that led to them, how many examples an epoch had twice or not at all.
SIGTERM, in place of it, lets the run save what it has done; then the seconds are noted that it
takes to end.
"""

from __future__ import annotations

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

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
from absl import app, flags  # noqa: E402

from benchmarks.summaries import environment, write  # noqa: E402

_KILLS = flags.DEFINE_integer("kills", 50, "How many.", lower_bound=1)
_SIGNAL = flags.DEFINE_enum("signal", "KILL", ["KILL", "TERM"], "By which.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_JSON = flags.DEFINE_string("json", None, "Where the result goes.", required=True)

# What is done where is noted in a file: nothing else differs from train.py.
PROGRAM = """
import json, os, pathlib, runpy, sys
folder = pathlib.Path(os.environ["KILLS_NOTES"])
def note(doing):
    (folder / "doing").write_text(doing)
note("starting")
from sft_jax import experiment
from sft_jax.data import pipeline
from sft_jax.evaluation import evaluator
open_dataset, iterator, call = (
    experiment.open_dataset, pipeline.train_iterator, evaluator.Evaluator.__call__)
def opening(config):
    note("preparing data")
    dataset = open_dataset(config)
    note("compiling")
    return dataset
def calling(self, params):
    note("evaluating")
    found = call(self, params)
    note("training")
    return found
class Noted:
    def __init__(self, batches):
        self.batches, self.step, self.file = batches, 0, (folder / "batches.jsonl").open("a")
    def get_state(self):
        return {"inner": self.batches.get_state(), "step": self.step}
    def set_state(self, state):
        self.batches.set_state(state["inner"])
        self.step = state["step"]
    def __next__(self):
        batch, ids = next(self.batches)
        self.step += 1
        self.file.write(json.dumps([self.step, list(ids)]) + "\\n")
        self.file.flush()
        if self.step % 31 == 2:
            note("training")
        return batch, ids
experiment.open_dataset = opening
evaluator.Evaluator.__call__ = calling
pipeline.train_iterator = lambda *args, **kwargs: Noted(iterator(*args, **kwargs))
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


class Run:
    """A run of train.py in a folder, which notes what it is doing."""

    def __init__(
        self, folder: pathlib.Path, data: pathlib.Path, cache: pathlib.Path, epochs: int
    ) -> None:
        self.folder, self.workdir, self._epochs = folder, folder / "run", epochs
        folder.mkdir()
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KILLS_NOTES": str(folder),
            "TFDS_DATA_DIR": str(data),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
        }

    def start(self) -> subprocess.Popen[str]:
        """Starts it, or goes on."""
        (self.folder / "doing").unlink(missing_ok=True)
        self._begin = time.time()
        overrides = ("model.n_post=2", f"train.epochs={self._epochs}", "train.keep_latest=2")
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                "--config=configs/watch.py",
                f"--workdir={self.workdir}",
                *(f"--config.{override}" for override in overrides),
            ],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def doing(self) -> str:
        """What it was doing last."""
        for partial in self.workdir.glob("checkpoints/*/*.orbax-checkpoint-tmp*"):
            with contextlib.suppress(FileNotFoundError):
                if partial.stat().st_mtime > self._begin:  # Else what a kill has left.
                    return "saving"
        path = self.folder / "doing"
        return (path.read_text() if path.exists() else "") or "starting"

    def finish(self) -> float:
        """Lets it end; the seconds that it took."""
        begin = time.monotonic()
        process = self.start()
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"train.py ended with {process.returncode}: {errors}")
        return time.monotonic() - begin

    def state(self) -> dict[str, np.ndarray]:
        """All that the last checkpoint holds of the model and the optimiser, by name."""
        steps = (self.workdir / "checkpoints" / "latest").iterdir()
        last = max(int(path.name) for path in steps if path.name.isdecimal())
        folder = self.workdir.absolute() / "checkpoints" / "latest" / str(last) / "state"
        with ocp.PyTreeCheckpointer() as reader:
            leaves, _ = jax.tree_util.tree_flatten_with_path(reader.restore(folder))
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

    def batches(self) -> list[list[str]]:
        """The ids of each step's examples, as the step was last taken."""
        lines = (self.folder / "batches.jsonl").read_text().splitlines()
        last: dict[int, list[str]] = {}
        for line in lines:
            try:
                step, ids = json.loads(line)
            except json.JSONDecodeError:  # Cut short by a kill, and with it what came after.
                continue
            last[step] = ids
        return [last[step] for step in sorted(last)]


def kill(
    run: Run, seconds: float, wanted: str | None, further: float, number: signal.Signals
) -> tuple[str, float] | None:
    """Starts a run and sends it a signal.

    Args:
      run: the run.
      seconds: after how many, at the earliest.
      wanted: what it must be doing then; None for anything.
      further: seconds from when it does it.
      number: the signal.

    Returns:
      What it was doing and in how many seconds it ended; None if it had ended before.
    """
    process = run.start()
    moment, begin = "", time.monotonic()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        while process.poll() is None and wanted not in (run.doing(), None):
            time.sleep(0.002)
        time.sleep(further)
        moment, begin = run.doing(), time.monotonic()
        process.send_signal(number)
    process.communicate()
    took = time.monotonic() - begin
    if process.returncode == 0:
        return None
    # Where there is nothing to save, SIGTERM ends a process without its doing.
    if process.returncode not in (-number, *((128 + number,) if number == signal.SIGTERM else ())):
        raise RuntimeError(f"train.py ended with {process.returncode}")
    return moment, took


def latest_moment(run: float, start: float, kills: int) -> float:
    """Until when to kill a run after a start, so that it lasts for all kills.

    Args:
      run: seconds that it takes if left alone.
      start: seconds of these before the first step.
      kills: how many.
    """
    each = 0.5 * (run - start) / kills  # The mean of what is trained between two kills.
    return start + each + math.sqrt(each * (each + 2 * start))


def lost(batches: list[list[str]], examples: int) -> tuple[int, int]:
    """How many examples epochs had more than once, and how many not at all."""
    seen = [name for batch in batches for name in batch]
    whole = range(0, len(seen) - examples + 1, examples)
    counts = [collections.Counter(seen[start : start + examples]) for start in whole]
    repeated = sum(count - 1 for of in counts for count in of.values())
    return repeated, sum(examples - len(of) for of in counts)


def main(_: list[str]) -> None:
    """Trains, kills, compares and writes the result."""
    chance = random.Random(_SEED.value)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cache, epochs = folder / "cache", 3 * _KILLS.value
        whole = Run(folder / "whole", folder / "data_of_whole", cache, epochs)
        whole.finish()  # Compiles; what is timed below loads that.
        took = Run(folder / "timed", folder / "data_of_whole", cache, epochs).finish()
        until = latest_moment(took, whole.finish(), _KILLS.value)
        killed = Run(folder / "killed", folder / "data", cache, epochs)
        number = signal.Signals[f"SIG{_SIGNAL.value}"]
        ended: dict[str, list[float]] = collections.defaultdict(list)
        for kills in range(_KILLS.value):
            # At first there are data to prepare; evaluations take a small part of the time.
            when = (
                (0, "preparing data", chance.uniform(0, 3))
                if kills < 3
                else (chance.uniform(0, until), chance.choice([None, None, "evaluating"]), 0)
            )
            moment = kill(killed, *when, number)
            if moment is None:
                raise RuntimeError(f"the run ended after {kills} kills: make it longer")
            ended[moment[0]].append(moment[1])
            print(f"{number.name} {kills + 1}: {moment[0]}, {moment[1]:.1f} s", flush=True)
        killed.finish()
        expected, found = whole.state(), killed.state()
        if expected.keys() != found.keys():
            raise RuntimeError("the two states differ in their parts")
        different = [key for key in expected if not np.array_equal(expected[key], found[key])]
        examples = json.loads((killed.workdir / "dataset.json").read_text())["num_examples"]
        of_whole, of_killed = whole.batches(), killed.batches()
        repeated, missed = lost(of_killed, examples["train"])
        starts = (killed.workdir / "starts.jsonl").read_text().splitlines()
        metrics = [(run.workdir / "metrics.jsonl").read_text() for run in (whole, killed)]
    result = {
        **environment(),
        "signal": number.name,
        "kills": _KILLS.value,
        "killed_while": {doing: len(seconds) for doing, seconds in ended.items()},
        "most_seconds_to_end": {doing: max(seconds) for doing, seconds in ended.items()},
        "resumes": _KILLS.value,
        "starts_that_came_to_the_run_directory": len(starts),
        "steps": len(of_killed),
        "parameter_differences": len(different),
        "compared_arrays": len(expected),
        "repeated_examples": repeated,
        "missed_examples": missed,
        "batches_that_differ": sum(a != b for a, b in zip(of_whole, of_killed, strict=True)),
        "validation_metrics_equal": _valid(metrics[0]) == _valid(metrics[1]),
    }
    write(pathlib.Path(_JSON.value), result)
    print(json.dumps(result, indent=2))


def _valid(text: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if any(name.startswith("valid/") for name in line)]


if __name__ == "__main__":
    app.run(main)
