"""Metrics as a person reads them: tables, a picture, a file of predictions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import scipy.special
from rich import markup
from rich.console import Console
from rich.table import Table

from sft_jax.evaluation import pictures, subsets
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import FAMILIES, PARTS
from sft_jax.evaluation.scores import check_outputs
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.runs import storage
from sft_jax.runs.storage import AnyPath
from sft_jax.structs import CLASS_TASKS


def print_tables(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the metrics of a split, and those of each class, label or target.

    Each family of metrics beside those of the task has a table of its own, without its classes.
    """
    console.print(
        f"{result['split']}: {result['n_examples']} examples,"
        f" {result['checkpoint']} checkpoint, step {result['step']}"
        + (f", {', '.join(result['modalities'])} alone" if result.get("left_out") else "")
        + _other_data(result),
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


def _other_data(result: Mapping[str, Any]) -> str:
    own = result.get("data", subsets.OWN) == subsets.OWN
    return "" if own else f", other data ({result['data'][:12]})"


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
        f" {result['checkpoint']} checkpoint, step {result['step']}{_other_data(result)}",
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
        + _other_data(result)
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


MOST_COUNTED = 40
"""The counts are written into a confusion matrix of as many classes at most."""
MOST_NAMED = 100
"""Of more classes than these not all are named in a confusion matrix."""
MOST_SQUARES = 2_000
"""Of more classes than these neighbours are drawn as one."""
MOST_PANELS = 24
"""Of more numbers than these the first are drawn."""
MOST_POINTS = 20_000
"""Of more examples than these some are drawn."""

_SIDE = 17.0
_NAME_COLUMNS = 32


def draw(folder: AnyPath, name: str, result: Mapping[str, Any], predictions: Predictions) -> None:
    """Draws what there is to draw of a task, as `NAME_WHAT.png`.

    A confusion matrix of classes, ordered or not; predicted against true numbers; of labels
    nothing. What goes wrong is logged as a warning that names the picture.
    """
    if predictions.task == "multi_label":
        return
    what = "scatter" if predictions.task == "regression" else "confusion_matrix"
    path = folder / f"{name}_{what}.png"
    with pictures.reported(path):
        names = tuple(result[PARTS[predictions.task]])
        score = SCORE_NAMES[predictions.task]
        title = f"{name}: {score} {result[score]:.3f} of {result['n_examples']}"
        if predictions.task == "regression":
            draw_scatter(path, predictions, names, title)
        else:
            draw_confusion_matrix(path, result["confusion_matrix"], names, title)


def draw_confusion_matrix(
    path: AnyPath, matrix: Sequence[Sequence[int]], class_names: Sequence[str], title: str
) -> None:
    """Draws counts, coloured by their share of the true class.

    The picture is of the same size for 100 classes and for more. Of more than `MOST_NAMED` some
    are named, evenly spread, of more than `MOST_COUNTED` the counts are not written, and of more
    than `MOST_SQUARES` neighbours are drawn as one.

    Args:
      path: of the picture.
      matrix: counts by true and predicted class.
      class_names: in the order of the classes. Long ones lose their middle.
      title: of the picture.
    """
    counts = np.asarray(matrix)
    n = len(class_names)
    pitch = min(max(16 / n, _SIDE / MOST_NAMED), 0.55)
    side = min(max(pitch * n, 2.2), _SIDE)
    named = range(0, n, -(-n // MOST_NAMED))
    names = pictures.labels({i: class_names[i] for i in named}, _NAME_COLUMNS)
    font = 10 if pitch > 0.25 else 8
    longest = max(map(pictures.columns, names)) * 0.6 * font / 72
    size = (side + longest + 1.6, side + longest + 1.2)
    # As many squares as there are pixels for.
    together = -(-n // MOST_SQUARES)
    for axis in (0, 1):
        counts = np.add.reduceat(counts, np.arange(0, n, together), axis=axis)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with pictures.drawn(path, size, [*names, title]) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, label="share of the true class", aspect=40, pad=0.02)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_title(pictures.wrapped(title, int(size[0] * 10)))
        rotation = 90 if longest > 0.9 * side / n else 0
        places = [i / together for i in named]
        axes.set_xticks(places, names, rotation=rotation, fontsize=font)
        axes.set_yticks(places, names, fontsize=font)
        if n > MOST_COUNTED:
            return
        # As large as it may be for the longest count to stay within its square.
        font_of_counts = min(10.0, pitch * 72 / (0.65 * len(str(counts.max()))))
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, str(count), ha="center", va="center", color=colour,
                fontsize=font_of_counts,
            )  # fmt: skip


def draw_scatter(path: AnyPath, predictions: Predictions, names: Sequence[str], title: str) -> None:
    """Draws the predictions of a regression against the truth, one panel for each number.

    Of more than `MOST_PANELS` numbers the first are drawn, and of more than `MOST_POINTS` examples
    some, evenly spread; the title says so.
    """
    shown, step = names[:MOST_PANELS], -(-len(predictions.labels) // MOST_POINTS)
    if len(shown) < len(names):
        title += f"; the first {len(shown)} of {len(names)} numbers"
    if step > 1:
        title += f"; one of {step} examples is drawn"
    columns = min(len(shown), 4)
    rows = -(-len(shown) // columns)
    size = (3.5 * columns + 0.5, 3.5 * rows + 0.5)
    with pictures.drawn(path, size, [*shown, title]) as figure:
        figure.suptitle(pictures.wrapped(title, int(size[0] * 10)))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        for i, name in enumerate(shown):
            axes = panels[i]
            true, predicted = predictions.labels[::step, i], predictions.logits[::step, i]
            axes.scatter(true, predicted, s=8, alpha=0.5)
            middle = float(true.mean())
            axes.axline((middle, middle), slope=1, color="grey", linewidth=1)
            axes.set(xlabel="true", ylabel="predicted")
            axes.set_title(pictures.shortened(name, _NAME_COLUMNS))


def write_predictions(path: AnyPath, predictions: Predictions, names: Sequence[str]) -> None:
    """Writes a CSV file with a line for each example.

    Of classes: id, true class, predicted class and the probability of each class. Of labels
    and of numbers: id and for each of them what is true, and the probability or number
    predicted. One of several processes writes it.

    Raises:
      NotFiniteError: if an output of the model is NaN or infinite.
      OSError: if the file can't be written.
    """
    check_outputs(predictions.logits, predictions.ids)
    if jax.process_index():
        return
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
