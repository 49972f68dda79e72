"""A sweep checks all runs first, goes on after failures and stops, and repeats none."""

import csv
import re

import jax
import numpy as np
import pytest
import synthetic

from sft_jax import config_io, experiment
from sft_jax.compare.comparison import compare
from sft_jax.compare.rows import Request
from sft_jax.parallel import preemption
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import RunDirectory, RunDirectoryError
from sft_jax.sweep import __main__ as command
from sft_jax.sweep import runs
from sft_jax.sweep.grid import read_grid
from sft_jax.training import loop


def _base():
    return config_io.to_config_dict(synthetic.config(train__epochs=1, optim__warmup_epochs=0.5))


@pytest.fixture(scope="module")
def data():
    return synthetic.dataset(train=16, valid=8)


def _plan(grid, workdir, data):
    return runs.plan(_base(), read_grid(grid), workdir, data)


def _table(workdir):
    lines = (workdir / "sweep.csv").read_text().splitlines()
    return {row["run"]: row for row in csv.DictReader(lines)}


def test_every_run_is_checked_before_the_first_starts(tmp_path, data):
    with pytest.raises(ValueError, match="3 of 4 runs are invalid") as error:
        _plan("model.name=sft,mult;model.k=1,99", tmp_path / "sweep", data)
    problems = str(error.value).splitlines()[1:]
    assert problems[0].startswith("model.name=sft,model.k=99: SparseFusionTransformer: k=99 for")
    assert problems[1].startswith("model.name=mult,model.k=1: CrossmodalTransformer: n_pre=0")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("model.task=regression", "model.task='regression' does not fit the dataset"),
        ("optim.warmup_epochs=0.5,1.5", "1 of 2 runs are invalid:\noptim.warmup_epochs=1.5: "),
        ("model.modality=a,'a'", "two runs would be named model.modality=a: {'model."),
    ],
)
def test_runs_that_do_not_fit_are_named(tmp_path, data, grid, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _plan(grid, tmp_path, data)


def test_a_run_directory_is_no_folder_of_a_sweep(tmp_path, data):
    RunDirectory.open(tmp_path, synthetic.config())
    with pytest.raises(RunDirectoryError, match="is a run directory: give a sweep another"):
        _plan("model.k=1", tmp_path, data)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # By ml_collections.
def test_the_command_names_its_runs(tmp_path, capsys):
    file = tmp_path / "list.txt"
    file.write_text("model.name=late")
    arguments = ["--config=watch", f"--workdir={tmp_path / 'sweep'}", "--dry_run"]
    with pytest.raises(ValueError, match="a sweep needs --grid, --list or both"):
        synthetic.run_command(command, *arguments)
    synthetic.run_command(command, *arguments, "--grid=model.k=1,4", f"--list={file}", "--random=3")
    names = ["model.k=1", "model.k=4", "model.name=late"]
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/sweep/{name}" for name in names]
    assert [*tmp_path.iterdir()] == [file]


def test_each_fold_is_a_run_of_its_own(tmp_path):
    base = config_io.to_config_dict(synthetic.config())
    planned = runs.plan(base, read_grid("model.k=1;data.folds=3"), tmp_path)
    assert [run.name for run in planned] == [f"model.k=1,data.folds=3/fold_{i}" for i in range(3)]
    assert [run.config.data.fold for run in planned] == [0, 1, 2]
    assert [run.combination["data.fold"] for run in planned] == ["0", "1", "2"]
    assert planned[2].path == tmp_path / planned[2].name
    with pytest.raises(ValueError, match="folds=2: expected 0, or 3 to 10"):
        runs.plan(base, read_grid("data.folds=2"), tmp_path)


def test_a_stop_ends_the_sweep(tmp_path, data, monkeypatch):
    def stopped(config, workdir, dataset, **_):
        raise preemption.PreemptedError("stopped at step 3")

    monkeypatch.setattr(experiment, "train", stopped)
    with pytest.raises(preemption.PreemptedError):
        runs.train_all(_plan("model.k=1,2", tmp_path, data), tmp_path, data)
    assert [row["state"] for row in _table(tmp_path).values()] == ["running", "waiting"]


@pytest.mark.process
def test_failures_are_named_and_finished_runs_left_alone(tmp_path, data, monkeypatch):
    started, train = [], experiment.train

    def failing(config, workdir, dataset, **options):
        started.append(workdir.name)
        if config.optim.lr == 7:
            raise loop.NonFiniteError("step 3: not finite")
        return train(config, workdir, dataset, **options)

    monkeypatch.setattr(experiment, "train", failing)
    planned = _plan("optim.lr=7,0.01", tmp_path, data)
    ends = []
    outcomes = runs.train_all(planned, tmp_path, data, show=ends.append)
    assert ends == outcomes
    assert [outcome.state for outcome in outcomes] == ["failed", "done"]
    assert outcomes[0].error == "NonFiniteError: step 3: not finite"
    failed, done = _table(tmp_path).values()
    assert (failed["optim.lr"], failed["error"]) == ("7", outcomes[0].error)
    assert (done["optim.lr"], done["error"]) == ("0.01", "")
    assert float(done["mean"]) == runs.mean(outcomes[1]) == outcomes[1].best[0]

    started.clear()
    assert runs.train_all(planned, tmp_path, data)[1] == outcomes[1]
    assert started == ["optim.lr=7"]
    # A finished run of another config is not taken for this one.
    base = config_io.to_config_dict(synthetic.config(train__epochs=1, optim__warmup_epochs=0.25))
    other = runs.plan(base, read_grid("optim.lr=0.01"), tmp_path, data)
    (outcome,) = runs.train_all(other, tmp_path, data)
    assert "optim.warmup_epochs: 0.5 -> 0.25" in outcome.error

    RunDirectory.open(tmp_path / "optim.lr=7", planned[0].config)
    result = compare([tmp_path], request=Request("valid", dataset=data), measure=False)
    assert [line.name for line in result.lines] == ["optim.lr=0.01"]
    assert [note.split(":")[0] for note in result.notes] == ["without optim.lr=7"]


@pytest.mark.process
def test_six_rates_compile_as_much_as_one(tmp_path, data):
    planned = _plan("optim.lr=0.01,0.02,0.03;optim.weight_decay=0.1,0.2", tmp_path, data)
    compiled, after, count = [], [], "/jax/core/compile/backend_compile_duration"

    def listen(event, seconds, **_):
        if event == count:
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        outcomes = runs.train_all(
            planned, tmp_path, data, show=lambda _: after.append(len(compiled))
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert [outcome.state for outcome in outcomes] == 6 * ["done"]
    assert after[0] >= 3
    assert after[-1] == after[0]

    alone = experiment.train(planned[3].config, tmp_path / "alone", data)
    checkpoints = Checkpoints(planned[3].path, read_only=True)
    state, _ = checkpoints.restore("latest", alone.state)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, state, alone.state)
