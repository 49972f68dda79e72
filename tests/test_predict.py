"""predict.py, from files of examples to tables, and the commands that are installed."""

import configparser
import csv
import dataclasses
import functools
import importlib
import importlib.util
import json
import pathlib
import subprocess
import sys

import fake_bucket
import npz_examples
import numpy as np
import pytest
import sentiment_pickles
import synthetic

import sft_jax
from sft_jax import ModalitySpec, command_line
from sft_jax.commands import predict
from sft_jax.data.card import Card
from sft_jax.data.dataset import DatasetInfo, Standardisation
from sft_jax.data.sets.npz_folder.archives import read_arrays
from sft_jax.data.sets.npz_folder.entry import FolderData
from sft_jax.data.sets.sentiment.entry import MoseiData
from sft_jax.inference import files, predictions
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[1]
TASKS = {
    "single_label": npz_examples.CLASSES,
    "multi_label": ("round", "pointed"),
    "regression": ("corners",),
}


def _info(modalities, names, task="single_label"):
    statistics = {
        name: Standardisation((0.5,) * spec.features, (2.0,) * spec.features)
        for name, spec in modalities.items()
    }
    return DatasetInfo(modalities, names, statistics, {"train": 1}, task)


def _save(workdir, info, data, task="single_label"):
    experiment = dataclasses.replace(synthetic.config(model__task=task), data=data)
    synthetic.save_run(workdir, info, experiment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return npz_examples.write(tmp_path_factory.mktemp("raw"), train=3, valid=2, test=7)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, folder):
    """Run on the folder, of a task."""
    modalities = {
        "sound": ModalitySpec(9, 5),
        "image": ModalitySpec((28, 28), 1, 14),
        "touch": ModalitySpec(6, 1),
    }

    @functools.cache
    def run(task="single_label"):
        workdir = tmp_path_factory.mktemp(task) / "run"
        info = _info(modalities, TASKS[task], task)
        _save(workdir, info, FolderData(manual_dir=str(folder)), task)
        return workdir

    return run


def _predict(**arguments):
    texts = (f"--{name}={value}" for name, value in arguments.items())
    synthetic.run_command(predict, *texts)


def _rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_predicted_like_its_arrays(runs, folder, tmp_path, capsys):
    workdir, out = runs(), tmp_path / "new" / "out.csv"
    _predict(workdir=workdir, input=folder, out=out, k=1)
    rows = _rows(out)
    assert capsys.readouterr().out == f"12 examples predicted: {out}\n"
    assert [*rows[0]] == ["id", "split", "prediction", *(f"p({c})" for c in npz_examples.CLASSES)]
    assert [row["split"] for row in rows] == ["train"] * 3 + ["valid"] * 2 + ["test"] * 7
    classifier = sft_jax.load(workdir)
    values = read_arrays(folder / f"{rows[2]['id']}.npz")
    assert rows[2]["prediction"] == classifier.predict(values, k=1)
    written = [float(rows[2][f"p({name})"]) for name in npz_examples.CLASSES]
    expected = classifier.predict_proba(values, k=1)
    np.testing.assert_allclose(written, expected, rtol=0, atol=2e-6)
    _predict(workdir=workdir, input=folder / "manifest.csv", out=out, k=1, split="test")
    assert _rows(out) == rows[5:]


def test_files_need_neither_labels_nor_a_manifest(runs, folder, tmp_path):
    workdir, out = runs(), tmp_path / "out.csv"
    _predict(workdir=workdir, input=folder / "test", out=out)
    rows = _rows(out)
    assert [row["id"] for row in rows] == [f"{i:03d}" for i in range(7)]
    assert "split" not in rows[0]
    _predict(workdir=workdir, input=folder / "test" / "002.npz", out=out)
    assert _rows(out)[0]["prediction"] == rows[2]["prediction"]
    manifest = folder / "test" / "some.csv"
    manifest.write_text("id,file,comment\nfirst,002.npz,\nsecond,000.npz,good\n")
    _predict(workdir=workdir, input=manifest, out=out)
    names = [(row["id"], row["prediction"]) for row in _rows(out)]
    assert names == [("first", rows[2]["prediction"]), ("second", rows[0]["prediction"])]


