"""Pictures of probabilities: reliability, ROC and precision-recall curves, metrics by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn import metrics

from sft_jax.evaluation import pictures
from sft_jax.evaluation.binary import log_odds
from sft_jax.evaluation.calibration import BINS, reliability
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.runs.storage import AnyPath

MAX_CURVES = 10
"""Largest number of labels whose curves are drawn."""
MAX_BARS = 40
"""Largest number of labels whose metrics are drawn."""

MAX_INSIDE = 3
"""Largest number of labels that are named inside the curves."""

_NAME_COLUMNS = 32


def draw_reliability(
    path: AnyPath, predictions: Predictions, temperature: float, title: str
) -> None:
    """Draws the frequency of what is predicted against its probability, above a histogram.

    Args:
      path: Path of the picture.
      predictions: Predictions of classes or labels.
      temperature: Temperature that was fitted; a second curve shows it unless it is 1.
      title: Title of the picture.
    """
    curves = {"the model's own": reliability(predictions)}
    if temperature != 1:
        curves[f"at temperature {temperature:.3g}"] = reliability(predictions, temperature)
    edges = np.linspace(0, 1, BINS + 1)
    with pictures.drawn(path, (5.2, 6), [title]) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color="grey", linewidth=1)
        for number, (name, bins) in enumerate(curves.items()):
            filled, colour = bins.size > 0, f"C{number}"
            label = f"{name}, ECE {bins.error:.3f}"
            upper.plot(
                bins.probability[filled], bins.frequency[filled], "o-", color=colour, label=label
            )
            lower.stairs(bins.size / bins.size.sum(), edges, color=colour, fill=not number)
        several = predictions.task == "multi_label"
        upper.set(ylabel="share of examples with the label" if several else "accuracy")
        upper.set(xlim=(0, 1), ylim=(0, 1))
        lower.set(xlabel="probability" if several else "probability of the predicted class")
        lower.set(ylabel="share of all")
        upper.set_title(pictures.wrapped(title, 52))
        upper.legend(loc="best")
        for axes in (upper, lower):
            pictures.tidy(axes)


def ranked(
    predictions: Predictions, names: Sequence[str]
) -> dict[str, tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """Truth and score of each label that varies, or of the second of two classes.

    Args:
      predictions: Predictions of labels or two classes.
      names: Names of the labels or classes.

    Returns:
      Values by name, the most frequent label first.
    """
    if predictions.task == "multi_label":
        truth = predictions.labels > 0.5
        columns = {name: (truth[:, i], predictions.logits[:, i]) for i, name in enumerate(names)}
    else:
        columns = {names[1]: (predictions.labels == 1, log_odds(predictions.logits))}
    varied = {name: pair for name, pair in columns.items() if 0 < pair[0].mean() < 1}
    return dict(sorted(varied.items(), key=lambda item: -item[1][0].sum()))


def draw_roc_pr(
    path: AnyPath,
    columns: Mapping[str, tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]],
    title: str,
) -> None:
    """Draws ROC and precision-recall curves beside each other.

    Args:
      path: Path of the picture.
      columns: Result of `ranked`. The first `MAX_CURVES` are drawn, and the title says so.
      title: Title of the picture.
    """
    drawn = dict([*columns.items()][:MAX_CURVES])
    if len(drawn) < len(columns):
        title += f"; the {len(drawn)} most frequent of {len(columns)} labels"
    short = pictures.labels(dict(enumerate(drawn)), _NAME_COLUMNS)
    few = len(drawn) <= MAX_INSIDE
    with pictures.drawn(path, (10 if few else 14, 5), [*short, title]) as figure:
        figure.suptitle(pictures.wrapped(title, 100))
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color="grey", linewidth=1)
        for name, (truth, score) in zip(short, drawn.values(), strict=True):
            false_positive, sensitivity, _ = metrics.roc_curve(truth, score)
            area = metrics.roc_auc_score(truth, score)
            left.plot(false_positive, sensitivity, label=f"{name}: {area:.3f}")
            precision, recall, _ = metrics.precision_recall_curve(truth, score)
            average = metrics.average_precision_score(truth, score)
            right.plot(recall, precision, drawstyle="steps-pre", label=f"{name}: {average:.3f}")
        if len(drawn) == 1:
            right.axhline(truth.mean(), color="grey", linewidth=1)
        left.set(xlabel="false positive rate", ylabel="sensitivity")
        right.set(xlabel="recall, sensitivity", ylabel="precision")
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        left.legend(title="area under the curve", **({"loc": "lower right"} if few else beside))
        right.legend(title="average precision", **({"loc": "lower left"} if few else beside))
        for axes in (left, right):
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
            pictures.tidy(axes)


def draw_per_label(
    path: AnyPath, per_label: Mapping[str, Mapping[str, Any]], n_examples: int, title: str
) -> None:
    """Draws average precision, area under the ROC curve and F1 of each label.

    Args:
      path: Path of the picture.
      per_label: Metrics of each label; see `sft_jax.evaluation.tasks.multi_label_metrics`. The
        `MAX_BARS` most frequent are drawn, and the title says so.
      n_examples: Number of examples.
      title: Title of the picture.
    """
    order = sorted(per_label, key=lambda name: -per_label[name]["n_examples"])[:MAX_BARS]
    if len(order) < len(per_label):
        title += f"; the {len(order)} most frequent of {len(per_label)} labels"
    rows, short = np.arange(len(order)), pictures.labels(dict(enumerate(order)), _NAME_COLUMNS)

    def column(key: str) -> list[float]:
        values = (per_label[name][key] for name in order)
        return [np.nan if value is None else value for value in values]

    with pictures.drawn(path, (8, 1.8 + 0.32 * len(order)), [*short, title]) as figure:
        axes = figure.subplots()
        axes.barh(rows, column("average_precision"), color="C0", label="average precision")
        shares = [per_label[name]["n_examples"] / n_examples for name in order]
        axes.plot(shares, rows, "|", color="black", markersize=12, label="share of examples")
        axes.plot(column("roc_auc"), rows, "D", color="C1", label="area under ROC")
        axes.plot(column("f1"), rows, "o", color="C2", label="F1")
        axes.set_yticks(rows, short)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.01))
        axes.set_title(pictures.wrapped(title, 75))
        pictures.tidy(axes)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
