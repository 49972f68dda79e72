"""Several seeds in one start: each run equals one alone, and all share one compilation."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
import synthetic
from absl import flags
from ml_collections import config_flags

from sft_jax import config_io, experiment
from sft_jax.parallel import preemption
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import RunDirectory, RunDirectoryError, SeedsDirectory

pytestmark = pytest.mark.process


def config(*numbers, **changes):
    # With everything that draws at random, and a running mean.
    experiment = synthetic.config(
        model__pool="random", train__modality_dropout=0.2, train__ema_decay=0.9, **changes
    )
    return dataclasses.replace(experiment, seeds=numbers)


@pytest.fixture(scope="module")
def data():
    return synthetic.dataset()


def lines(folder):
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "train/input_wait"} for line in read]


def read_config(folder):
    return RunDirectory(folder).read_config()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, data):
    """Seeds 3, 1 and 0, told to end in the last evaluation of the second; and their programs."""
    workdir, seen, shared = tmp_path_factory.mktemp("seeds"), [], []
    assemble = experiment._assemble
    evaluate = experiment.Validation.__call__

    def signalling(evaluator, params):
        seen.append(evaluator)
        values = evaluate(evaluator, params)
        if len(seen) == 4:  # After the last step of the second seed.
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment.Validation, "__call__", signalling)
        patch.setattr(
            experiment,
            "_assemble",
            lambda *args, **options: shared.append(assemble(*args, **options)) or shared[0],
        )
        with pytest.raises(preemption.PreemptedError) as error:
            experiment.train_seeds(config(3, 1, 0), workdir, data)
    assert len(set(map(id, seen))) == 1
    return workdir, str(error.value), [*SeedsDirectory.existing(workdir).runs], shared[0]


@pytest.fixture(scope="module")
def trained(stopped, data):
    """The same command again."""
    return stopped[0], experiment.train_seeds(config(3, 1, 0), stopped[0], data)


def test_a_signal_at_the_end_of_a_seed_ends_the_process(stopped):
    workdir, message, folders, _ = stopped
    assert not [*workdir.rglob("lock.json")]
    assert message.startswith("stopped after seed 1, 2 of 3, which are saved in ")
    assert folders == [0, 1, 3]


def test_all_seeds_share_one_program(stopped, trained):
    _, results = trained
    compiles = {seed: result.train_compiles for seed, result in results.items()}
    assert compiles == {3: 0, 1: 0, 0: 1}
    *_, shared = stopped
    assert (shared.assembled.step._cache_size(), shared.validate.evaluators[1].compiles) == (1, 1)


def test_each_seed_equals_a_run_alone(trained, tmp_path, data):
    workdir, results = trained
    alone = experiment.train(dataclasses.replace(config(), seed=1), tmp_path, data)
    result, folder = results[1], workdir / "seed_1"
    assert result.workdir == folder
    assert result.steps == int(alone.state.step)
    assert (result.best_step, result.best_value) == (alone.best_step, alone.best_value)
    assert lines(folder) == lines(tmp_path)
    assert lines(folder) != lines(workdir / "seed_0")
    assert read_config(folder) == read_config(tmp_path)
    checkpoints = Checkpoints(folder, read_only=True)
    state, saved = checkpoints.restore("latest", alone.state)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, state, alone.state)
    assert config_io.from_mapping(saved["config"]) == read_config(folder)
    # And goes on, or does nothing more, as a run of its own.
    again = experiment.train(dataclasses.replace(config(), seed=1), folder, data)
    assert again.train_compiles == 0


def test_more_seeds_need_the_same_settings(trained, data):
    workdir, _ = trained
    with pytest.raises(
        RunDirectoryError, match=r"seed_0 was made by another[\s\S]*model.k: 2 -> 3"
    ):
        SeedsDirectory.open(workdir, config(2, model__k=3))
    assert not (workdir / "seed_2").exists()
    with pytest.raises(
        RunDirectoryError, match=r"seed_3 was made by another[\s\S]*model.k: 2 -> 3"
    ):
        SeedsDirectory.open(workdir, config(3, 1, 0, model__k=3))
    assert read_config(workdir) == config(3, 1, 0)


def test_runs_with_and_without_seeds_do_not_share_a_folder(tmp_path, data):
    SeedsDirectory.open(tmp_path / "many", config(0, 1))
    with pytest.raises(RunDirectoryError, match=r"many holds the runs of seeds=\(0, 1\)"):
        experiment.train(config(), tmp_path / "many", data)
    RunDirectory.open(tmp_path / "one", config())
    with pytest.raises(RunDirectoryError, match="one holds a run without seeds"):
        experiment.train_seeds(config(0), tmp_path / "one", data)
    with pytest.raises(ValueError, match=r"seeds=\(0,\): train trains one run"):
        experiment.train(config(0), tmp_path / "new", data)
    with pytest.raises(ValueError, match="train_seeds needs at least one"):
        experiment.train_seeds(config(), tmp_path / "new", data)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "expected"), [("0,1,2", (0, 1, 2)), ("3", (3,)), ("(0, 1)", (0, 1)), ("()", ())]
)
def test_seeds_are_given_on_the_command_line(monkeypatch, text, expected):
    values, argv = flags.FlagValues(), ["train.py", f"--config.seeds={text}"]
    monkeypatch.setattr("sys.argv", argv)  # Where it finds overrides.
    default = config_io.to_config_dict(config())
    config_flags.DEFINE_config_dict("config", default, flag_values=values)
    values(argv)
    assert config_io.from_mapping(values.config).seeds == expected
