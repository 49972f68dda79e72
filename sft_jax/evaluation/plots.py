"""Pictures of results: those of each task, confusion matrix and scatter plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sft_jax.evaluation import pictures, probability_plots
from sft_jax.evaluation.calibration import temperature_of_result
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import BREAKDOWN
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.runs.storage import AnyPath

MAX_COUNTED = 40
"""Largest number of classes whose counts are written into a confusion matrix."""
MAX_NAMED = 100
"""Largest number of classes that are named in a confusion matrix."""
MAX_SQUARES = 2_000
"""Largest number of rows of a confusion matrix; with more classes, neighbours are merged."""
MAX_PANELS = 24
"""Largest number of targets that are drawn, each in a panel."""
MAX_POINTS = 20_000
"""Largest number of examples that are drawn in a panel."""

_MAX_SIDE = 17.0  # Inches.
_NAME_COLUMNS = 32


def draw(folder: AnyPath, name: str, result: Mapping[str, Any], predictions: Predictions) -> None:
    """Draws the pictures of a task.

    | file | task |
    | --- | --- |
    | `NAME_confusion_matrix.png` | classes |
    | `NAME_per_label.png`, metrics of each label | labels |
    | `NAME_scatter.png`, predicted against true numbers | regression |
    | `NAME_reliability.png`, of the probabilities | classes and labels |
    | `NAME_roc_pr.png`, ROC and precision-recall curves | two classes, labels |

    An error while drawing is logged as a warning that names the picture.

    Args:
      folder: Folder of the pictures.
      name: First part of the files' names.
      result: Metrics of the predictions.
      predictions: Predictions of a split.
    """
    for kind in _kinds(predictions):
        path = folder / f"{name}_{kind}.png"
        with pictures.reported(path):
            _draw_kind(kind, path, name, result, predictions)


def _kinds(predictions: Predictions) -> list[str]:
    if predictions.task == "regression":
        return ["scatter"]
    first = "per_label" if predictions.task == "multi_label" else "confusion_matrix"
    ranks = first == "per_label" or predictions.logits.shape[1] == 2
    return [first, "reliability", *["roc_pr"] * ranks]


def _draw_kind(
    kind: str, path: AnyPath, name: str, result: Mapping[str, Any], predictions: Predictions
) -> None:
    names = tuple(result[BREAKDOWN[predictions.task]])
    score, count = SCORE_NAMES[predictions.task], result["n_examples"]
    title = f"{name}: {score} {result[score]:.3f} of {count}"
    if kind == "scatter":
        draw_scatter(path, predictions.labels, predictions.logits, names, title)
    elif kind == "confusion_matrix":
        draw_confusion_matrix(path, result["confusion_matrix"], names, title)
    elif kind == "per_label":
        probability_plots.draw_per_label(path, result["per_label"], count, title)
    elif kind == "reliability":
        temperature = temperature_of_result(result)
        probability_plots.draw_reliability(path, predictions, temperature, title)
    elif columns := probability_plots.ranked(predictions, names):
        probability_plots.draw_roc_pr(path, columns, title)


def draw_confusion_matrix(
    path: AnyPath, matrix: Sequence[Sequence[int]], class_names: Sequence[str], title: str
) -> None:
    """Draws counts, coloured by their share of the true class.

    From 100 classes on, the size of the picture is fixed. Above `MAX_COUNTED` classes, counts are
    not written. Above `MAX_NAMED`, only evenly spaced classes are named. Above `MAX_SQUARES`,
    neighbouring classes are merged.

    Args:
      path: Path of the picture.
      matrix: Counts by true and predicted class.
      class_names: Names of the classes, in their order; long names lose their middle.
      title: Title of the picture.
    """
    counts = np.asarray(matrix)
    n = len(class_names)
    pitch = min(max(16 / n, _MAX_SIDE / MAX_NAMED), 0.55)
    side = min(max(pitch * n, 2.2), _MAX_SIDE)
    named = range(0, n, -(-n // MAX_NAMED))
    names = pictures.labels({i: class_names[i] for i in named}, _NAME_COLUMNS)
    font = 10 if pitch > 0.25 else 8
    longest = max(map(pictures.columns, names)) * 0.6 * font / 72
    size = (side + longest + 1.6, side + longest + 1.2)
    # The picture has pixels for no more than `MAX_SQUARES` squares.
    merged = -(-n // MAX_SQUARES)
    for axis in (0, 1):
        counts = np.add.reduceat(counts, np.arange(0, n, merged), axis=axis)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with pictures.drawn(path, size, [*names, title]) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, label="share of the true class", aspect=40, pad=0.02)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_title(pictures.wrapped(title, int(size[0] * 10)))
        rotation = 90 if longest > 0.9 * side / n else 0
        ticks = [i / merged for i in named]
        axes.set_xticks(ticks, names, rotation=rotation, fontsize=font)
        axes.set_yticks(ticks, names, fontsize=font)
        if n > MAX_COUNTED:
            return
        # The largest font in which the longest count stays within its square.
        count_font = min(10.0, pitch * 72 / (0.65 * len(str(counts.max()))))
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, str(count), ha="center", va="center", color=colour,
                fontsize=count_font,
            )  # fmt: skip


def draw_scatter(
    path: AnyPath,
    targets: Float[np.ndarray, "n c"],
    predicted: Float[np.ndarray, "n c"],
    names: Sequence[str],
    title: str,
) -> None:
    """Draws predicted against true numbers, one panel for each target.

    Only the first `MAX_PANELS` targets are drawn, and at most `MAX_POINTS` evenly spaced
    examples. The title says so.

    Args:
      path: Path of the picture.
      targets: True numbers of each example.
      predicted: Predicted numbers of each example.
      names: Names of the targets.
      title: Title of the picture.
    """
    drawn, step = names[:MAX_PANELS], -(-len(targets) // MAX_POINTS)
    if len(drawn) < len(names):
        title += f"; the first {len(drawn)} of {len(names)} numbers"
    if step > 1:
        title += f"; one of {step} examples is drawn"
    columns = min(len(drawn), 4)
    rows = -(-len(drawn) // columns)
    size = (3.5 * columns + 0.5, 3.5 * rows + 0.5)
    with pictures.drawn(path, size, [*drawn, title]) as figure:
        figure.suptitle(pictures.wrapped(title, int(size[0] * 10)))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(drawn) :]:
            axes.set_axis_off()
        for i, name in enumerate(drawn):
            axes = panels[i]
            axes.scatter(targets[::step, i], predicted[::step, i], s=8, alpha=0.5)
            middle = float(targets[::step, i].mean())
            axes.axline((middle, middle), slope=1, color="grey", linewidth=1)
            axes.set(xlabel="true", ylabel="predicted")
            axes.set_title(pictures.shortened(name, _NAME_COLUMNS))
