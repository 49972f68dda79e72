"""A run directory has one owner; the lock of a dead owner keeps nobody out."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import fake_bucket
import jax
import pytest
import synthetic

from sft_jax import experiment
from sft_jax.runs import locks, ownership
from sft_jax.runs.directory import RunDirectoryError
from sft_jax.runs.owner import Owner
from sft_jax.runs.ownership import owned

# Starts a copy of itself, which would keep what it inherits.
PROGRAM = """
import os, pathlib, sys, time
from sft_jax.runs.ownership import owned
import warnings; warnings.simplefilter("ignore")
with owned(*map(pathlib.Path, sys.argv[1:])):
    copy = os.fork()
    if copy:
        print(copy, flush=True)
    time.sleep(100)
"""


def _folder(request, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_SETTLE_SECONDS", 0.0)
    if request.param == "bucket":
        return fake_bucket.install(monkeypatch) / "run"
    if request.param == "file":
        monkeypatch.setattr(locks, "_flock", lambda file: None)
    return tmp_path / "run"


@pytest.fixture(params=["kernel", "file", "bucket"])
def folder(request, tmp_path, monkeypatch):
    """Folder whose lock is the kernel's, a file alone, or an object."""
    return _folder(request, tmp_path, monkeypatch)


@pytest.fixture(params=["file", "bucket"])
def unlocked(request, tmp_path, monkeypatch):
    """Folder whose lock is a file alone, or an object."""
    return _folder(request, tmp_path, monkeypatch)


def left(folder, seconds=0.0, **changes):
    """Leaves the lock of an owner whose last sign is some seconds old."""
    folder.mkdir(parents=True, exist_ok=True)
    then = time.time() - seconds
    owner = dataclasses.replace(Owner.this_process(), refreshed=then, **changes)
    path = folder / "lock.json"
    path.write_text(owner.to_text())
    if isinstance(folder, pathlib.PosixPath):
        os.utime(path, (then, then))
    return owner


def taken(folder):
    with owned(folder):
        return Owner.named_by(folder / "lock.json").token


def test_a_second_start_is_refused_and_the_owner_named(folder):
    with owned(folder):
        lock = json.loads((folder / "lock.json").read_text())
        with (
            pytest.raises(RunDirectoryError, match="is in use by process") as error,
            owned(folder),
        ):
            pass
        who = f"by process {os.getpid()} on host {socket.gethostname()}, since {lock['since']}"
        assert who in str(error.value)
        assert str(folder) in str(error.value)
        assert json.loads((folder / "lock.json").read_text()) == lock
    assert not (folder / "lock.json").exists()
    assert taken(folder)


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit])
def test_no_lock_survives_an_error(tmp_path, raised):
    def train():
        with owned(tmp_path / "a", tmp_path / "a/seed_0", tmp_path / "b"):
            (tmp_path / "b" / "kept").touch()
            raise raised

    with pytest.raises(raised):
        train()
    # Neither do folders that were made for nothing.
    assert [*tmp_path.rglob("*")] == [tmp_path / "b", tmp_path / "b" / "kept"]


@pytest.mark.process
def test_a_killed_owner_and_its_forks_keep_nobody_out(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    first = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path / "seed_1")],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    copy = int(first.stdout.readline())
    try:
        for held in (tmp_path, tmp_path / "seed_1"):
            with pytest.raises(RunDirectoryError, match=f"by process {first.pid} on host"):
                taken(held)
        first.kill()
        # Not even when it has not been waited for.
        while pathlib.Path(f"/proc/{first.pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        for free in (tmp_path, tmp_path / "seed_1"):
            assert taken(free)
    finally:
        os.kill(copy, signal.SIGKILL)
        first.kill()
        first.communicate()


@pytest.mark.process
def test_a_dead_process_is_known_by_its_number_and_start(unlocked):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    assert Owner.named_by(unlocked / "lock.json") is None
    left(unlocked, process=ended.pid)
    ended.wait()
    assert taken(unlocked)
    # Its number is another's by now, as that of a container's first process always is.
    left(unlocked, born=Owner.this_process().born - 1)
    assert taken(unlocked)
    # An end of this process itself that was interrupted.
    left(unlocked)
    assert taken(unlocked)


@pytest.mark.parametrize("where", ["machine", "namespace"])
def test_an_invisible_owner_holds_its_lock_until_it_lapses(unlocked, where):
    left(unlocked, seconds=60, host="far", process=1, **{where: "another"})
    message = r"by process 1 on host far, since .* lapses in 1[12]\d s, 180 s after the last sign"
    with pytest.raises(RunDirectoryError, match=message):
        taken(unlocked)
    left(unlocked, seconds=200, host="far", process=1, **{where: "another"})
    assert taken(unlocked)


def test_the_kernel_knows_containers_on_its_machine_alone(tmp_path):
    left(tmp_path, process=1, host="container", namespace="another")
    assert taken(tmp_path)
    left(tmp_path, process=1, host="far", machine="another")
    with pytest.raises(RunDirectoryError, match="by process 1 on host far, since"):
        taken(tmp_path)
    (tmp_path / "lock.json").write_text('{"host": "cut sh')  # By a kill.
    assert taken(tmp_path)


def test_an_owner_refreshes_its_lock(folder, monkeypatch):
    monkeypatch.setattr(ownership, "REFRESH_SECONDS", 0.01)
    with owned(folder) as mine:
        path = folder / "lock.json"
        before = _sign(path)
        while _sign(path) == before:
            time.sleep(0.01)
        path.unlink()
        while not path.exists():
            time.sleep(0.01)
        mine.check()
    assert not path.exists()


def _sign(path):
    local = isinstance(path, pathlib.PosixPath) and not str(path).startswith("gs:")
    return os.stat(path).st_mtime_ns if local else Owner.named_by(path)


def test_a_replaced_owner_ends(folder, monkeypatch):
    monkeypatch.setattr(ownership, "REFRESH_SECONDS", 0.01)
    with owned(folder) as mine:
        other = left(folder, host="far", machine="another")
        while not mine._lost:
            time.sleep(0.01)
        with pytest.raises(RunDirectoryError, match="another took it"):
            mine.check()
    assert Owner.named_by(folder / "lock.json") == other


def test_the_first_of_several_processes_is_the_owner(tmp_path, monkeypatch):
    with owned(tmp_path):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with owned(tmp_path) as other:
            other.check()


def test_seeds_and_the_folders_of_seeds_have_one_owner(tmp_path):
    alone = synthetic.config(train__epochs=1)
    many = dataclasses.replace(alone, seeds=(0, 1))
    data = synthetic.dataset()
    for held, start in (
        (tmp_path / "seed_1", lambda: experiment.train_seeds(many, tmp_path, data)),
        (tmp_path, lambda: experiment.train_seeds(many, tmp_path, data)),
        (tmp_path, lambda: experiment.train(alone, tmp_path, data)),
        (tmp_path / "seed_0", lambda: experiment.train(alone, tmp_path / "seed_0", data)),
    ):
        with owned(held):
            before = sorted(tmp_path.rglob("*"))
            with pytest.raises(RunDirectoryError, match=f"^{held} is in use by process"):
                start()
            assert sorted(tmp_path.rglob("*")) == before
    # Each by itself, side by side.
    with owned(tmp_path / "seed_0"), owned(tmp_path / "seed_1"):
        pass


def test_a_folder_without_write_access_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunDirectoryError, match=r"can't write to workdir .*file/run: Not a dir"),
        owned(tmp_path / "file" / "run"),
    ):
        pass
