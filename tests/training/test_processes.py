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
from sparing import slow

PROGRAM = """
import os, pathlib, sys
import conftest
os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
import jax
address, index, workdir, axes, last = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
import json, synthetic, test_meshes
experiment = test_meshes.experiment("sft", json.loads(axes), evaluate_every=1)
seen = []
result, evaluator = synthetic.run(
    pathlib.Path(workdir), experiment, devices=jax.devices(),
    wrap=test_meshes.until(int(last), seen))
print("compiles", result.train_compiles, evaluator.compiles)
"""


def _start(workdir, axes, last):
    tests = pathlib.Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests), str(tests / "training")])
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    synthetic.run(workdir, test_meshes.experiment("sft", evaluate_every=1))
    return test_meshes.losses(workdir)


@pytest.mark.parametrize(
    "axes", [{"data": 2, "fsdp": 2, "model": 2}, *map(slow, ({}, {"fsdp": 8}, {"model": 4}))]
)
def test_two_processes_of_four_devices_are_as_one_of_one(alone, tmp_path, axes):
    processes = _start(tmp_path, axes, 99)
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "compiles 1 1" in output
        assert "Failed" not in errors  # As Orbax says of a save that it tries again.
    found = test_meshes.losses(tmp_path)
    assert len(found) >= 20
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)


def test_one_process_goes_on_where_two_were_killed(alone, tmp_path):
    for process in _start(tmp_path, {"fsdp": 8}, 5):
        process.communicate(timeout=300)
        assert process.returncode != 0
    experiment = test_meshes.experiment("sft", evaluate_every=1)
    result, _ = synthetic.run(tmp_path, experiment)
    assert result.state.step == len(alone)
    np.testing.assert_allclose(test_meshes.losses(tmp_path), alone, rtol=0, atol=1e-5)
