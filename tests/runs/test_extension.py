"""Runs that go on to more epochs than they were started with."""

import dataclasses
import json
import re
import sys

import jax
import numpy as np
import pytest
import synthetic

from sft_jax import experiment
from sft_jax.commands import train
from sft_jax.runs.directory import RunDirectory, RunDirectoryError, SeedsDirectory
from sft_jax.runs.extension import extension
from sft_jax.training import optim


def _begun(path, config):
    RunDirectory.open(path, config)
    (path / "checkpoints" / "latest" / "7").mkdir(parents=True)


def _config(epochs, schedule="constant", **changes):
    return synthetic.config(train__epochs=epochs, optim__schedule=schedule, **changes)


def test_an_extension_is_recorded(tmp_path):
    _begun(tmp_path, _config(2))
    run = RunDirectory.open(tmp_path, _config(5), extend=True)
    assert run.read_config() == _config(5)
    start = run.read_starts()[-1]
    assert start["changed"] == ["train.epochs: 2 -> 5"]
    note = start["extended"].pop("note")
    assert start["extended"] == {"before": 2, "epochs": 5, "exact": True}
    assert note.endswith("the result is that of a run of 5 epochs from the start")
    # The same command resumes the longer run.
    RunDirectory.open(tmp_path, _config(5), extend=True)
    assert "extended" not in run.read_starts()[-1]


def test_other_epochs_need_to_be_more_and_asked_for(tmp_path):
    _begun(tmp_path, _config(4))
    for epochs, extend in ((6, False), (2, False), (2, True)):
        with pytest.raises(RunDirectoryError) as error:
            RunDirectory.open(tmp_path, _config(epochs), extend=extend)
        assert str(error.value).splitlines()[1:] == [
            f"  train.epochs: 4 -> {epochs}",
            "More train.epochs are allowed with --extend; fewer never are",
        ]
    with pytest.raises(RunDirectoryError) as error:
        RunDirectory.open(tmp_path, _config(6, optim__lr=0.5), extend=True)
    assert str(error.value).splitlines()[1:] == ["  optim.lr: 0.01 -> 0.5"]
    assert RunDirectory(tmp_path).read_config() == _config(4)


def test_a_run_without_checkpoints_is_not_extended(tmp_path):
    RunDirectory.open(tmp_path / "one", _config(2))
    with pytest.raises(RunDirectoryError, match="one has no checkpoint to extend: leave --extend"):
        RunDirectory.open(tmp_path / "one", _config(3), extend=True)
    many = dataclasses.replace(_config(3), seeds=(0, 1))
    with pytest.raises(RunDirectoryError, match="many has no checkpoint to extend"):
        SeedsDirectory.open(tmp_path / "many", many, extend=True)
    _begun(tmp_path / "many" / "seed_0", _config(2))  # Seed 1 begins.
    SeedsDirectory.open(tmp_path / "many", many, extend=True)
    assert RunDirectory(tmp_path / "many" / "seed_0").read_config() == _config(3)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_the_rate_after_a_cosine_is_stated(warmup):
    old = _config(4, "cosine", optim__warmup_epochs=warmup)
    result = extension(old, _config(10, "cosine", optim__warmup_epochs=warmup))
    rates = [float(optim.make_schedule(old.optim, 100, n)(400)) for n in (400, 1000)]
    stated = re.search(r"After epoch 4 its learning rate is ([\d.e-]+),", result.note)[1]
    assert not result.exact
    np.testing.assert_allclose(float(stated), rates[1], rtol=1e-2)
    assert rates[0] == 0


def test_an_evaluation_between_two_is_stated():
    def effect(schedule, every):
        old = _config(3, schedule, train__evaluate_every_epochs=every)
        result = extension(old, _config(6, schedule))
        return result.exact, result.note

    for schedule in ("constant", "plateau"):
        assert effect(schedule, 3)[0]
        assert effect(schedule, 3)[1].endswith("from the start")
    assert effect("constant", 2)[0]
    assert effect("constant", 2)[1].endswith("the best checkpoint may be that after epoch 3")
    exact, note = effect("plateau", 2)
    assert not exact
    assert "has none after epoch 3" in note


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # By ml_collections.
def test_the_flag_reaches_the_run(tmp_path, monkeypatch):
    class Result(Exception):
        pass

    def stop(config, workdir, *, extend):
        raise Result(config.seeds, extend)

    monkeypatch.setattr(experiment, "train", stop)
    monkeypatch.setattr(experiment, "train_seeds", stop)
    arguments = ("--config=configs/watch.py", f"--workdir={tmp_path}")
    for own, expected in (
        ((), ((), False)),
        (("--extend",), ((), True)),
        (("--extend", "--config.seeds=1,"), ((1,), True)),
    ):
        # Overrides of a config are read from the command line of the process.
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *own])
        with pytest.raises(Result) as result:
            synthetic.run_command(train, *arguments, *own)
        assert result.value.args == expected


@pytest.mark.process
def test_an_extended_run_equals_a_longer_one(tmp_path):
    def config(epochs):
        return _config(epochs, train__ema_decay=0.9, model__pool="random")

    synthetic.run(tmp_path / "extended", config(2))
    extended, _ = synthetic.run(tmp_path / "extended", config(4), extend=True)
    longer, _ = synthetic.run(tmp_path / "longer", config(4))
    assert longer.state.step == 25
    jax.tree.map(np.testing.assert_array_equal, extended.state, longer.state)
    assert (extended.best_step, extended.best_value) == (longer.best_step, longer.best_value)

    def reports(name):
        text = (tmp_path / name / "metrics.jsonl").read_text()
        lines = map(json.loads, text.splitlines())
        return [{k: v for k, v in line.items() if k != "train/input_wait"} for line in lines]

    assert reports("extended") == reports("longer")
