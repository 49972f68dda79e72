"""The dataset of docs/extending/dataset.md, from outside of the package, in every command."""

import importlib
import importlib.metadata
import json
import pathlib
import re
import sys

import jax
import numpy as np
import pytest
import synthetic
from pydantic.dataclasses import dataclass

from sft_jax import config_io, experiment
from sft_jax.data import registry
from sft_jax.data.__main__ import main
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.data_config import STRICT
from sft_jax.evaluation.run import evaluate_run

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extending" / "dataset.md"
CLASS, CONFIG = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture
def tones(tmp_path, monkeypatch):
    """The folder of a user who has saved both files of the page."""
    (tmp_path / "tones.py").write_text(CLASS)
    (tmp_path / "tones_config.py").write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    yield tmp_path
    for name in ("tones", "tones_config"):
        sys.modules.pop(name, None)


@pytest.fixture
def config(tones):
    values = importlib.import_module("tones_config").get_config().to_dict()
    values["data"] |= {"examples": 10, "data_dir": str(tones / "data")}
    values["model"] |= {"width": 8, "num_heads": 1, "n_pre": 0}
    values["train"] |= {"epochs": 1, "batch_size": 8}
    return config_io.from_mapping(values)


def test_it_trains_resumes_and_evaluates(config, tones, monkeypatch):
    synthetic.on_one_device(monkeypatch)
    with jax.default_prng_impl("rbg"):  # Keys of this kind compile quickly.
        assert experiment.train(config, tones / "run").train_compiles == 1
        saved = json.loads((tones / "run" / "config.json").read_text())
        assert saved["data"]["name"] == "tones:Tones"
        assert config_io.from_mapping(saved).data == config.data
        experiment.train(config, tones / "run")  # Nothing is left to do.
        results, predictions = evaluate_run(tones / "run", "test", "best")
    assert results["n_examples"] == 10
    assert {*results["per_class"]} == {"low", "high"}
    assert np.isfinite(predictions.logits).all()


def test_it_is_listed_prepared_and_inspected(tones, capsys):
    main(["list", "tones:Tones"])
    text = capsys.readouterr().out
    assert "Tones in noise: is the pitch low or high?" in text
    assert "noise: Standard deviation of the noise" in text
    assert "patch_size: Modality name to" in text
    fields = ["examples=6", f"data_dir={tones}"]
    main(["prepare", "tones:Tones", *fields])
    prepared = capsys.readouterr().out
    assert f"prepared in {tones}/tones_tones/" in prepared
    main(["inspect", "tones:Tones", *fields])
    text = capsys.readouterr().out
    assert "6 train, 6 valid, 6 test examples" in text
    assert text in prepared


def test_settings_that_change_records_are_prepared_apart(config):
    def place(**changes):
        values = config_io.to_json(config)["data"] | changes
        return registry.prepare_dataset(registry.parse(values)).data_path

    assert place(noise=0.7) != place() == place(patch_size={"wave": 2}, modalities=["wave"])


def test_an_instance_is_named_by_its_import_path(tones):
    kind = importlib.import_module("tones").Tones
    assert kind().name == "tones:Tones"
    assert registry.parse(registry.dump(kind(examples=3))) == kind(examples=3)


def test_an_entry_point_gives_a_short_name(tones, monkeypatch, capsys):
    point = importlib.metadata.EntryPoint("tones", "tones:Tones", registry.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    config = config_io.from_mapping({"data": {"name": "tones", "examples": 2}})
    assert config.data.name == "tones"
    assert config_io.to_json(config)["data"]["name"] == "tones"
    main(["list"])
    assert "\ntones       Tones in noise" in capsys.readouterr().out


class NoDataset:
    """Not derived from the base class."""


@dataclass(frozen=True, config=STRICT)
class WithoutRead(DatasetEntry):
    """Lacks its method."""


class Undecorated(DatasetEntry):
    """Its annotation would be ignored."""

    examples: int = 3

    def read(self, folder):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wach", r"unknown dataset; did you mean 'watch'\? allowed here: av_mnist, .* import path"),
        (3, "unknown dataset; allowed here"),
        ("no_such_module:Tones", "there is no module 'no_such_module'"),
        (f"{__name__}:Nothing", "has no attribute 'Nothing'"),
        (f"{__name__}:NoDataset", "expected a subclass of sft_jax.data.sets.base.DatasetEntry"),
        (f"{__name__}:WithoutRead", "lacks the method read of"),
        (f"{__name__}:Undecorated", r"lacks the decorator @dataclass\(frozen=True"),
    ],
)
def test_a_wrong_name_is_explained(name, message):
    with pytest.raises(config_io.ConfigError, match=rf"\n  data.name={name!r}.*{message}"):
        config_io.from_mapping({"data": {"name": name}})


def test_all_problems_of_its_fields_are_listed_at_once(tones):
    data = {"name": "tones:Tones", "examples": "many", "nois": 1}
    with pytest.raises(config_io.ConfigError) as caught:
        config_io.from_mapping({"seed": -1, "data": data})
    for part in (
        "seed: Input should be greater",
        "data.examples: Input should be a valid integer, got 'many'",
        "data.nois: unknown key; did you mean 'noise'?",
    ):
        assert part in str(caught.value)
