"""Runs side by side: each has a device of its own, and one signal stops all."""

import os
import signal
import threading
import time

import jax
import numpy as np
import pytest
import synthetic

from sft_jax import config_io, experiment
from sft_jax.parallel import preemption
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.sweep import devices, runs
from sft_jax.sweep.grid import read_grid

SECONDS = 60


@pytest.fixture(scope="module")
def data():
    return synthetic.dataset(train=16, valid=8)


def _plan(grid, workdir, data):
    base = config_io.to_config_dict(synthetic.config(train__epochs=1, optim__warmup_epochs=0.5))
    return runs.plan(base, read_grid(grid), workdir, data, jax.devices()[:1])


def test_each_device_trains_a_run_at_a_time(tmp_path, data, monkeypatch):
    both, places = threading.Barrier(2, timeout=SECONDS), {}

    def train(config, workdir, dataset, *, devices, shared):
        both.wait()  # An error unless two runs are in training.
        (places[workdir.name],) = devices
        assert jax.numpy.zeros(()).devices() == {*devices}
        if config.seed == 2:
            raise ArithmeticError("not finite")

    monkeypatch.setattr(experiment, "train", train)
    planned = _plan("seed=1,2,3,4", tmp_path, data)
    outcomes = runs.train_all(planned, tmp_path, data, devices=jax.devices()[2:4])
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "done", "done"]
    assert outcomes[1].error == "ArithmeticError: not finite"
    assert {*places.values()} == {*jax.devices()[2:4]}
    assert len(places) == 4


def test_one_signal_stops_the_runs_of_all_devices(tmp_path, data, monkeypatch):
    both, started = threading.Barrier(2, timeout=SECONDS), []

    def train(config, workdir, dataset, **_):
        started.append(config.seed)
        with preemption.watch() as notice:
            if both.wait() == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            while not notice.reached():
                time.sleep(0.01)
        raise preemption.PreemptedError(f"stopped seed {config.seed}")

    monkeypatch.setattr(experiment, "train", train)
    with pytest.raises(preemption.PreemptedError, match="stopped seed"):
        runs.train_all(
            _plan("seed=1,2,3", tmp_path, data), tmp_path, data, devices=jax.devices()[:2]
        )
    assert sorted(started) == [1, 2]


def test_a_single_device_is_named(caplog, monkeypatch):
    assert devices.several() == jax.devices()
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    with caplog.at_level("INFO"):
        assert devices.several() == []
    assert "there is one device, cpu:0: the runs are trained one after" in caplog.text


@pytest.mark.process
def test_runs_side_by_side_equal_runs_alone(tmp_path, data):
    planned = _plan("optim.lr=0.01,0.02", tmp_path, data)
    outcomes = runs.train_all(planned, tmp_path, data, devices=jax.devices()[:2])
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    alone = experiment.train(planned[1].config, tmp_path / "alone", data, devices=jax.devices()[:1])
    checkpoints = Checkpoints(planned[1].path, read_only=True)
    state, _ = checkpoints.restore("latest", alone.state)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, state, alone.state)
    assert outcomes[1].best == {0: alone.best_value}
