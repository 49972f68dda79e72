"""The command `python -m sft_jax.profile`."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from configs import watch
from sft_jax import config_io
from sft_jax.data.outline import outline
from sft_jax.profile import __main__ as profile

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config():
    return config_io.from_mapping(watch.get_config("model=mbt"))


def test_the_configs_own_model_comes_first(config):
    assert [*profile.models_of(config)] == ["mbt", "sft", "mult", "late", "concat"]
    chosen = profile.models_of(config, ["late", "mbt", "late"])
    assert [*chosen] == ["mbt", "late"]
    assert {name: chosen[name].model.name for name in chosen} == {"mbt": "mbt", "late": "late"}
    alone = config_io.from_mapping(watch.get_config("model=unimodal,modality=gyroscope"))
    assert next(iter(profile.models_of(alone))) == "unimodal"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sft", "mbp"], r"--models: unknown model \['mbp'\], known: sft, late,"),
        ([], "--models names none"),
    ],
)
def test_unknown_models_are_refused(config, names, message):
    with pytest.raises(ValueError, match=message):
        profile.models_of(config, names)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", ""])
def test_wrong_batch_sizes_are_refused(text):
    assert profile.batch_sizes(["1", "8"]) == [1, 8]
    with pytest.raises(ValueError, match=f"--batch_sizes: {text}: expected whole numbers"):
        profile.batch_sizes(["1", text])


def test_models_that_do_not_fit_are_left_out_by_default(config, capsys):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, n_pre=0))
    data = outline(config.data)
    configs = profile.models_of(config, ["mbt", "mult"])
    assert [*profile._count(configs, data, optional=True)] == ["mbt"]
    assert "without mult: CrossmodalTransformer: n_pre=0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="n_pre=0"):
        profile._count(configs, data, optional=False)


@pytest.mark.process
def test_costs_are_counted_without_running_anything(tmp_path):
    file, picture = tmp_path / "new" / "cost.json", tmp_path / "cost.png"
    flags = ["--measure=false", "--models=late,sft", f"--json={file}", f"--picture={picture}"]
    program = [sys.executable, "-m", "sft_jax.profile", "--config=configs/watch.py"]
    done = subprocess.run([*program, *flags], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"written: {file}", f"written: {picture}"]
    report = json.loads(file.read_text())
    assert [*report["models"]] == ["sft", "late"]
    row = report["models"]["sft"]
    assert row["parameters"] == 103487
    assert sum(row["stage_flops"].values()) == row["forward_flops"]
    assert "train_step_seconds" not in row
    assert config_io.from_mapping(report["config"]).model.name == "sft"
    assert {"jax", "python", "sft_jax"} <= set(report["versions"])
    assert picture.read_bytes().startswith(b"\x89PNG")
