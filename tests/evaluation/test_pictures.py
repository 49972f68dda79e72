"""Pictures of any names and any number of classes are drawn; an error costs only the picture."""

import json
import os
import pathlib
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from matplotlib.text import Text

from sft_jax.evaluation import pictures, plots, probability_plots, run_plots
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.profile import tables
from sft_jax.profile.flops import STAGES
from sft_jax.runs.directory import RunDirectory

MARKUP = ("$5", "$10_$x", r"\frac{a}^_", "_hidden", "a\tb\nc", "\udc80", "%", "[b]", "{}", "")


@pytest.fixture
def written(monkeypatch):
    """Texts of all pictures, recorded as they are drawn."""
    texts = []
    draw = Text.draw

    def drawing(self, *args):
        assert not self.get_parse_math()
        assert not self.get_usetex()
        texts.append(self.get_text())
        return draw(self, *args)

    monkeypatch.setattr(Text, "draw", drawing)
    return texts


def matrix(path, names, title="test"):
    counts = np.eye(len(names), dtype=int)
    plots.draw_confusion_matrix(path, counts.tolist(), names, title)


def scatter(path, names, title="test", examples=3):
    values = np.random.default_rng(0).normal(size=(examples, len(names)))
    plots.draw_scatter(path, values, values, names, title)


def costs(path, names, title="test"):
    counted = {"forward_flops": 10**6, "stage_flops": dict.fromkeys(STAGES, 10**5)}
    tables.draw_costs(path, dict.fromkeys(names, counted), title=title)


@pytest.mark.parametrize("draw", [matrix, scatter, costs])
@pytest.mark.parametrize("usetex", [False, True])
def test_text_is_drawn_as_it_is(tmp_path, written, draw, usetex):
    with matplotlib.rc_context({"text.usetex": usetex}):
        draw(tmp_path / "p.png", MARKUP[:4], title="$a_b$")
    assert {*MARKUP[:4], "$a_b$"} <= set(written)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_labels_have_curves_and_bars(tmp_path, written):
    random, names = np.random.default_rng(0), [*MARKUP[:4], *(f"n{i}" for i in range(9))]
    labels = (random.uniform(size=(40, 13)) < np.linspace(0.9, 0.2, 13)).astype(float)
    labels[:, 1] = 1
    logits = labels + random.normal(size=labels.shape)
    predictions = Predictions(np.arange(40), labels, logits, np.ones(40), "multi_label")
    columns = probability_plots.ranked(predictions, names)
    assert MARKUP[1] not in columns  # Every example has the label, which has no curve.
    counts = [truth.sum() for truth, _ in columns.values()]
    assert len(counts) == 12
    assert counts == sorted(counts, reverse=True)
    plots.draw(tmp_path, "test", task_metrics(predictions, names), predictions)
    assert {*MARKUP[:4]} <= set(written)
    assert any("the 10 most frequent of 12 labels" in text for text in written)
    assert any(text.startswith("the model's own, ECE 0.") for text in written)
    few = {MARKUP[0]: columns[MARKUP[0]]}
    probability_plots.draw_roc_pr(tmp_path / "few.png", few, "$a_b$")
    assert "$a_b$" in written


