"""Metrics as a person reads them: tables, a picture, a file of predictions."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import scipy.special
from matplotlib.figure import Figure
from rich import markup
from rich.console import Console
from rich.table import Table
from sklearn.metrics import ConfusionMatrixDisplay

from sft_jax.evaluation.evaluator import Predictions


def print_tables(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the metrics of a split, and those of each class."""
    console.print(
        f"{result['split']}: {result['n_examples']} examples,"
        f" {result['checkpoint']} checkpoint, step {result['step']}",
        highlight=False,
    )
    summary = Table()
    summary.add_column("metric")
    summary.add_column("value", justify="right")
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss"):
        summary.add_row(name, f"{result[name]:.4f}")
    console.print(summary)
    classes = Table()
    classes.add_column("class")
    for name in ("precision", "recall", "f1", "examples"):
        classes.add_column(name, justify="right")
    for name, values in result["per_class"].items():
        scores = (values[score] for score in ("precision", "recall", "f1"))
        shown = ["-" if score is None else f"{score:.3f}" for score in scores]
        classes.add_row(markup.escape(name), *shown, str(values["n_examples"]))
    console.print(classes)


def draw_confusion_matrix(
    path: pathlib.Path, matrix: Sequence[Sequence[int]], class_names: Sequence[str], title: str
) -> None:
    """Draws counts, coloured by their share of the true class."""
    counts = np.asarray(matrix)
    size = 2.5 + 0.55 * len(class_names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(shares, display_labels=class_names)
    display.plot(
        ax=axes, cmap="Blues", include_values=False, im_kw={"vmin": 0, "vmax": 1}, colorbar=False
    )
    figure.colorbar(display.im_, ax=axes, label="share of the true class")
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    with matplotlib.rc_context({"savefig.dpi": 120}):
        figure.savefig(path)


def write_predictions(
    path: pathlib.Path, predictions: Predictions, class_names: Sequence[str]
) -> None:
    """Writes a CSV file: id, true class, predicted class and the probability of each class."""
    probabilities = scipy.special.softmax(predictions.logits, axis=-1)
    names = np.asarray(class_names)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "prediction", *(f"p({name})" for name in names)])
        for identity, label, row in zip(
            predictions.ids, predictions.labels, probabilities, strict=True
        ):
            writer.writerow(
                [identity, names[label], names[row.argmax()], *(f"{p:.6f}" for p in row)]
            )
    os.replace(partial, path)
