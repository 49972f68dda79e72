"""The main job as a user runs it, small: train.py and eval.py on the real recordings."""

import base64
import csv
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import sft_jax
from sft_jax.data.sets.watch.entry import read_watch, split_name
from sft_jax.evaluation.run import evaluate_run
from sft_jax.evaluation.scores import probabilities
from sft_jax.runs.checkpoint import NoCheckpointError

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.process


def command(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch")
    workdir = folder / "run"
    output = command(
        "train.py",
        "--config=configs/watch.py:model=sft,pool=max,k=2",
        f"--workdir={workdir}",
        f"--config.data.data_dir={folder / 'data'}",
        "--config.data.stride_seconds=4.0",
        "--config.model.width=16",
        "--config.model.num_heads=4",
        "--config.model.n_post=1",
        "--config.train.epochs=2",
        "--config.train.label_smoothing=0.1",
    )
    assert "run directory:" in output
    assert "compiling...\ncompiled in " in output
    values = r"loss [\d.]+ accuracy [\d.]+"
    line = rf"epoch +1\.\d  step +\d+  train {values}  valid {values}  lr \S+  \S+ s  ETA 0:\d\d:"
    assert re.search(line, output)
    return workdir


def test_evaluation_needs_the_run_directory_alone(trained, tmp_path):
    csv_file = tmp_path / "predictions.csv"
    output = command("eval.py", f"--workdir={trained}", f"--predictions={csv_file}")
    result = json.loads((trained / "eval" / "test.json").read_text())
    info = json.loads((trained / "dataset.json").read_text())
    assert (
        result["n_examples"] == info["num_examples"]["test"] == np.sum(result["confusion_matrix"])
    )
    assert result["accuracy"] == np.trace(result["confusion_matrix"]) / result["n_examples"]
    assert f"{result['accuracy']:.4f}" in output
    assert str(trained) in output
    picture = (trained / "eval" / "test_confusion_matrix.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    # Its pool merges tokens, which no picture shows.
    assert not (trained / "eval" / "test_kept_tokens.png").exists()
    assert f"page: {trained}/report.html" in output
    page = (trained / "report.html").read_text()
    assert base64.b64encode(picture).decode() in page
    rows = list(csv.DictReader(csv_file.read_text().splitlines()))
    assert len({row["id"] for row in rows}) == result["n_examples"]
    assert {row["id"][:8] for row in rows} == {"person08", "person09", "person10"}
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert right == pytest.approx(result["accuracy"])


def test_any_checkpoint_can_be_evaluated(trained):
    steps = sorted(int(path.name) for path in (trained / "checkpoints" / "latest").iterdir())
    assert len(steps) == 2
    latest, predictions = evaluate_run(trained, "valid", "latest")
    assert latest["step"] == steps[-1]
    by_number, again = evaluate_run(trained, "valid", str(steps[-1]))
    assert by_number["loss"] == latest["loss"]
    np.testing.assert_array_equal(predictions.logits, again.logits)
    # What training said of these examples is what evaluation finds.
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["valid/loss"] == pytest.approx(latest["loss"], rel=1e-6)
    assert lines[-1]["valid/accuracy"] == latest["accuracy"]
    with pytest.raises(NoCheckpointError, match="no checkpoint '12345'"):
        evaluate_run(trained, "valid", "12345")


def test_raw_windows_get_the_probabilities_of_the_evaluation(trained):
    _, predictions = evaluate_run(trained, "test", "best")
    raw = read_watch(window=200, stride=200)
    records = [record for person in (8, 9, 10) for record in raw.read(split_name(person))]
    assert [record["id"] for record in records] == [*predictions.ids]
    classifier = sft_jax.load(trained)
    # The tokens of statistics are computed from the windows.
    inputs = {name: [record["inputs"][name] for record in records] for name in raw.shapes}
    assert {*inputs} < {*classifier.info.modalities}
    expected = probabilities("single_label", predictions.logits)
    np.testing.assert_allclose(classifier.predict_proba(inputs), expected, rtol=0, atol=1e-6)
    classes = expected.argmax(axis=1)
    assert classifier.predict(inputs) == [classifier.info.class_names[i] for i in classes]
