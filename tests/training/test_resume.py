"""A run that was killed and started again ends exactly as one that never was."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import synthetic
from sparing import slow_but
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# 50 examples in batches of 8 over 4 epochs: 25 steps, evaluated after 7, 13, 19 and 25.
STEPS = 25
PROGRAM = """
import os, pathlib, signal, sys, time
import conftest, synthetic
from sft_jax import command_line
from sft_jax.evaluation import evaluator as evaluators
from sft_jax.runs import integrity
from sft_jax.training.progress import Progress

workdir, signal_name, during, end_at = sys.argv[1:]
del sys.argv[1:]
counts = dict.fromkeys(["step", "evaluation", "save"], 0)
def count(what):
    counts[what] += 1
    if what == during and counts[what] == int(end_at):
        os.kill(os.getpid(), signal.Signals[signal_name])
        time.sleep(0.5 * (what == "save"))
def wait_for(*args, do=Progress.wait_for):
    taken = do(*args)
    count("step")
    return taken
def restrict(*args, do=evaluators.restrict):
    count("evaluation")  # A batch of it, of three.
    return do(*args)
def sign(*args, do=integrity.sign):
    count("save")
    do(*args)
Progress.wait_for, evaluators.restrict, integrity.sign = wait_for, restrict, sign

def main():
    result, evaluator = synthetic.run(
        pathlib.Path(workdir),
        synthetic.config(train__epochs=4, train__ema_decay=0.5, optim__schedule="plateau"))
    print("compiles", result.train_compiles, evaluator.compiles)
    print("fingerprint", synthetic.fingerprint(result.state))
command_line.run(main)
"""


def start(workdir, signal_name="SIGKILL", during="step", end_at=0):
    tests = pathlib.Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests), str(tests / "training")])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(workdir), signal_name, during, str(end_at)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("train/input_wait", None)  # Time differs from run to run.
    return lines


def events(workdir):
    read = EventAccumulator(str(workdir / "tensorboard")).Reload()
    names = set(read.Tags()["scalars"]) - {"train/input_wait"}
    return {name: [(e.step, e.value) for e in read.Scalars(name)] for name in names}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    done = start(workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


# While the checkpoint of step 13 is being written; before there is one.
@pytest.mark.process
@pytest.mark.parametrize("kill_at", slow_but([14, 3], 14))
def test_a_killed_run_goes_on_bit_for_bit(unbroken, tmp_path, kill_at):
    killed = start(tmp_path, end_at=kill_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = start(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    workdir, output = unbroken
    assert resumed.stdout.splitlines()[-2:] == output.splitlines()[-2:]
    assert metrics(tmp_path) == metrics(workdir)
    assert events(tmp_path) == events(workdir)
    assert "compiles 1 1" in output


def valid_steps(workdir):
    return [line["step"] for line in metrics(workdir) if "valid/loss" in line]


@pytest.mark.process
def test_a_preempted_run_goes_on_bit_for_bit(unbroken, tmp_path):
    def ended(during, end_at):
        done = start(tmp_path, "SIGTERM", during, end_at)
        assert done.returncode == 143, done.stderr
        assert "run the same command again" in done.stdout.splitlines()[-1]
        steps = [int(path.name) for path in tmp_path.glob("checkpoints/stopped/*")]
        assert f"stopped at step {steps[0]} of {STEPS}" in done.stdout
        assert len(steps) == 1
        return steps[0], valid_steps(tmp_path)

    assert ended("step", 3) == (3, [])
    # While the checkpoint of step 7 is saved, which that of step 13 would wait for.
    step, evaluated = ended("save", 1)
    assert 7 < step <= 14
    assert evaluated[0] == 7
    # In the middle of the second in this process; one batch is looked at to compile.
    step, evaluated = ended("evaluation", 6)
    assert step in (19, 25)
    assert evaluated[0] == 7
    assert evaluated[-1] == step - 6
    last = start(tmp_path)
    assert f"going on from step {step} of {STEPS}" in last.stdout
    workdir, output = unbroken
    assert last.stdout.splitlines()[-1] == output.splitlines()[-1]
    assert metrics(tmp_path) == metrics(workdir)
    assert events(tmp_path) == events(workdir)
    assert not list(tmp_path.glob("checkpoints/stopped/*"))


@pytest.mark.process
def test_a_finished_run_does_nothing_more(unbroken, tmp_path):
    workdir, output = unbroken
    shutil.copytree(workdir, tmp_path / "run")
    again = start(tmp_path / "run")
    assert f"all {STEPS} steps were taken before" in again.stdout
    assert again.stdout.splitlines()[-1] == output.splitlines()[-1]
    assert metrics(tmp_path / "run") == metrics(workdir)


def test_a_best_checkpoint_that_a_kill_left_unsaved_is_saved(tmp_path):
    experiment = synthetic.config(train__epochs=1)
    synthetic.run(tmp_path, experiment)
    shutil.rmtree(tmp_path / "checkpoints" / "best" / "7")
    result, _ = synthetic.run(tmp_path, experiment)
    assert result.best_step == 7
    assert (tmp_path / "checkpoints" / "best" / "7").is_dir()