def test_examples_in_a_bucket_are_those_of_a_folder(folder, monkeypatch):
    bucket = fake_bucket.install(monkeypatch)
    storage.copy_files(folder, bucket / "raw")
    for path in ("", "/test", "/manifest.csv", "/test/002.npz"):
        sources = [files.open_source(f"{root}{path}", None) for root in (bucket / "raw", folder)]
        there, here = ([*source.read()] for source in sources)
        assert [example.id for example in there] == [example.id for example in here]
        np.testing.assert_equal([e.values for e in there], [e.values for e in here])
    (bucket / "raw" / "a.pkl").write_text("")
    with pytest.raises(ValueError, match="other files are read from local folders alone"):
        files.open_source("gs://bucket/raw/a.pkl", None)
    with pytest.raises(FileNotFoundError, match="input gs://bucket/gone: there is no such file"):
        files.open_source("gs://bucket/gone", None)


def test_bad_examples_are_named_and_left_out_on_demand(runs, tmp_path, capsys):
    good = {"sound": np.ones((4, 5))}
    for name, arrays in (
        ("a", good),
        ("long", {"sound": np.ones((10, 5))}),
        ("nan", {"sound": np.full((4, 5), np.nan)}),
        ("b", good),
    ):
        npz_examples.write_example(tmp_path, f"{name}.npz", **arrays)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    names = ["a", "long", "nan", "../a", "cut", "gone", "b"]
    lines = ["id,file", *(f"{name},{name}.npz" for name in names), "b,a.npz"]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    request = {"workdir": runs(), "input": tmp_path / "all.csv"}
    out = tmp_path / "out.csv"
    out.write_text("earlier")
    with pytest.raises(ValueError, match=r"example 'long': sound is of shape \[10, 5\], expected"):
        _predict(**request, out=out)
    assert out.read_text() == "earlier"
    _predict(**request, out=out, on_error="skip")
    assert [row["id"] for row in _rows(out)] == ["a", "b"]
    printed = capsys.readouterr()
    assert f"2 examples predicted, 6 skipped: {out}" in printed.out
    for message in (
        "skipped: example 'long': sound is of shape [10, 5]",
        "skipped: example 'nan': sound is not finite at step 0",
        "skipped: example '../a': file '../a.npz' is no path inside",
        "skipped: example 'cut': ",
        "skipped: example 'gone': ",
        "skipped: example 'b': an earlier one has the same id",
    ):
        assert message in printed.err
    (tmp_path / "all.csv").write_text("file\nlong.npz\n")
    with pytest.raises(ValueError, match="no example can be predicted: example 'long': sound is"):
        _predict(**request, out=out, on_error="skip")


@pytest.mark.parametrize("task", TASKS)
def test_every_format_has_the_same_numbers(runs, folder, tmp_path, task):
    run = RunDirectory(runs(task))
    source = files.open_source(str(folder / "test"), run)
    table = predictions.predict_table(sft_jax.load(run.path), source.read())
    outs = [tmp_path / f"out{ending}" for ending in predictions.FORMATS]
    for out in outs:
        predictions.write_table(out, table)
    rows = _rows(outs[0])
    lines = [json.loads(line) for line in outs[1].read_text().splitlines()]
    parquet = pytest.importorskip("pyarrow.parquet").read_table(outs[2]).to_pylist()
    kind, part = ("numbers", "predicted") if task == "regression" else ("probabilities", "p")
    for row, line, other in zip(rows, lines, parquet, strict=True):
        assert row.keys() == other.keys()
        assert row["id"] == line["id"] == other["id"]
        assert row.get("prediction") == line.get("prediction") == other.get("prediction")
        for name in TASKS[task]:
            assert line[kind][name] == other[f"{part}({name})"]
            assert float(row[f"{part}({name})"]) == pytest.approx(line[kind][name], abs=1e-6)
    if task == "multi_label":
        above = ["|".join(n for n in TASKS[task] if line[kind][n] > 0.5) for line in lines]
        assert [row["prediction"] for row in rows] == above


