"""Wrong command lines end at once in a clear message, before anything is written."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "--config=configs/watch.py"


def _run(program, *arguments):
    return subprocess.run(
        [sys.executable, program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def _assert_fails(result, *messages):
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 4, result.stderr
    for message in messages:
        assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        pytest.param(
            [CONFIG, "--config.optim.lrr=1", "--config.optin.lr=1", "--config.seed.x=1"],
            [
                "unknown config key 'optim.lrr': did you mean 'lr'? allowed here: clip_norm, lr,",
                "unknown config key 'optin.lr': did you mean 'optim'? allowed here: data, mixup,",
                "unknown config key 'seed.x': allowed here: nothing",
            ],
            id="unknown keys",
        ),
        pytest.param(
            [CONFIG, "--config.optim.lr=fast"], ["--config.optim.lr=fast", "float"], id="wrong type"
        ),
        pytest.param(
            [f"{CONFIG}:pool=mean", "--config.optim.lr=-1"],
            [
                "model.pool: Input should be 'max', 'avg', 'attn', 'attn_topk',",
                "optim.lr: Input should be greater than 0, got -1.0",
            ],
            id="wrong values",
        ),
        pytest.param(
            [f"{CONFIG}:pol=max"],
            ["'pol=max': expected KEY=VALUE with a key of ['k', 'leave_out', 'mixup', 'modality',"],
            id="wrong config argument",
        ),
        pytest.param(
            ["--config=configs/wach.py"], ["no config file 'configs/wach.py'"], id="no file"
        ),
        pytest.param(
            [CONFIG, "--wrokdir=runs"],
            ["flag 'wrokdir'", "Did you mean: workdir"],
            id="unknown flag",
        ),
        pytest.param([CONFIG, "runs/x"], ["unexpected arguments ['runs/x']"], id="positional"),
    ],
)
def test_train_rejects_wrong_flags(tmp_path, arguments, messages):
    workdir = tmp_path / "run"
    result = _run("train.py", *arguments, f"--workdir={workdir}")
    _assert_fails(result, *messages)
    assert not workdir.exists()


def test_train_needs_a_workdir():
    _assert_fails(_run("train.py", CONFIG), "--workdir must have a value")


def test_train_names_a_workdir_that_it_can_not_write_to(tmp_path):
    # Below a file: even root can't make a folder there.
    file = tmp_path / "file"
    file.touch()
    result = _run("train.py", CONFIG, f"--workdir={file / 'run'}")
    _assert_fails(result, f"can't write to workdir {file / 'run'}: Not a directory")


def test_eval_names_a_folder_that_is_no_run_directory(tmp_path):
    result = _run("eval.py", f"--workdir={tmp_path}")
    _assert_fails(result, f"{tmp_path} is not a run directory: it has no config.json")
    assert list(tmp_path.iterdir()) == []
