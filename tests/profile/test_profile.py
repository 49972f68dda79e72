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
from sft_jax.profile.results import accuracies

ROOT = pathlib.Path(__file__).parents[2]
WATCH = str(ROOT / "configs/watch.py")


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


def _write(path, *names):
    models = {name: {"accuracy_mean": i / 10, "accuracy_std": None} for i, name in enumerate(names)}
    path.write_text(json.dumps({"models": {**models, "no accuracy": {}}}))
    return path


def test_accuracies_are_found_by_name_or_argument(config, tmp_path):
    configs = profile.models_of(config)
    path = _write(tmp_path / "results.json", "random forest", "model=mbt,k=1", "model=mbt", "late")
    assert accuracies(path, configs, f"{WATCH}:model=mbt") == {
        "mbt": (0.2, None),
        "late": (0.3, None),
    }
    # The name of a model goes before an argument.
    path = _write(tmp_path / "results.json", "model=mbt", "mbt", "pool=attn_topk,k=4")
    assert accuracies(path, configs, WATCH) == {"mbt": (0.1, None), "sft": (0.2, None)}
    # Any difference makes another experiment, except the folders of the data.
    elsewhere = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir="x"))
    assert "sft" in accuracies(path, profile.models_of(elsewhere), WATCH)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=99))
    assert "sft" not in accuracies(path, profile.models_of(longer), WATCH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"models": {"svm": {"accuracy_mean": 1}}}', "has none of .* mbt, sft.* has 'svm'"),
        ('{"models": {}}', "it has no accuracy"),
        ("{}", "is not JSON with `models` by name"),
        ("[", "is not JSON with `models` by name"),
    ],
)
def test_unusable_results_are_refused(config, tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        accuracies(path, profile.models_of(config), WATCH)


@pytest.mark.process
def test_costs_are_counted_without_running_anything(tmp_path):
    file, picture = tmp_path / "new" / "cost.json", tmp_path / "cost.png"
    results = _write(tmp_path / "results.json", "pool=attn_topk")
    flags = ["--measure=false", "--models=late,sft", f"--json={file}", f"--picture={picture}"]
    program = [sys.executable, "-m", "sft_jax.profile", "--config=configs/watch.py"]
    done = subprocess.run(
        [*program, *flags, f"--results={results}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"written: {file}", f"written: {picture}"]
    report = json.loads(file.read_text())
    assert [*report["models"]] == ["sft", "late"]
    row = report["models"]["sft"]
    assert row["parameters"] == 67327
    assert sum(row["stage_flops"].values()) == row["forward_flops"]
    assert "train_step_seconds" not in row
    assert config_io.from_mapping(report["config"]).model.name == "sft"
    assert {"jax", "python", "sft_jax"} <= set(report["versions"])
    assert picture.read_bytes().startswith(b"\x89PNG")
