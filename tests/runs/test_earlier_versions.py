"""Run directories of earlier versions, kept as they were written, are read and gone on with.

An archive holds the run directory of `configs/matching.py:length=8,events=2` after 2 of 4 steps.
Its `expected.json` says what that version computed. A release adds one of its own.
"""

import dataclasses
import json
import pathlib
import tarfile

import numpy as np
import pytest

import sft_jax
from sft_jax import config_io, experiment

ARCHIVES = sorted(pathlib.Path(__file__).parent.glob("run_*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def run(request, tmp_path):
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def _expected(run):
    return json.loads((run / "expected.json").read_text())


def test_there_is_a_run_of_an_earlier_version():
    assert ARCHIVES


def test_it_predicts_what_it_did(run):
    random = np.random.default_rng(0)
    inputs = {name: random.normal(size=(3, 8, 12)).astype(np.float32) for name in ("left", "right")}
    probabilities = sft_jax.load(run).predict_proba(inputs)
    np.testing.assert_allclose(probabilities, _expected(run)["probabilities"], atol=1e-5)


@pytest.mark.slow
def test_it_goes_on_as_it_would_have(run, tmp_path):
    config = config_io.from_mapping(json.loads((run / "config.json").read_text()))
    data = dataclasses.replace(config.data, data_dir=str(tmp_path / "data"))
    experiment.train(dataclasses.replace(config, data=data), run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (loss,) = (line["valid/loss"] for line in lines if line["step"] == 4 and "valid/loss" in line)
    assert loss == pytest.approx(_expected(run)["valid_loss_of_step_4"], rel=1e-4)
