"""Several processes that train together, on one machine."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import synthetic
import test_meshes

from sft_jax.runs.checkpoint import Checkpoints

PROGRAM = """
import os, pathlib, sys
import conftest
os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
import jax
address, index, workdir, axes, last = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
import json, synthetic, test_meshes
from jax.experimental import multihost_utils
from sft_jax.runs.checkpoint import Checkpoints
experiment = test_meshes.experiment("sft", json.loads(axes), **test_meshes.LONG)
seen, saved, save = [], {}, Checkpoints.save
def saving(self, kind, state, description):
    whole = multihost_utils.process_allgather(state, tiled=True)
    saved[int(state.step)] = synthetic.fingerprint(whole)
    save(self, kind, state, description)
Checkpoints.save = saving
try:
    result, evaluator = synthetic.run(
        pathlib.Path(workdir), experiment, devices=jax.devices(),
        wrap=synthetic.ending_after(int(last), lambda ids: seen.append(sorted(ids))))
    print("compiles", result.train_compiles, evaluator.compiles)
finally:
    print(json.dumps([seen, saved]))
"""


def _start(workdir, axes, last):
    tests = pathlib.Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests), str(tests / "parallel")])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    arguments = [str(workdir), json.dumps(axes), str(last)]
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(index), *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def _run_alone(workdir):
    """Trains in one process; returns the losses, and the ids of the batches of this start."""
    seen = []
    experiment = test_meshes.experiment("sft", **test_meshes.LONG)
    wrap = synthetic.ending_after(99, lambda ids: seen.append(sorted(ids)))
    synthetic.run(workdir, experiment, wrap=wrap)
    return synthetic.training_losses(workdir), seen


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return _run_alone(tmp_path_factory.mktemp("alone"))


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    "axes", [{}, {"fsdp": 8}, {"model": 2}, {"data": 2, "fsdp": 2, "model": 2}]
)
def test_two_processes_of_four_devices_are_as_one_of_one(alone, tmp_path, axes):
    processes = _start(tmp_path, axes, 99)
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "compiles 1 1" in output
        assert "Failed" not in errors  # Orbax logs it for a save that it tries again.
    losses = synthetic.training_losses(tmp_path)
    assert len(losses) >= 20
    np.testing.assert_allclose(losses, alone[0], rtol=0, atol=1e-5)


# The same of a mesh whose parameters both hold a part of, in fewer steps.
@pytest.mark.process
def test_one_process_goes_on_bit_for_bit_where_two_ended(alone, tmp_path, monkeypatch):
    outputs = []
    for process in _start(tmp_path, {"fsdp": 8}, 5):
        output, _ = process.communicate(timeout=300)
        assert process.returncode != 0
        outputs.append(json.loads(output.splitlines()[-1]))
    (first, saved), (second, _) = outputs
    restored, resume = [], Checkpoints.resume

    def resuming(self, like):
        resumed = resume(self, like)
        restored.append((int(resumed[0].step), synthetic.fingerprint(resumed[0])))
        return resumed

    monkeypatch.setattr(Checkpoints, "resume", resuming)
    losses, seen = _run_alone(tmp_path)
    ((step, fingerprint),) = restored
    assert step == 4
    assert saved[str(step)] == fingerprint
    both = [sorted(a + b) for a, b in zip(first, second, strict=True)]
    assert [*both[:step], *seen] == alone[1]
    np.testing.assert_allclose(losses, alone[0], rtol=0, atol=1e-5)
