"""Export of a run: the file is compared with JAX, and kept only if it is right."""

import hashlib
import json
import os

import jax
import numpy as np
import optax
import pytest
import synthetic
import tiny_exports

import sft_jax
from sft_jax.commands import export as program
from sft_jax.data import derived
from sft_jax.data.card import Card
from sft_jax.data.dataset import Dataset
from sft_jax.evaluation import restored
from sft_jax.export import EXPORTERS, c, command, comparison, onnx
from sft_jax.export.command import ExportError, export_run, summary
from sft_jax.export.comparison import stack
from sft_jax.export.opened import random_dataset
from sft_jax.export.written import metadata
from sft_jax.modules.factory import build_model
from sft_jax.parallel import sharding
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import RunDirectory, RunDirectoryError
from sft_jax.training import optim
from sft_jax.training.state import state_shapes

EXAMPLES = 70  # More than a batch of the comparison.


def _dataset():
    data = synthetic.dataset(valid=1)
    counts = data.info.num_examples | {"test": EXAMPLES}
    info = synthetic.dataclasses.replace(data.info, num_examples=counts)
    return Dataset(info, lambda split: [synthetic.example(i) for i in range(counts[split])])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run directory with a checkpoint of normal parameters."""
    path = tmp_path_factory.mktemp("run")
    experiment, info = synthetic.config(), _dataset().info
    run = RunDirectory.open(path, experiment)
    card = Card("synthetic", "", "single_label", info.class_names, {}, policy="mean")
    run.card_file.write_text(json.dumps(card.to_json()))
    model = build_model(experiment.model, info.modalities, len(info.class_names))
    optimizer = optim.make_optimizer(experiment.optim, optax.constant_schedule(0.1))
    shapes = state_shapes(model, optimizer, ema=False, mesh=sharding.make_mesh())
    random = np.random.default_rng(0)
    values = jax.tree.map(
        lambda a: jax.device_put(random.normal(size=a.shape).astype(a.dtype), a.sharding), shapes
    )
    checkpoints = Checkpoints(path)
    checkpoints.save("best", values, {"dataset": info.to_json()})
    checkpoints.close()
    return path


@pytest.fixture(autouse=True)
def _data(monkeypatch):
    monkeypatch.setattr(restored, "open_dataset", lambda *_: _dataset())


def test_the_report_tells_differences_digest_and_code(workdir, tmp_path):
    out = tmp_path / "a.onnx"
    report = export_run(workdir, "onnx", out)
    assert report == json.loads((tmp_path / "a.onnx.json").read_text())
    assert report["sha256"] == {"a.onnx": hashlib.sha256(out.read_bytes()).hexdigest()}
    assert report["bytes"] == {"a.onnx": out.stat().st_size}
    cases = ["all examples", "without sight", "without sound", "k=1", "k=6, 7"]
    assert [*report["differences"]] == cases
    assert 0 < report["largest_difference"] == max(report["differences"].values()) < 1e-5
    assert report["n_examples"] == report["same_class"] == EXAMPLES
    assert report["compared_on"] == "test split"
    assert report["exported"] == report["jax"] > 0
    assert report["code"]["digest"].startswith("sha256:")
    assert "same class: 70 of 70" in summary(report)


def test_the_program_prints_the_report(workdir, tmp_path, capsys):
    out = tmp_path / "a"
    given = {"workdir": workdir, "format": "safetensors", "out": out, "k": 1, "examples": 2}
    given["stride"] = 2
    texts = (f"--{name}={value}" for name, value in given.items())
    synthetic.run_command(program, *texts)
    printed = capsys.readouterr().out
    assert "compared with JAX on 2 examples (random examples)" in printed
    assert printed.endswith(f"report: {out}.json\n")
    report = json.loads((tmp_path / "a.json").read_text())
    assert {*report["bytes"]} == {"a/README.md", "a/config.json", "a/model.safetensors"}
    assert report["metadata"]["k"] == {"sight": 1, "sound": 1}
    classifier = sft_jax.load(out)
    assert (report["stride"], classifier.model.modalities["sight"].patch_size) == (2, 4)
    assert report["metadata"]["not_finite"] == "mean"


def test_random_examples_hold_what_is_derived():
    info = tiny_exports.with_summary().info
    data = random_dataset(info, 20)
    batch = stack(data, range(20))
    touch, row = batch.masks["touch"].any(axis=1), batch.masks["touch_summary"][:, 0]
    np.testing.assert_array_equal(row, touch)
    first = batch.raw["touch"][0][batch.masks["touch"][0]]
    np.testing.assert_allclose(batch.raw["touch_summary"][0, 0], derived.summary(first), rtol=1e-6)
    own = info.statistics["touch_summary"].apply(batch.raw["touch_summary"][row])
    np.testing.assert_allclose(own, batch.inputs["touch_summary"][row], atol=1e-4)


def test_derived_inputs_are_named_in_the_summary():
    report = {"differences": {}, "same_class": None, "compared_on": "", "n_examples": 1}
    report |= {"file": "a.c", "bytes": {"a.c": 1}, "sizes": {}}
    report["metadata"] = metadata(tiny_exports.with_summary(), "c")
    assert "input touch_summary is computed from touch by summary, and must be given" in summary(
        report
    )
    report["metadata"] = c.describe(tiny_exports.with_summary(), "c")
    assert "touch_summary is computed from touch by summary, unless it is" in summary(report)


def test_random_examples_need_no_data(workdir, tmp_path, monkeypatch):
    def gone(*_):
        raise OSError("the data is gone")

    monkeypatch.setattr(restored, "open_dataset", gone)
    with pytest.raises(RunDirectoryError, match="the data is gone"):
        export_run(workdir, "onnx", tmp_path / "a.onnx")
    report = export_run(workdir, "onnx", tmp_path / "a.onnx", examples=5, k=1)
    assert report["compared_on"] == "random examples"
    assert report["n_examples"] == 5
    assert report["metadata"]["k"] == {"sight": 1, "sound": 1}
    assert "accuracy" not in summary(report)


def test_int8_reports_the_change_of_the_score(workdir, tmp_path):
    report = export_run(workdir, "onnx", tmp_path / "a.onnx", quantize="int8")
    assert report["largest_difference"] > 1e-4
    assert report["quantize"] == "int8"
    change = report["exported"] - report["jax"]
    assert f"exported ({change:+.4f})" in summary(report)


@pytest.mark.parametrize("shift", [1e-3, np.nan])
def test_a_file_that_differs_is_removed(workdir, tmp_path, monkeypatch, shift):
    softmax = comparison.activated
    monkeypatch.setattr(comparison, "activated", lambda *given: softmax(*given) + shift)
    with pytest.raises(ExportError, match=r"is not kept: its outputs differ .* the limit is"):
        export_run(workdir, "safetensors", tmp_path / "a", examples=3)
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_can_not_be_checked_is_not_kept(workdir, tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_text("of an earlier export")
    monkeypatch.setattr(onnx, "read", lambda path: 1 / len(path.read_bytes()[:0]))
    with pytest.raises(ZeroDivisionError):
        export_run(workdir, "onnx", tmp_path / "a.onnx", examples=3)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["of an earlier export"]


def test_bad_arguments_end_before_any_work(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "open_run", lambda *_, **__: pytest.fail("opened"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="can't write to"):
        export_run(workdir, "onnx", tmp_path / "file" / "a.onnx")
    with pytest.raises(ValueError, match="is a folder with other files"):
        export_run(workdir, "safetensors", tmp_path)
    with pytest.raises(ValueError, match="is in a bucket: give a local path"):
        export_run(workdir, "onnx", "gs://bucket/a.onnx")
    with pytest.raises(ValueError, match="--format='tflite'"):
        export_run(workdir, "tflite", tmp_path / "a")
    with pytest.raises(ValueError, match="quantize='int8' is not possible"):
        export_run(workdir, "safetensors", tmp_path / "a", quantize="int8")
    with pytest.raises(ValueError, match="examples=0 must be at least 1"):
        export_run(workdir, "onnx", tmp_path / "a.onnx", examples=0)
    for format, exporter in EXPORTERS.items():
        for name in ("a", "a.txt") if exporter.ending else ():
            with pytest.raises(ValueError, match=rf"format={format} ends with \{exporter.ending}"):
                export_run(workdir, format, tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_k_beyond_the_tokens_is_refused(workdir, tmp_path):
    with pytest.raises(ValueError, match=r"k=8 for modality .* must be from 0"):
        export_run(workdir, "onnx", tmp_path / "a.onnx", k=8)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("text", "k"), [(None, None), ("4", 4), ("sight=1, sound=2", {"sight": 1, "sound": 2})]
)
def test_k_of_the_command_line(text, k):
    assert program.read_k(text) == k


@pytest.mark.parametrize("text", ["four", "-1", "sight=x", "sight=1,2"])
def test_wrong_k_of_the_command_line_is_refused(text):
    with pytest.raises(ValueError, match="expected a whole number, or NAME=NUMBER"):
        program.read_k(text)
