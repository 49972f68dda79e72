"""Pictures of results: confusion matrix and scatter plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sft_jax.evaluation import pictures
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
    """Draws the picture of a task.

    Classes give `NAME_confusion_matrix.png`. Numbers give `NAME_scatter.png`, predicted against
    true. Labels give no picture. An error while drawing is logged as a warning that names the
    picture.

    Args:
      folder: Folder of the picture.
      name: First part of the file's name.
      result: Metrics of the predictions.
      predictions: Predictions of a split.
    """
    if predictions.task == "multi_label":
        return
    kind = "scatter" if predictions.task == "regression" else "confusion_matrix"
    path = folder / f"{name}_{kind}.png"
    with pictures.reported(path):
        names = tuple(result[BREAKDOWN[predictions.task]])
        score = SCORE_NAMES[predictions.task]
        title = f"{name}: {score} {result[score]:.3f} of {result['n_examples']}"
        if predictions.task == "regression":
            draw_scatter(path, predictions.labels, predictions.logits, names, title)
        else:
            draw_confusion_matrix(path, result["confusion_matrix"], names, title)


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
