"""Run directories in a bucket, whose objects are those of a dictionary here."""

import json
import pathlib
import sys

import fake_bucket
import jax
import numpy as np
import pytest
import synthetic
from fake_bucket import Bucket

from sft_jax.config import SystemConfig
from sft_jax.evaluation import plots, report
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.parallel import preflight
from sft_jax.runs import integrity, storage
from sft_jax.runs.directory import RunDirectory, RunDirectoryError
from sft_jax.training.reporting import Reporter
from sft_jax.training.tracing import Trace


@pytest.fixture
def run(monkeypatch):
    """A run directory in a bucket."""
    return fake_bucket.install(monkeypatch) / "run"


def names():
    return sorted(Bucket.store)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_paths_are_local_or_in_a_bucket(run, tmp_path):
    assert str(run) == "gs://bucket/run"
    assert storage.as_path(run) == run
    assert storage.in_bucket(run / "metrics.jsonl")
    for local in ("runs/a", tmp_path, str(tmp_path)):
        path = storage.as_path(local)
        assert str(path) == str(local)
        assert not storage.in_bucket(path)
    assert storage.as_path("~/runs/a") == storage.as_path(pathlib.Path.home() / "runs/a")


@pytest.mark.parametrize(
    "wrong", ["s3://bucket/run", "ftp://a/b", "gs://bucket", "gs://", pathlib.Path("gs://b/run")]
)
def test_other_urls_are_refused(run, wrong):
    with pytest.raises(ValueError, match=r"expected .*gs://BUCKET/FOLDER"):
        storage.as_path(wrong)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sft_jax\[gcs\]'"):
        storage.as_path("gs://bucket/run")
    assert "sft_jax[gcs]" in preflight.check_workdir("gs://bucket/run").problem


def test_a_run_in_a_bucket_records_its_starts(run):
    for _ in range(2):
        opened = RunDirectory.open(run, synthetic.config())
    assert names() == ["/bucket/run/config.json", "/bucket/run/starts.jsonl"]
    assert len(lines(run / "starts.jsonl")) == 2
    opened.record_dataset({"statistics": 1})
    (run / "checkpoints/latest/7/state").write_text("")
    with pytest.raises(RunDirectoryError, match=r"optim\.lr"):
        RunDirectory.open(run, synthetic.config(optim__lr=0.5))
    with pytest.raises(RunDirectoryError, match="other data: statistics"):
        opened.record_dataset({"statistics": 2})


def test_a_bucket_without_write_access_is_named(run):
    with pytest.raises(RunDirectoryError, match="gs://bucket/locked: RuntimeError: 403: Forb"):
        RunDirectory.open(storage.as_path("gs://bucket/locked"), synthetic.config())
    problem = preflight.check_workdir("gs://bucket/locked").problem
    assert problem == "can't write to workdir gs://bucket/locked: RuntimeError: 403: Forbidden"


def test_doctor_writes_to_a_bucket_and_leaves_nothing(run):
    assert [finding.problem for finding in preflight.cheap(run, synthetic.config())] == [""] * 3
    assert names() == []


def test_metrics_are_in_the_bucket_after_each_flush(run):
    first = Reporter(RunDirectory(run), 0, 10)
    for step in (1, 2):
        first.scalars(step, {"loss": step})
        first.flush()
        assert [line["step"] for line in lines(run / "metrics.jsonl")] == [*range(1, step + 1)]
    first.scalars(3, {"loss": 3})
    first.close()
    Reporter(RunDirectory(run), 2, 10).close()
    assert lines(run / "metrics.jsonl") == [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}]
    events = [name for name in names() if "/tensorboard/" in name]
    assert events
    assert all(Bucket.store[name].size > 0 for name in events)
    assert len(names()) == len(events) + 1


def test_a_trace_is_in_the_bucket_when_it_ends(run, monkeypatch):
    written = []

    def start(folder):
        written.append(pathlib.Path(folder, "plugins", "profile"))
        written[0].mkdir(parents=True)

    monkeypatch.setattr(jax.profiler, "start_trace", start)
    monkeypatch.setattr(
        jax.profiler, "stop_trace", lambda: (written[0] / "a.pb").write_bytes(b"12")
    )
    trace = Trace(SystemConfig(trace_from=1, trace_steps=1), RunDirectory(run))
    trace.before(1)
    trace.after(1, None)
    assert (run / "trace/plugins/profile/a.pb").read_bytes() == b"12"
    assert not written[0].exists()


def test_results_are_in_the_bucket(run):
    predictions = Predictions(
        ids=np.array(["a", "b"]),
        labels=np.array([0, 1]),
        logits=np.array([[1.0, 0.0], [0.0, 1.0]]),
        loss=0.0,
        task="single_label",
    )
    report.write_predictions(run / "test.csv", predictions, ("low", "high"))
    assert (run / "test.csv").read_text().splitlines()[1].startswith("a,low,low,0.73")
    plots.draw_confusion_matrix(run / "test.png", [[1, 0], [0, 1]], ("low", "high"), "test")
    assert (run / "test.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_in_a_bucket_is_moved_file_by_file(run):
    storage.write_whole(run / "latest/7/state/d/1", b"1")
    storage.write_whole(run / "latest/7/sha256.json", b"{}")
    storage.write_whole(run / "latest/77/sha256.json", b"{}")
    storage.move(run / "latest/7", run / "damaged/latest-7")
    assert [name.removeprefix("/bucket/run/") for name in names()] == [
        "damaged/latest-7/sha256.json",
        "damaged/latest-7/state/d/1",
        "latest/77/sha256.json",
    ]


def test_files_in_a_bucket_are_signed(run):
    storage.write_whole(run / "7/state/d/1", b"1")
    storage.write_whole(run / "7/state/d/2", b"2")
    integrity.sign(run / "7")
    assert integrity.problems(run / "7") == []
    storage.write_whole(run / "7/state/d/2", b"3")
    (run / "7/state/d/1").unlink()
    assert integrity.problems(run / "7") == [
        "state/d/1 is missing",
        "state/d/2 has other bytes than were written",
    ]
