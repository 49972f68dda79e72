"""One computation of several processes: its sources, and missing processes."""

import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from sft_jax.parallel import multihost, rendezvous
from sft_jax.parallel.multihost import Options
from sft_jax.parallel.rendezvous import Job, MissingProcessError

ROOT = pathlib.Path(__file__).parents[2]
SRUN = {"SLURM_JOB_ID": "8195", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
SLICE = {"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "1"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"TPU_WORKER_HOSTNAMES": "localhost"}, None, id="one TPU machine"),
        pytest.param(SLICE, Job("10.0.0.1:8482", 2, 1, "TPU"), id="TPU slice"),
        pytest.param(SLICE | {"JAX_PLATFORMS": "cpu"}, None, id="TPU slice, for CPU"),
        pytest.param(
            SLICE | {"JAX_PLATFORMS": "tpu,cpu", "JAX_COORDINATOR_PORT": "99"},
            Job("10.0.0.1:99", 2, 1, "TPU"),
            id="TPU slice, another port",
        ),
        pytest.param(
            SLICE | SLICES | {"MEGASCALE_COORDINATOR_ADDRESS": "10.9.9.9:8080"},
            Job("10.9.9.9:8482", 4, 3, "TPU"),
            id="two TPU slices",
        ),
        pytest.param(
            SRUN | {"SLURM_STEP_NODELIST": "node[007-009,012],other"},
            Job("node007:61443", 4, 3, "SLURM"),
            id="srun",
        ),
        pytest.param(
            SRUN | {"SLURM_STEP_NODELIST": "a,b"}, Job("a:61443", 4, 3, "SLURM"), id="srun, names"
        ),
        pytest.param(SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None, id="srun of one task"),
        pytest.param(
            {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None, id="sbatch alone"
        ),
    ],
)
def test_the_environment_describes_the_job(environ, job):
    assert multihost.job_from_environment(environ) == job


def test_flags_go_together():
    assert multihost.job_from_options(Options()) is None
    assert multihost.job_from_options(Options("a:1", 2, 1)) == Job("a:1", 2, 1, "flags")
    assert multihost.job_from_options(Options("[::1]:9", 2, 0)).address == ("::1", 9)
    for options, message in [
        (Options(coordinator="a:1"), "go together: --num_processes, --process_id missing"),
        (Options(process_id=0, num_processes=2), "go together: --coordinator missing"),
        (Options("a:1", 2, 2), "--process_id=2: expected 0 to 1, as --num_processes=2"),
        (Options("host", 2, 0), "--coordinator=host: expected HOST:PORT"),
    ]:
        with pytest.raises(ValueError, match=message):
            multihost.job_from_options(options)


def test_a_tpu_vm_asks_its_metadata_server(monkeypatch):
    attributes = {
        "worker-network-endpoints": "unknown:1:10.0.0.1,unknown:2:10.0.0.2",
        "agent-worker-number": "1",
        "tpu-env": "ACCELERATOR_TYPE: 'v5'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n",
    }
    monkeypatch.setattr(multihost, "_attribute", attributes.get)
    assert multihost._tpu_metadata() == SLICE | SLICES
    attributes.clear()
    assert multihost._tpu_metadata() == {}


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _meet(port, processes, timeout=1.0):
    """Outcome of each process, named by its number and the number of all."""
    outcomes = {}

    def one(place, process, number):
        try:
            rendezvous.meet(Job(f"localhost:{port}", number, process, "flags"), timeout)
            outcomes[place] = "all there"
        except MissingProcessError as error:
            outcomes[place] = str(error)

    threads = [
        threading.Thread(target=one, args=(i, *numbers)) for i, numbers in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [outcomes[place] for place in range(len(processes))]


def test_every_process_learns_who_is_missing(port):
    assert _meet(port, [(0, 3), (1, 3), (2, 3)], 20) == ["all there"] * 3
    assert _meet(port, [(0, 2), (1, 2)], 20) == ["all there"] * 2  # The port is free again.
    for text in _meet(port, [(0, 4), (2, 4)]):
        assert text.startswith("processes [1, 3] of 4 did not come within 1 s to the coordinator")
        assert "--process_id=1" in text
    (text,) = _meet(port, [(1, 2)])
    assert text.startswith(f"process 0 of 2, the coordinator at localhost:{port}, was not reached")


def test_processes_that_do_not_fit_together_are_named(port):
    for text in _meet(port, [(0, 3), (2, 3), (2, 3)], 20):
        assert "were started as process 2 of 3" in text
    for text in _meet(port, [(0, 3), (1, 2)], 20):
        assert "as one of 2 processes," in text
    with socket.create_server(("", port)):
        (text,) = _meet(port, [(0, 2)])
        assert f"can't listen at port {port}" in text


def test_port_scanners_and_ended_processes_do_not_count(port):
    answers = []
    thread = threading.Thread(target=lambda: answers.extend(_meet(port, [(0, 2)], 2.0)))
    thread.start()
    for text in (b"GET / HTTP/1.0\n", b'{"process": 1, "of": 2, "host": "a"}'):  # And no newline.
        connection = _connected(port)
        connection.sendall(text)
        connection.close()
    thread.join(30)
    assert answers[0].startswith("process 1 of 2 did not come")


def _connected(port):
    for _ in range(100):
        try:
            return socket.create_connection(("localhost", port))
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nobody listens at {port}")


PROGRAM = """
import jax
from sft_jax import command_line
from sft_jax.parallel import multihost, preflight

def main():
    print(multihost.gather("x" * jax.process_index() + "y"))
    print(preflight.check_equal({"jax": f"0.{jax.process_index()}"}).problem)
    print(jax.process_index(), jax.process_count(), jax.device_count())

command_line.run(main, distributed=True)
"""


def _start(port, process, *flags):
    command = [sys.executable, "-c", PROGRAM, f"--coordinator=localhost:{port}"]
    command += ["--num_processes=2", f"--process_id={process}", *flags]
    environ = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environ, text=True, **pipes)


@pytest.mark.process
def test_two_processes_become_one_computation(port):
    started = [_start(port, process) for process in (0, 1)]
    try:
        for process, child in enumerate(started):
            stdout, stderr = child.communicate(timeout=120)
            assert child.returncode == 0, stderr
            texts, difference, numbers = stdout.splitlines()[-3:]
            assert texts == "['y', 'xy']"
            assert difference.startswith("process 1 (")
            assert "): jax 0.1, others 0.0;" in difference
            assert numbers == f"{process} 2 4"
    finally:
        for child in started:
            child.kill()


@pytest.mark.process
def test_a_process_left_alone_ends_with_an_error(port):
    alone = _start(port, 0, "--init_timeout=2")
    try:
        stdout, stderr = alone.communicate(timeout=120)
    finally:
        alone.kill()
    assert (alone.returncode, stdout) == (1, "")
    assert stderr.startswith("error: process 1 of 2 did not come within 2 s to the coordinator")
    assert "Traceback" not in stderr