def test_raw_files_of_a_dataset_are_read_as_in_training(tmp_path):
    raw = tmp_path / "raw" / "mosei_senti_data_noalign.pkl"
    raw.parent.mkdir()
    sentiment_pickles.write(raw, "mosei", "mult_noalign", {"train": 3, "valid": 2, "test": 6})
    patches = {"vision": 100, "audio": 100, "text": 10}
    data = MoseiData(manual_dir="/moved/away", patch_size=patches)
    _save(tmp_path / "run", _info(data.outline().modalities, ("low", "high")), data)
    request = {"workdir": tmp_path / "run", "input": raw, "out": tmp_path / "out.csv"}
    with pytest.raises(ValueError, match="audio is not finite at step"):
        _predict(**request)
    # Trained with the dataset's own treatment of -inf.
    card = Card("cmu_mosei", "mult_noalign", "regression", ("value",), {}, policy="zero")
    (tmp_path / "run" / "data_card.json").write_text(json.dumps(card.to_json()))
    _predict(**request, split="test")
    assert [row["split"] for row in _rows(request["out"])] == ["test"] * 6
    with pytest.raises(ValueError, match=r"split='tset': .* has train, valid, test"):
        _predict(**request, split="tset")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "gone"}, "input gone: there is no such file or folder"),
        ({"out": "out.txt"}, "out=out.txt: the ending is not one of .csv, .jsonl, .parquet"),
        ({"split": "test"}, "split='test': .* has no splits; leave it out"),
        ({"checkpoint": "7"}, "no checkpoint '7'"),
        ({"workdir": "gone"}, "gone is not a run directory"),
    ],
)
def test_wrong_flags_are_named(runs, folder, tmp_path, arguments, message):
    request = {
        "workdir": runs(), "input": folder / "test", "out": tmp_path / "out.csv"
    }  # fmt: skip
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        _predict(**request | arguments)
    assert not (tmp_path / "out.csv").exists()


def test_other_inputs_than_examples_are_named(tmp_path):
    _save(tmp_path / "run", synthetic.dataset().info, synthetic.config().data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the dataset of the run, watch, is not read from raw"):
        _predict(workdir=tmp_path / "run", input=tmp_path / "empty", out=tmp_path / "out.csv")


def test_parquet_needs_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sft_jax\[parquet\]'"):
        predictions.check_writable(storage.as_path(tmp_path / "out.parquet"))


# Installed commands.


def test_commands_and_configs_are_installed():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    scripts = parser["options.entry_points"]["console_scripts"].split("\n")
    targets = dict(script.split(" = ") for script in scripts if script)
    assert {"sft-train", "sft-eval", "sft-predict"} <= targets.keys()
    for target in targets.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))
    patterns = parser["options.packages.find"]["include"].split()
    assert {"sft_jax*", "configs*"} <= {*patterns}


def test_shipped_configs_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("watch", "configs/watch.py"):
        assert command_line.config_file(name) == str(ROOT / "configs" / "watch.py")
    with pytest.raises(ValueError, match="no config file 'wach', nor a shipped config; did you"):
        command_line.config_file("wach")
    with pytest.raises(ValueError, match="allowed here: av_mnist, hapt, matching"):
        command_line.config_file("common")
    (tmp_path / "watch").touch()
    assert command_line.config_file("watch") == "watch"


@pytest.mark.process
def test_the_program_runs_in_any_folder(runs, folder, tmp_path):
    program = "from sft_jax.commands import predict; predict.run()"
    arguments = [f"--workdir={runs()}", f"--input={folder / 'test'}", "--out=out.csv"]
    path = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    results = [
        subprocess.run(
            [sys.executable, "-c", program, *more],
            cwd=tmp_path, env=path, capture_output=True, text=True, timeout=120,
        )
        for more in (arguments, [*arguments, "--on_error=ignore"], ["--help"])
    ]  # fmt: skip
    done, wrong, shown = results
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7 examples predicted: out.csv\n"
    assert len(_rows(tmp_path / "out.csv")) == 7
    assert "--on_error" in wrong.stderr
    assert "Predicts examples without labels" in shown.stdout
    assert "--workdir: Run directory of train.py" in shown.stdout
