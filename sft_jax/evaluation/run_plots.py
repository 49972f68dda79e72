"""Pictures of a run: learning curves, and its score with each set of modalities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sft_jax.evaluation import pictures
from sft_jax.runs.directory import RunDirectory
from sft_jax.runs.storage import AnyPath

_SMOOTHED = 25
"""Number of reports of training whose mean is drawn."""


def read_scalars(run: RunDirectory) -> dict[str, tuple[list[int], list[float]]]:
    """Reads the scalars that training has reported: steps and values by name."""
    if not run.metrics_file.exists():
        return {}
    scalars: dict[str, tuple[list[int], list[float]]] = {}
    for text in run.metrics_file.read_text().splitlines(keepends=True):
        if not text.endswith("}\n"):  # A line was cut short by a kill.
            continue
        line = json.loads(text)
        step = line.pop("step")
        for name, value in line.items():
            steps, values = scalars.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    return scalars


def draw_learning_curves(
    path: AnyPath,
    scalars: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    title: str,
    best_step: int | None = None,
) -> None:
    """Draws each metric of training and validation, and the learning rate.

    Args:
      path: Path of the picture.
      scalars: Result of `read_scalars`.
      title: Title of the picture.
      best_step: Step of the best checkpoint, which is marked.
    """
    valid = [name.removeprefix("valid/") for name in scalars if name.startswith("valid/")]
    rate = ["learning_rate"] if "train/learning_rate" in scalars else []
    names = [*valid, *rate]
    with pictures.drawn(path, (4.4 * len(names), 3.8), [title, *names]) as figure:
        figure.suptitle(pictures.wrapped(title, 40 * len(names)))
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            if f"train/{name}" in scalars:
                steps, values = scalars[f"train/{name}"]
                smooth = name != "learning_rate" and len(values) > _SMOOTHED
                axes.plot(steps, values, color="C0", alpha=0.25 if smooth else 1)
                if smooth:
                    axes.plot(steps, _smoothed(values), color="C0")
                axes.plot([], [], color="C0", label="train")
            if f"valid/{name}" in scalars:
                axes.plot(*scalars[f"valid/{name}"], "o-", color="C1", label="valid", markersize=4)
                if best_step is not None:
                    axes.axvline(best_step, color="grey", linestyle=":", label="best checkpoint")
                axes.legend()
            axes.set(xlabel="step")
            axes.set_title(name.replace("_", " "))
            pictures.tidy(axes)


def draw_subsets(path: AnyPath, result: Mapping[str, Any], title: str) -> None:
    """Draws the score with each set of modalities as bars.

    Args:
      path: Path of the picture.
      result: Result of `sft_jax.evaluation.run.evaluate_every_subset`.
      title: Title of the picture.
    """
    rows, score = result["subsets"], result["score"]
    names = [" + ".join(row["modalities"]) for row in rows]
    short = pictures.labels(dict(enumerate(names)), 48)
    with pictures.drawn(path, (8, 1.4 + 0.4 * len(rows)), [*short, title]) as figure:
        axes = figure.subplots()
        most = max(len(row["modalities"]) for row in rows)
        colours = ["C0" if len(row["modalities"]) == most else "lightsteelblue" for row in rows]
        bars = axes.barh(range(len(rows)), [row[score] for row in rows], color=colours)
        axes.bar_label(bars, fmt=" {:.3f}")
        axes.set_yticks(range(len(rows)), short)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel=score)
        axes.set_title(pictures.wrapped(title, 75))
        axes.spines[["top", "right"]].set_visible(False)


def _smoothed(values: Sequence[float]) -> np.ndarray:
    """Means over the last `_SMOOTHED` values, fewer at the beginning."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - _SMOOTHED, 0)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means
