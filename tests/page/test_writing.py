"""The page holds everything in the files of a run, and nothing that a name could smuggle in."""

import base64
import html.parser
import json

import browser
import numpy as np
import pytest
import synthetic

from sft_jax.data.arrays import from_arrays
from sft_jax.evaluation import calibration
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.page import markup, writing
from sft_jax.runs.directory import RunDirectory
from sft_jax.runs.storage import write_json

HOSTILE = '<script>alert("x")</script>'
PICTURE = b"\x89PNG not really"
VOID = {"meta", "link", "img", "br"}


class _Checker(html.parser.HTMLParser):
    """Collects tags, and checks that each is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path):
    """A run directory with files alone: results of two splits, pictures and reports."""
    names = ("a & b", HOSTILE)
    data = synthetic.dataset()
    run = RunDirectory.open(tmp_path / "run", synthetic.config(optim__lr=0.0625))
    write_json(run.dataset_file, data.info.to_json())
    run.make_results()
    labels = {split: np.array([0, 1]) for split in ("train", "valid")}
    inputs = {split: {HOSTILE: np.full((2, 2, 2), np.nan)} for split in labels}
    card = from_arrays(inputs, labels, names, not_finite="zero").card
    write_json(run.card_file, card.to_json())
    predictions = Predictions(
        np.arange(4), np.array([0, 1, 1, 0]), np.eye(4, 2), np.ones(4), "single_label"
    )
    result = task_metrics(predictions, names)
    result["calibration"] = calibration.calibration_metrics(predictions, 2.0)
    about = {"step": 5, "modalities": ["sight"], "left_out": []}
    for stem, split, which in (
        ("test", "test", "best"), ("valid", "valid", "best"), ("valid@7", "valid", "7")
    ):  # fmt: skip
        write_json(
            run.results / f"{stem}.json", {"split": split, "checkpoint": which, **about, **result}
        )
    (run.results / "test_confusion_matrix.png").write_bytes(PICTURE)
    (run.results / "test_kept_tokens.png").write_bytes(PICTURE)
    lines = [{"step": 5, "train/loss": 0.5}, {"step": 5, "valid/loss": 0.75}]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_page_shows_all_files_and_needs_no_other(run):
    text = writing.write(run).read_text()
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert "script" not in checker.seen
    assert all(address.startswith("data:") for address in checker.addresses)
    assert text.count(base64.b64encode(PICTURE).decode()) == 2
    assert checker.seen.count("img") == 3
    assert (run.results / "learning_curves.png").exists()
    headings = [part.split("</h2>")[0] for part in text.split("<h2>")[1:]]
    assert headings == [
        "Results: test", "Results: valid", "Other evaluations", "Training", "Cost", "Data",
        "Config", "Starts of training",
    ]  # fmt: skip
    assert "valid: 4 examples, 7 checkpoint, step 5" in text
    assert "calibrated_ece" in text
    assert '<td class="changed">0.0625</td>' in text
    assert "FLOPs of one example" in text
    assert text.count(markup.text(HOSTILE)) >= 3


def test_page_of_a_bare_run_has_its_config(tmp_path):
    run = RunDirectory.open(tmp_path, synthetic.config())
    text = writing.write(run).read_text()
    assert [part.split("</h2>")[0] for part in text.split("<h2>")[1:]] == [
        "Config", "Starts of training",
    ]  # fmt: skip


def test_cost_that_cannot_be_counted_is_said(run, monkeypatch):
    def refuse(*_):
        raise NotImplementedError("primitive <odd>")

    monkeypatch.setattr(writing.measure, "count", refuse)
    assert "It cannot be counted: primitive &lt;odd&gt;" in writing.write(run).read_text()


@pytest.mark.process
@browser.needs_chromium
def test_page_opens_without_a_complaint(run):
    document, console = browser.opened(writing.write(run))
    assert console == []
    assert "Results: test" in document
