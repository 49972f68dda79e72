"""Tables, pictures and files of predictions hold the values of the result."""

import csv
import dataclasses
import io

import numpy as np
import pytest
import scipy.special
from matplotlib import image
from rich.console import Console

from sft_jax.evaluation import plots, report
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.evaluation.tasks import classification_metrics

NAMES = ("lift", 'pull, "hard"', "[none]")
PREDICTIONS = Predictions(
    ids=np.array(["person1/3", "a,b", "x"]),
    labels=np.array([0, 1, 1]),
    logits=np.array([[2.0, 1.0, 0.0], [0.0, 0.5, 3.0], [-1.0, 800.0, 0.0]], np.float32),
    loss=np.array([0.5, 2.0, 0.25], np.float32),
)


def test_predictions_survive_their_file(tmp_path):
    path = tmp_path / "predictions.csv"
    report.write_predictions(path, PREDICTIONS, NAMES)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == PREDICTIONS.ids.tolist()
    assert [row["label"] for row in rows] == [NAMES[0], NAMES[1], NAMES[1]]
    assert [row["prediction"] for row in rows] == [NAMES[0], NAMES[2], NAMES[1]]
    probabilities = [[float(row[f"p({name})"]) for name in NAMES] for row in rows]
    np.testing.assert_allclose(
        probabilities, scipy.special.softmax(PREDICTIONS.logits, axis=-1), atol=1e-6
    )
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize("classes", [2, 12])
def test_the_confusion_matrix_is_drawn(tmp_path, classes):
    path = tmp_path / "matrix.png"
    matrix = np.zeros((classes, classes), int)  # Class 1 and later ones have no examples.
    matrix[0] = np.arange(classes)
    names = [f"a class with the number {i}" for i in range(classes)]
    plots.draw_confusion_matrix(path, matrix.tolist(), names, "test: accuracy 0.5 of 3")
    assert path.read_bytes().startswith(b"\x89PNG")
    height, width, _ = image.imread(path).shape
    assert 300 < height < 2000
    assert 300 < width < 2000
    pixels = image.imread(path)[..., :3]
    assert (pixels < 0.9).any(axis=-1).mean() > 0.02, "nothing is drawn"


def test_tables_show_the_numbers():
    metrics = classification_metrics(PREDICTIONS, NAMES)
    result = {"split": "test", "step": 120, "checkpoint": "best", **metrics}
    console = Console(file=io.StringIO(), width=80)
    report.print_tables(console, result)
    text = console.file.getvalue()
    assert "test: 3 examples, best checkpoint, step 120 ┏" in " ".join(text.split())
    rows = [line.replace("│", " ").split() for line in text.splitlines()]
    assert ["accuracy", "0.6667"] in rows
    assert ["balanced_accuracy", "0.7500"] in rows
    assert ["macro_f1", "0.8333"] in rows
    assert ["loss", "0.9167"] in rows
    assert ["lift", "1.000", "1.000", "1.000", "1"] in rows
    assert ["pull,", '"hard"', "1.000", "0.500", "0.667", "2"] in rows
    assert ["[none]", "-", "-", "-", "0"] in rows


def test_each_family_of_metrics_has_its_table():
    metrics = task_metrics(PREDICTIONS, NAMES, ["ranking"])
    metrics["sentiment"] = {"truth": "rounded", "acc2_non0": 0.25, "corr": None, "n_non0": 7}
    result = {"split": "test", "step": 120, "checkpoint": "best", **metrics}
    console = Console(file=io.StringIO(), width=80)
    report.print_tables(console, result)
    lines = console.file.getvalue().splitlines()
    rows = [line.translate(str.maketrans("│┃", "  ")).split() for line in lines]
    headings = [row[0] for row in rows if row[1:] in (["value"], ["precision", "recall"])]
    assert headings == ["metric", "ranking", "sentiment"]
    for row in (
        ["top1", "0.6667"],
        ["mAUC", f"{metrics['ranking']['mAUC']:.4f}"],
        ["absent_classes", "[none]"],
        ["truth", "rounded"],
        ["acc2_non0", "0.2500"],
        ["corr", "-"],
        ["n_non0", "7"],
    ):
        assert row in rows
    assert "top5" not in {row[0] for row in rows if row}


def test_tables_name_the_modalities_if_some_are_left_out():
    metrics = classification_metrics(PREDICTIONS, NAMES)
    result = {"split": "test", "step": 120, "checkpoint": "best", **metrics}
    console = Console(file=io.StringIO(), width=80)
    for left_out in ([], ["touch"]):
        modalities = {"modalities": ["sight", "sound"], "left_out": left_out}
        report.print_tables(console, result | modalities)
    lines = [line for line in console.file.getvalue().splitlines() if "step" in line]
    assert [line.partition("step 120")[2].strip() for line in lines] == ["", ", sight, sound alone"]


