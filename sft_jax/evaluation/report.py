"""Metrics as a person reads them: tables, a picture, a file of predictions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
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
from sft_jax.evaluation.metrics import FAMILIES, PARTS
from sft_jax.evaluation.scores import check_outputs
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.structs import CLASS_TASKS
from sft_jax.training import storage
from sft_jax.training.storage import AnyPath


def print_tables(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the metrics of a split, and those of each class, label or target.

    Each family of metrics beside those of the task has a table of its own, without its classes.
    """
    console.print(
        f"{result['split']}: {result['n_examples']} examples,"
        f" {result['checkpoint']} checkpoint, step {result['step']}"
        + (f", {', '.join(result['modalities'])} alone" if result.get("left_out") else ""),
        highlight=False,
    )
    of_task = {k: v for k, v in result.items() if v is None or isinstance(v, float)}
    console.print(_values_table("metric", of_task))
    for family in FAMILIES:
        if family in result:
            console.print(_values_table(family, result[family]))
    (key,) = set(result) & set(PARTS.values())
    parts = Table()
    parts.add_column(key.removeprefix("per_"))
    for name in next(iter(result[key].values())):
        parts.add_column(name.removeprefix("n_"), justify="right")
    for name, values in result[key].items():
        parts.add_row(markup.escape(name), *(_shown(value, 3) for value in values.values()))
    console.print(parts)


def _values_table(heading: str, values: Mapping[str, Any]) -> Table:
    """A table of names and values; a list is one of names, and what is nested is left out."""
    table = Table()
    table.add_column(heading)
    table.add_column("value", justify="right")
    for name, value in values.items():
        if isinstance(value, list):
            table.add_row(name, markup.escape(", ".join(value)) or "-")
        elif not isinstance(value, dict):
            table.add_row(name, _shown(value, 4))
    return table


def print_subsets(console: Console, result: Mapping[str, Any]) -> None:
    """Prints what `evaluate_every_subset` found, a row for each subset."""
    console.print(
        f"{result['split']}: {result['n_examples']} examples,"
        f" {result['checkpoint']} checkpoint, step {result['step']}",
        highlight=False,
    )
    table = Table()
    table.add_column("modalities")
    for name in (result["score"], "loss"):
        table.add_column(name, justify="right")
    for row in result["subsets"]:
        values = (_shown(row[name], 4) for name in (result["score"], "loss"))
        table.add_row(", ".join(row["modalities"]), *values)
    console.print(table)


def print_seeds(console: Console, result: Mapping[str, Any]) -> None:
    """Prints what `sft_jax.evaluation.seeds.evaluate_seeds` found, a row for each metric.

    Each family of metrics beside those of the task has a table of its own.
    """
    console.print(
        f"{result['split']}: {result['n_examples']} examples, {result['n_seeds']} seeds,"
        f" {result['checkpoint']} checkpoint"
        + (f", {', '.join(result['modalities'])} alone" if result["left_out"] else "")
        + "; ± is the sample standard deviation over the seeds",
        highlight=False,
    )
    if result["unfinished"]:
        console.print(
            f"not trained to the end yet: seeds {', '.join(map(str, result['unfinished']))}",
            highlight=False,
        )
    of_task = {name: of for name, of in result["metrics"].items() if name not in FAMILIES}
    console.print(_seeds_table("metric", result, of_task))
    for family in FAMILIES:
        if family in result["metrics"]:
            console.print(_seeds_table(family, result, result["metrics"][family]))


def _seeds_table(heading: str, result: Mapping[str, Any], metrics: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column(heading)
    for name in (*(f"seed {seed}" for seed in result["seeds"]), "mean ± std"):
        table.add_column(name, justify="right")
    for name, of in metrics.items():
        values = (_shown(value, 4) for value in of["values"])
        table.add_row(name, *values, f"{_shown(of['mean'], 4)} ± {_shown(of['std'], 4)}")
    table.add_section()
    table.add_row("step", *map(str, result["steps"]), "")
    return table


def _shown(value: float | int | str | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def draw(folder: AnyPath, name: str, result: Mapping[str, Any], predictions: Predictions) -> None:
    """Draws what there is to draw of a task, as `NAME_WHAT.png`.

    A confusion matrix of classes, ordered or not; predicted against true numbers; of labels
    nothing.
    """
    if predictions.task == "multi_label":
        return
    names = tuple(result[PARTS[predictions.task]])
    score = SCORE_NAMES[predictions.task]
    title = f"{name}: {score} {result[score]:.3f} of {result['n_examples']}"
    if predictions.task == "regression":
        draw_scatter(folder / f"{name}_scatter.png", predictions, names, title)
    else:
        path = folder / f"{name}_confusion_matrix.png"
        draw_confusion_matrix(path, result["confusion_matrix"], names, title)


def draw_confusion_matrix(
    path: AnyPath, matrix: Sequence[Sequence[int]], class_names: Sequence[str], title: str
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
    _save(figure, path)


def draw_scatter(path: AnyPath, predictions: Predictions, names: Sequence[str], title: str) -> None:
    """Draws the predictions of a regression against the truth, one panel for each number."""
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.5 * columns + 0.5, 3.5 * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for i, name in enumerate(names):
        axes = panels[i]
        true, predicted = predictions.labels[:, i], predictions.logits[:, i]
        axes.scatter(true, predicted, s=8, alpha=0.5)
        middle = float(true.mean())
        axes.axline((middle, middle), slope=1, color="grey", linewidth=1)
        axes.set(title=name, xlabel="true", ylabel="predicted")
    _save(figure, path)


def _save(figure: Figure, path: AnyPath) -> None:
    picture = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 120}):
        figure.savefig(picture, format=path.suffix[1:])
    storage.write_whole(path, picture.getvalue())


def write_predictions(path: AnyPath, predictions: Predictions, names: Sequence[str]) -> None:
    """Writes a CSV file with a line for each example.

    Of classes: id, true class, predicted class and the probability of each class. Of labels
    and of numbers: id and for each of them what is true, and the probability or number
    predicted.

    Raises:
      NotFiniteError: if an output of the model is NaN or infinite.
      OSError: if the file can't be written.
    """
    check_outputs(predictions.logits, predictions.ids)
    if predictions.task in CLASS_TASKS:
        header, rows = _class_columns(predictions, names)
    else:
        header, rows = _number_columns(predictions, names)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", *header])
    for identity, row in zip(predictions.ids, rows, strict=True):
        writer.writerow([identity, *row])
    storage.write_whole(path, text.getvalue())


def _class_columns(
    predictions: Predictions, names: Sequence[str]
) -> tuple[list[str], Iterable[list[str]]]:
    probabilities = scipy.special.softmax(predictions.logits, axis=-1)
    rows = (
        [names[label], names[row.argmax()], *(f"{p:.6f}" for p in row)]
        for label, row in zip(predictions.labels, probabilities, strict=True)
    )
    return ["label", "prediction", *(f"p({name})" for name in names)], rows


def _number_columns(
    predictions: Predictions, names: Sequence[str]
) -> tuple[list[str], Iterable[list[str]]]:
    of_labels = predictions.task == "multi_label"
    predicted = scipy.special.expit(predictions.logits) if of_labels else predictions.logits
    shape, what = (".6f", "p") if of_labels else (".8g", "predicted")
    rows = (
        [*(f"{true:.8g}" for true in label), *(f"{value:{shape}}" for value in row)]
        for label, row in zip(predictions.labels, predicted, strict=True)
    )
    return [f"{part}({name})" for part in ("true", what) for name in names], rows
