"""Wrong command lines end at once in a clear message, before anything is written."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from sft_jax import command_line

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "--config=configs/watch.py"


def _run(program, *arguments):
    return subprocess.run(
        [sys.executable, program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def _assert_fails(result, *messages):
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 4, result.stderr
    for message in messages:
        assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        pytest.param(
            [CONFIG, "--config.optim.lrr=1", "--config.optin.lr=1", "--config.seed.x=1"],
            [
                "unknown config key 'optim.lrr': did you mean 'lr'? allowed here: clip_norm, ",
                "unknown config key 'optin.lr': did you mean 'optim'? allowed here: data, mesh,",
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
                "model.pool: 'mean' is not one of max, avg, attn, attn_topk,",
                "optim.lr: Input should be greater than 0, got -1.0",
            ],
            id="wrong values",
        ),
        pytest.param(
            [f"{CONFIG}:pol=max"],
            ["'pol=max' is not KEY=VALUE with a known key: did you mean 'pool'? allowed here: k,"],
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


@pytest.mark.process
def test_train_needs_a_workdir():
    _assert_fails(_run("train.py", CONFIG), "--workdir must have a value")


@pytest.mark.process
def test_train_names_a_workdir_without_write_access(tmp_path):
    # Below a file: even root can't make a folder there.
    file = tmp_path / "file"
    file.touch()
    result = _run("train.py", CONFIG, f"--workdir={file / 'run'}")
    _assert_fails(result, f"can't write to workdir {file / 'run'}: Not a directory")


@pytest.mark.process
def test_eval_names_a_folder_that_is_no_run_directory(tmp_path):
    result = _run("eval.py", f"--workdir={tmp_path}")
    _assert_fails(result, f"{tmp_path} is not a run directory: it has no config.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["sft_jax.compare", "none", "--split=valid", "nor"], ["none: there is no such run"]),
        (
            ["sft_jax.sweep", CONFIG, "--grid=model.k=40,4;optim.lr=1,x", "--workdir=none"],
            ["3 of 4 runs are invalid:", "model.k=40,optim.lr=1: SparseFusionTransformer: k=40"],
        ),
    ],
    ids=["compare", "sweep"],
)
def test_wrong_runs_and_combinations_are_named(arguments, messages):
    result = _run("-m", *arguments)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for message in messages:
        assert message in result.stderr
    assert not (ROOT / "none").exists()


CACHED = """
import jax
from sft_jax import command_line

def main():
    jax.monitoring.register_event_listener(lambda name, **_: print(name.rpartition("/")[-1]))
    jax.jit(lambda x: x @ x)(jax.numpy.ones(8))
    print(jax.config.jax_compilation_cache_dir)

command_line.run(main, compilation_cache=True)
"""


def _run_cached(home):
    env = {**os.environ, "HOME": str(home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    env = {k: v for k, v in env.items() if k not in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")}
    command = [sys.executable, "-W", "error", "-c", CACHED]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *events, folder = done.stdout.splitlines()
    return set(events), pathlib.Path(folder)


@pytest.mark.process
def test_a_second_start_loads_the_compiled_programs(tmp_path):
    events, folder = _run_cached(tmp_path)
    assert folder.parent == tmp_path / ".cache" / "sft_jax"
    assert "cache_misses" in events
    assert "cache_hits" not in events
    kept = sorted(folder.iterdir())
    events, _ = _run_cached(tmp_path)
    assert "cache_hits" in events
    assert "cache_misses" not in events
    assert sorted(folder.iterdir()) == kept != []


@pytest.fixture
def cache_config(monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name in (*names, "xdg_cache_home"):
        monkeypatch.delenv(name.upper(), raising=False)
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_first_named_cache_folder_is_used(cache_config, tmp_path):
    def chosen(flag):
        jax.config.update("jax_compilation_cache_dir", "before")
        command_line._keep_compiled(flag)
        return jax.config.jax_compilation_cache_dir

    cores = f"cores_{len(os.sched_getaffinity(0))}"
    cache_config.setenv("HOME", str(tmp_path / "home"))
    assert chosen(None) == str(tmp_path / "home" / ".cache" / "sft_jax" / cores)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == command_line.CACHED_FROM_SECONDS
    assert chosen("~/flag") == str(tmp_path / "home" / "flag" / cores)
    assert chosen("gs://bucket/flag") == f"gs://bucket/flag/{cores}"
    cache_config.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert chosen(None) == str(tmp_path / "xdg" / "sft_jax" / cores)
    cache_config.setenv("JAX_COMPILATION_CACHE_DIR", "of JAX")
    assert chosen(None) == "before"  # JAX itself has read it.
    assert chosen(str(tmp_path / "flag")) == str(tmp_path / "flag" / cores)
    assert chosen("") is None


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # By ml_collections.
@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ([], None),
        (["--config.system.compilation_cache=config"], "config"),
        (["--config.system.compilation_cache=config", "--compilation_cache=flag"], "flag"),
        (["--config.system.compilation_cache=config", "--compilation_cache="], ""),
    ],
)
def test_the_cache_flag_goes_before_the_config(monkeypatch, arguments, folder):
    values = flags.FlagValues()
    flags.DEFINE_string("compilation_cache", None, "", flag_values=values)
    config_flags.DEFINE_config_file("config", flag_values=values)
    # ml_collections finds overrides here.
    monkeypatch.setattr(sys, "argv", ["train.py", CONFIG, *arguments])
    values(sys.argv)
    assert command_line._cache_folder(values) == folder


def test_a_cache_without_write_access_is_left_out(cache_config, tmp_path, caplog):
    (tmp_path / "file").touch()
    command_line._keep_compiled(str(tmp_path / "file" / "cache"))
    assert jax.config.jax_compilation_cache_dir is None
    (message,) = caplog.messages
    assert message.startswith("compiled programs are not kept for later starts: [Errno 20] Not a")