def test_the_table_of_subsets_shows_the_numbers():
    subsets = [
        {"modalities": ["sight", "sound"], "loss": 0.25, "mae": 1.5},
        {"modalities": ["sound"], "loss": 2.0, "mae": 3.0},
    ]
    result = {"split": "test", "step": 120, "checkpoint": "best", "n_examples": 3, "score": "mae"}
    console = Console(file=io.StringIO(), width=80)
    report.print_subsets(console, result | {"subsets": subsets})
    text = console.file.getvalue()
    assert "test: 3 examples, best checkpoint, step 120" in text
    rows = [line.translate(str.maketrans("│┃", "  ")).split() for line in text.splitlines()]
    expected = (
        ["modalities", "mae", "loss"],
        ["sight,", "sound", "1.5000", "0.2500"],
        ["sound", "3.0000", "2.0000"],
    )
    for row in expected:
        assert row in rows


NUMBERS = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], np.float32)
PREDICTIONS_BY_TASK = {
    "single_label": PREDICTIONS,
    "ordinal": dataclasses.replace(PREDICTIONS, task="ordinal"),
    "multi_label": dataclasses.replace(PREDICTIONS, labels=NUMBERS, task="multi_label"),
    "regression": dataclasses.replace(PREDICTIONS, labels=NUMBERS, task="regression"),
}


@pytest.mark.parametrize(("task", "kind"), [("multi_label", "p"), ("regression", "predicted")])
def test_labels_and_numbers_survive_their_file(tmp_path, task, kind):
    path = tmp_path / "predictions.csv"
    report.write_predictions(path, PREDICTIONS_BY_TASK[task], NAMES)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == PREDICTIONS.ids.tolist()
    true = [[float(row[f"true({name})"]) for name in NAMES] for row in rows]
    np.testing.assert_array_equal(true, NUMBERS)
    predicted = [[float(row[f"{kind}({name})"]) for name in NAMES] for row in rows]
    expected = (
        PREDICTIONS.logits if kind == "predicted" else scipy.special.expit(PREDICTIONS.logits)
    )
    np.testing.assert_allclose(predicted, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "files"),
    [
        ("single_label", ["confusion_matrix", "reliability"]),
        ("ordinal", ["confusion_matrix", "reliability"]),
        ("multi_label", ["per_label", "reliability", "roc_pr"]),
        ("regression", ["scatter"]),
    ],
)
def test_each_task_has_its_pictures(tmp_path, task, files):
    plots.draw(
        tmp_path, "test", task_metrics(PREDICTIONS_BY_TASK[task], NAMES), PREDICTIONS_BY_TASK[task]
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"test_{name}.png" for name in files]


@pytest.mark.parametrize("count", [1, 6])
def test_every_number_has_its_panel(tmp_path, count):
    labels = np.random.default_rng(0).normal(size=(20, count))
    names = [f"target{i}" for i in range(count)]
    plots.draw_scatter(tmp_path / "scatter.png", labels, labels, names, "test: mae 0")
    pixels = image.imread(tmp_path / "scatter.png")[..., :3]
    assert (pixels < 0.9).any(axis=-1).mean() > 0.01, "nothing is drawn"
    # Six panels take two rows, and the second has room for two more.
    half = pixels[pixels.shape[0] // 2 + 20 :, pixels.shape[1] // 2 + 20 :]
    assert (half == 1).all() == (count == 6)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("ordinal", [["mae", "0.3333"], ["[none]", "-", "-", "-", "0"]]),
        (
            "multi_label",
            [
                ["exact_match", "0.0000"],
                ["label", "average_precision", "roc_auc", "f1", "examples"],
                ["[none]", "-", "-", "-", "3"],
            ],
        ),
        (
            "regression",
            [["target", "mae", "rmse", "pearson_r", "r2"], ["[none]", "1.333", "1.414", "-", "-"]],
        ),
    ],
)
def test_tables_hold_the_metrics_of_the_task(task, expected):
    metrics = task_metrics(PREDICTIONS_BY_TASK[task], NAMES)
    result = {"split": "test", "step": 120, "checkpoint": "best", **metrics}
    console = Console(file=io.StringIO(), width=80)
    report.print_tables(console, result)
    lines = console.file.getvalue().splitlines()
    rows = [line.translate(str.maketrans("│┃", "  ")).split() for line in lines]
    for row in expected:
        assert row in rows


@pytest.mark.parametrize(("left_out", "stem"), [([], "test"), (["touch"], "test-sight-sound")])
def test_files_are_named_after_the_modalities(left_out, stem):
    result = {"split": "test", "modalities": ["sight", "sound"], "left_out": left_out}
    assert report.file_stem(result) == stem


def test_different_results_have_different_names():
    def stem(split="test", modalities=(), **others):
        return report.file_stem(
            {"split": split, "modalities": [*modalities], "left_out": [*modalities], **others}
        )

    assert stem(checkpoint="best", data="own") == "test"
    assert stem(checkpoint="latest") == "test@latest"
    assert (
        stem(checkpoint="120", data="a" * 64, modalities=["x", "y"]) == "test-x-y@120+" + "a" * 12
    )
    names = [stem(), stem("test-x"), stem(modalities=["x"]), stem("test@1"), stem(checkpoint="1")]
    names += [stem("../test"), stem("a/b"), stem("ä"), stem("."), stem("a+b"), stem("a", data="b")]
    assert len(set(names)) == len(names)
    assert not any(mark in name for name in names for mark in "/.")
    long = [f"modality_{i}" for i in range(40)]
    assert len(stem(modalities=long)) < 100
    assert stem(modalities=long) != stem(modalities=long[1:])
