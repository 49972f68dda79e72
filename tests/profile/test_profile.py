"""The command that says what models cost."""

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
WATCH = str(ROOT / "configs/watch.py")


@pytest.fixture(scope="module")
def config():
    return config_io.from_mapping(watch.get_config("model=mbt"))


def test_the_configs_own_model_comes_first(config):
    assert [*profile.models_of(config)] == ["mbt", "sft", "mult", "late", "concat"]
    chosen = profile.models_of(config, ["late", "mbt", "late"])
    assert [*chosen] == ["mbt", "late"]
    assert {name: of.model.name for name, of in chosen.items()} == {"mbt": "mbt", "late": "late"}
    alone = config_io.from_mapping(watch.get_config("model=unimodal,modality=gyroscope"))
    assert next(iter(profile.models_of(alone))) == "unimodal"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sft", "mbp"], r"--models: unknown model \['mbp'\], known: sft, late,"),
        ([], "--models names none"),
    ],
)
def test_wrong_names_of_models_are_named(config, names, message):
    with pytest.raises(ValueError, match=message):
        profile.models_of(config, names)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", ""])
def test_wrong_batch_sizes_are_named(text):
    assert profile.batch_sizes(["1", "8"]) == [1, 8]
    with pytest.raises(ValueError, match=f"--batch_sizes: {text}: expected whole numbers"):
        profile.batch_sizes(["1", text])


def test_models_that_do_not_fit_are_left_out_unless_they_are_asked_for(config, capsys):
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


def test_results_are_found_by_name_or_by_the_argument_that_makes_the_same(config, tmp_path):
    configs = profile.models_of(config)
    path = _write(tmp_path / "results.json", "random forest", "model=mbt,k=1", "model=mbt", "late")
    assert profile.accuracies(path, configs, f"{WATCH}:model=mbt") == {
        "mbt": (0.2, None),
        "late": (0.3, None),
    }
    # Its own name goes before an argument.
    path = _write(tmp_path / "results.json", "model=mbt", "mbt", "pool=attn_topk,k=4")
    assert profile.accuracies(path, configs, WATCH) == {"mbt": (0.1, None), "sft": (0.2, None)}
    # Whatever differs makes another experiment, but where the data lies.
    elsewhere = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir="x"))
    assert "sft" in profile.accuracies(path, profile.models_of(elsewhere), WATCH)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=99))
    assert "sft" not in profile.accuracies(path, profile.models_of(longer), WATCH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"models": {"svm": {"accuracy_mean": 1}}}', "tells of none of .* mbt, sft.* has 'svm'"),
        ('{"models": {}}', "it has no accuracy"),
        ("{}", "is not JSON with `models` by name"),
        ("[", "is not JSON with `models` by name"),
    ],
)
def test_results_that_do_not_fit_are_errors(config, tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        profile.accuracies(path, profile.models_of(config), WATCH)


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
    of = report["models"]["sft"]
    assert of["parameters"] == 67327
    assert sum(of["stage_flops"].values()) == of["forward_flops"]
    assert "train_step_seconds" not in of
    assert config_io.from_mapping(report["config"]).model.name == "sft"
    assert {"jax", "python", "sft_jax"} <= set(report["versions"])
    assert picture.read_bytes().startswith(b"\x89PNG")