def test_a_run_has_curves_of_learning_and_of_modalities(tmp_path, written):
    run = RunDirectory(tmp_path)
    assert run_plots.read_scalars(run) == {}
    lines = [{"step": i, "train/loss": 1 / i, "train/learning_rate": 0.1} for i in range(1, 31)]
    lines += [{"step": 30, "valid/loss": 0.1, "valid/macro_f1": 0.5}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.metrics_file.write_text(text + '{"step": 31, "train/lo')
    scalars = run_plots.read_scalars(run)
    assert scalars["train/loss"] == ([*range(1, 31)], [1 / i for i in range(1, 31)])
    assert scalars["valid/macro_f1"] == ([30], [0.5])
    run_plots.draw_learning_curves(tmp_path / "learning.png", scalars, "$a_b$", best_step=30)
    assert {"loss", "macro f1", "learning rate", "best checkpoint", "$a_b$"} <= set(written)
    rows = [{"modalities": ["$5", "b"], "mae": 0.5}, {"modalities": ["b"], "mae": 0.75}]
    run_plots.draw_subsets(tmp_path / "s.png", {"score": "mae", "subsets": rows}, "subsets")
    assert {"$5 + b", " 0.750"} <= set(written)


@pytest.mark.parametrize("draw", [matrix, scatter])
def test_unprintable_characters_are_replaced(tmp_path, written, draw):
    draw(tmp_path / "p.png", MARKUP[4:])
    assert {"a b c", "\N{REPLACEMENT CHARACTER}", "%", "[b]", "{}"} <= set(written)


def test_missing_characters_become_boxes_and_numbers(tmp_path, written, monkeypatch, caplog):
    pictures._families.cache_clear()
    monkeypatch.setattr(pictures, "_fonts", list)
    matrix(tmp_path / "p.png", ("否定", "中立", "b"))
    assert {"0: 否定", "1: 中立", "2: b"} <= set(written)
    assert "no font here has 中否定立: " in caplog.text
    pictures._families.cache_clear()


def test_a_font_with_the_characters_is_found(monkeypatch):
    characters = {"DejaVuSans.ttf": {ord("a")}, "STIXGeneral.ttf": {ord("否")}}
    monkeypatch.setattr(
        pictures, "_characters", lambda path: characters.get(os.path.basename(path), set())
    )
    pictures._families.cache_clear()
    families, lacking = pictures._families(frozenset("a否立 "))
    pictures._families.cache_clear()
    assert (families[-1], lacking) == ("STIXGeneral", "立")


def test_long_names_lose_their_middle_and_stay_different(tmp_path, written):
    names = [f"a very long name of a class, number {i}, of so very many" for i in range(12)]
    matrix(tmp_path / "p.png", names, title=" ".join(["title"] * 100))
    assert "7: a very long name of a… very many" in written
    assert max(image.imread(tmp_path / "p.png").shape) < 2600
    assert pictures.shortened("中" * 20, 10) == "中中中…中"
    assert pictures.wrapped("one two three 中中中中", 7).split("\n") == [
        "one two",
        "three",
        "中中中",
        "中",
    ]


def test_a_matrix_of_many_classes_names_some(tmp_path, written):
    names = [f"c{i}" for i in range(2010)]
    matrix(tmp_path / "p.png", names)
    named = {text for text in written if text[1:].isdecimal()}
    assert len(named) <= plots.MAX_NAMED
    assert len(written) < 1_000
    assert {"c0", "c2009"} - named <= {"c2009"}
    pixels = image.imread(tmp_path / "p.png")[..., :3]
    assert max(pixels.shape) < 2600
    # The diagonal is dark.
    assert (pixels.mean(axis=-1) < 0.5).any(axis=1).mean() > 0.6


def test_only_some_of_many_numbers_and_examples_are_drawn(tmp_path, written, monkeypatch):
    monkeypatch.setattr(plots, "MAX_PANELS", 6)
    scatter(tmp_path / "p.png", [f"n{i}" for i in range(100)], examples=3)
    scatter(tmp_path / "q.png", ["n"], examples=plots.MAX_POINTS + 1)
    assert "test; the first 6 of 100 numbers" in written
    assert any("one of 2 examples" in text.replace("\n", " ") for text in written)
    assert max(image.imread(tmp_path / "p.png").shape) < 2600


@pytest.mark.process
@pytest.mark.slow
def test_a_picture_of_many_classes_takes_little_memory(tmp_path):
    program = """
import pathlib, resource, sys
import numpy as np
from sft_jax.evaluation.plots import draw_confusion_matrix
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
draw_confusion_matrix(pathlib.Path(sys.argv[1]), np.eye(400, dtype=int), ["c"] * 400, "test")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    root = pathlib.Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "p.png")],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < 300


@pytest.mark.parametrize("task", ["single_label", "regression"])
def test_an_error_while_drawing_becomes_a_warning(tmp_path, monkeypatch, caplog, task):
    labels = np.array([0, 1]) if task == "single_label" else np.ones((2, 2), np.float32)
    predictions = Predictions(
        np.array(["x", "y"]), labels, np.eye(2, dtype=np.float32), np.ones(2), task
    )
    result = task_metrics(predictions, ["a", "b"])

    def failing(*_, **__):
        raise MemoryError("no room\nfor it")

    monkeypatch.setattr(pictures.Figure, "savefig", failing)
    plots.draw(tmp_path, "test", result, predictions)
    assert len(caplog.records) == (3 if task == "single_label" else 1)
    for record in caplog.records:
        assert record.levelname == "WARNING"
        assert f"picture {tmp_path}/test_" in record.getMessage()
        assert record.getMessage().endswith(".png was not drawn: MemoryError: no room for it")
    assert not [*tmp_path.iterdir()]


def test_the_ending_of_a_picture_is_checked():
    pictures.check_format("a/b.svg")
    with pytest.raises(ValueError, match=r"no picture ends in \.json; allowed are .*png"):
        pictures.check_format("a/b.json")
