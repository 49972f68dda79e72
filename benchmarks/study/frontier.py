"""Pictures of accuracy against cost: one for each set of the study, and an overview of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from adjustText import adjust_text
from matplotlib import figure, pyplot, ticker

from benchmarks.study import counts
from benchmarks.study.sets import CLS_ALONE, SETS, SFT

FAMILIES = {"sft": "C0", "mbt": "C1", "concat": "C2", "late": "C4", "mult": "C5", "unimodal": "C7"}
"""Colour of each model."""
_OVERVIEW = (CLS_ALONE, "random tokens", "all tokens", "no windows", "concat", "late", "mbt")
"""Rows of the overview beside that of SFT."""
_WIDE = 30  # Ratio of an axis from which its ticks are fewer.
_NEAR = 0.04  # Share of an axis within which levels share a label.


class Point(NamedTuple):
    """Model in the picture.

    Attributes:
      name: Name of the row; empty for one of several settings of a run.
      model: Value of `model.name`.
      flops: Operations of matrix products of one example.
      seconds: Median time of one example; None if it was not measured.
      mean: Mean of the metric over seeds.
      below: Length of the bar below it.
      above: Length of the bar above it.
    """

    name: str
    model: str
    flops: float
    seconds: float | None
    mean: float
    below: float
    above: float


def points(result: Mapping[str, Any]) -> Iterator[Point]:
    """Points of the rows of a result, and of the settings that runs were evaluated with.

    Bars are the sample standard deviation over seeds. Models of one modality are left out: they
    lie so far below that the others could not be told apart.
    """
    metric, cost = result["metric"], result.get("cost", {"rows": {}})["rows"]
    for name, row in result["rows"].items():
        if "changes" not in row or model_name(row) == "unimodal":
            continue
        model, seconds = model_name(row), None
        if name in cost:
            seconds = cost[name]["latency_seconds"]["median"]
        yield Point(name, model, row[counts.FIELD], seconds, *_spread(row["test"][metric]))
        for line in row.get("settings", ()):
            yield Point("", model, line[counts.FIELD], None, *_spread(line["metrics"][metric]))


def model_name(row: Mapping[str, Any]) -> str:
    """Value of `model.name` of a row of trained runs."""
    return row["changes"].get("model.name", "sft")


def _spread(tested: Mapping[str, Any]) -> tuple[float, float, float]:
    deviation = tested["std"] or 0.0
    return tested["mean"], deviation, deviation


def relative(result: Mapping[str, Any]) -> Iterator[Point]:
    """Points of some rows relative to SFT: multiples of its operations, and differences.

    Differences are in hundredths, and bars their paired 95 % intervals.
    """
    first = result["rows"][SFT]
    yield Point(SFT, model_name(first), 1.0, None, 0.0, 0.0, 0.0)
    for name in _OVERVIEW:
        row = result["rows"].get(name, {})
        found = row.get("differences", {}).get(SFT)
        if found and found["both"]:
            mean, (low, high) = 100 * found["mean"], (100 * end for end in found["both"])
            ratio = row[counts.FIELD] / first[counts.FIELD]
            yield Point(name, model_name(row), ratio, None, mean, mean - low, high - mean)


def overview(results: Sequence[Mapping[str, Any]]) -> figure.Figure:
    """Draws the rows of several sets relative to SFT.

    Args:
      results: Results of `python -m benchmarks.study`.
    """
    drawn, axes = pyplot.subplots(
        1, len(results), figsize=(2.9 * len(results) + 0.6, 3.4), sharey=True, squeeze=False
    )
    for axis, result in zip(axes[0], results, strict=True):
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set_title(SETS[result["set"]].title, fontsize=9)
        pairs = [(point, point.flops) for point in relative(result)]
        _logarithmic(axis, "FLOPs, multiple of SFT", [x for _, x in pairs])
        _panel(axis, pairs)
    axes[0][0].set_ylabel("points minus SFT, 95 %")
    drawn.tight_layout()
    return drawn


def draw(result: Mapping[str, Any]) -> figure.Figure:
    """Draws the metric against operations, and against time where it was measured.

    Args:
      result: Result of `python -m benchmarks.study`.
    """
    found = [*points(result)]
    panels: dict[str, list[tuple[Point, float]]] = {
        "MFLOPs of one example": [(point, point.flops / 1e6) for point in found],
        "ms of one example": [(p, 1e3 * p.seconds) for p in found if p.seconds is not None],
    }
    panels = {label: pairs for label, pairs in panels.items() if pairs}
    drawn, axes = pyplot.subplots(
        1, len(panels), figsize=(6.2 * len(panels), 4.6), sharey=True, squeeze=False
    )
    for axis, (label, pairs) in zip(axes[0], panels.items(), strict=True):
        _logarithmic(axis, label, [x for _, x in pairs])
        levels = _levels(axis, result)
        _panel(axis, pairs)
        _label(axis, levels)
    axes[0][0].set_ylabel(result["metric"].replace("_", " "))
    drawn.tight_layout()
    return drawn


def _logarithmic(axis: Any, label: str, values: Sequence[float]) -> None:
    axis.set(xlabel=label, xscale="log")
    narrow = max(values) < _WIDE * min(values)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5) if narrow else (1, 3)))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))


def _panel(axis: Any, pairs: list[tuple[Point, float]]) -> None:
    texts = []
    for point, x in pairs:
        colour = FAMILIES.get(point.model, "C7")
        marker = "o" if point.name else "."
        bars = [[point.below], [point.above]]
        axis.errorbar(x, point.mean, bars, fmt=marker, color=colour, alpha=0.6, capsize=2)
        if point.name:
            texts.append(axis.text(x, point.mean, point.name, fontsize=7, color=colour))
    # Iterations in place of seconds, so that a picture does not depend on the machine.
    lines = {"arrowstyle": "-", "color": "0.7", "linewidth": 0.5}
    axis.margins(x=0.15)
    places = {"x": [x for _, x in pairs], "y": [point.mean for point, _ in pairs]}
    forces = {"force_static": (0.6, 0.6), "force_text": (0.4, 0.8), "max_move": None}
    how = {"expand": (1.5, 1.6), "iter_lim": 1000, **forces}
    adjust_text(texts, **places, ax=axis, **how, arrowprops=lines)


def _levels(axis: Any, result: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Draws a level for each model that has no operations to count; returns them from below."""
    levels = sorted(
        (row["test"][result["metric"]]["mean"], name)
        for name, row in result["rows"].items()
        if "changes" not in row
    )
    for mean, _ in levels:
        axis.axhline(mean, color="0.6", linewidth=0.8, linestyle="--")
    return levels


def _label(axis: Any, levels: Sequence[tuple[float, str]]) -> None:
    """Names levels beside the axis; names of levels that are near each other form one label."""
    low, high = axis.get_ylim()
    groups: list[list[tuple[float, str]]] = []
    for level in levels:
        if groups and level[0] - groups[-1][-1][0] < _NEAR * (high - low):
            groups[-1].append(level)
        else:
            groups.append([level])
    for group in groups:
        middle = sum(mean for mean, _ in group) / len(group)
        names = "\n".join(name for _, name in reversed(group))
        style = {"fontsize": 7, "color": "0.4", "va": "center"}
        axis.text(1.01, middle, names, transform=axis.get_yaxis_transform(), **style)
