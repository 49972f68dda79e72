"""A comparison as a table, a CSV file and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from rich import box, markup
from rich.console import Console
from rich.table import Table

from sft_jax.compare.comparison import Comparison, Line
from sft_jax.compare.intervals import Interval
from sft_jax.evaluation import pictures
from sft_jax.profile.tables import flops_unit, set_log_scale
from sft_jax.runs import storage
from sft_jax.runs.storage import AnyPath
from sft_jax.wording import plural

_NAME_COLUMNS = 60

_LOGARITHMIC = 10
"""Ratio of costs above which their axis is logarithmic."""


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Prints a line for each row, and below the table what the intervals and differences are.

    Args:
      console: Terminal or file to print to.
      comparison: Result of `sft_jax.compare.comparison.compare`.
    """
    percent = f"{100 * comparison.confidence:g} %"
    console.print(
        f"{comparison.split}: {comparison.n_examples} {plural('example', comparison.n_examples)},"
        f" {comparison.checkpoint} checkpoint",
        highlight=False,
    )
    unit, letter = flops_unit(max(line.flops for line in comparison.lines))
    table = Table(box=box.SIMPLE)
    table.add_column("run", overflow="fold")
    for name in (
        comparison.metric,
        "runs",
        "difference",
        f"{percent}, runs",
        f"{percent}, examples",
        f"{percent}, both",
        "parameters",
        f"{letter}FLOPs",
        "ms",
    ):
        table.add_column(name, justify="right")
    for line in comparison.lines:
        table.add_row(markup.escape(line.name), *_cells(line, unit))
    console.print(table)
    for text in _explanations(comparison):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _cells(line: Line, unit: float) -> Iterator[str]:
    mean = "-" if line.mean is None else f"{line.mean:.4f}"
    yield mean if line.std is None else f"{mean} ± {line.std:.4f}"
    yield str(len(line.values))
    difference = line.difference
    yield "-" if difference is None else f"{difference.mean:+.4f}"
    yield _interval(difference.runs if difference else None)
    yield _interval(difference.examples if difference else None)
    yield _interval(difference.both if difference else None)
    yield f"{line.parameters:,}"
    yield f"{line.flops / unit:#.3g}"
    yield "-" if line.milliseconds is None else f"{line.milliseconds:.2f}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def _explanations(comparison: Comparison) -> Iterator[str]:
    yield (
        f"± is the sample standard deviation over runs. A difference is that from"
        f" {comparison.baseline}, in pairs of one seed or fold. Intervals: Student's t over pairs;"
        " bootstrap over examples, and over pairs and examples together."
    )
    cost = "Parameters, operations and time are those of one example of full length"
    measured = any(line.milliseconds is not None for line in comparison.lines)
    yield f"{cost}, on {comparison.device}." if measured else f"{cost}."
    yield from comparison.notes


def write_csv(path: AnyPath, comparison: Comparison) -> None:
    """Writes a CSV file with a line for each row; a value that is not known is empty.

    Args:
      path: Path of the file.
      comparison: Result of `sft_jax.compare.comparison.compare`.

    Raises:
      OSError: If the file can't be written.
    """
    records = [_record(comparison, line) for line in comparison.lines]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*records[0]])
    writer.writeheader()
    writer.writerows(records)
    storage.write_whole(path, text.getvalue())


def _record(comparison: Comparison, line: Line) -> dict[str, Any]:
    difference = line.difference
    runs = (difference and difference.runs) or (None, None)
    examples = (difference and difference.examples) or (None, None)
    both = (difference and difference.both) or (None, None)
    return {
        "run": line.name,
        "path": str(line.path),
        "split": comparison.split,
        "checkpoint": comparison.checkpoint,
        "metric": comparison.metric,
        "mean": line.mean,
        "std": line.std,
        "n": len(line.values),
        "labels": "; ".join(line.labels),
        "values": "; ".join("" if value is None else repr(value) for value in line.values),
        "baseline": comparison.baseline,
        "difference": difference and difference.mean,
        "pairs": difference and difference.pairs,
        "confidence": comparison.confidence,
        "runs_low": runs[0],
        "runs_high": runs[1],
        "examples_low": examples[0],
        "examples_high": examples[1],
        "both_low": both[0],
        "both_high": both[1],
        "parameters": line.parameters,
        "flops": line.flops,
        "milliseconds": line.milliseconds,
    }


def draw_comparison(path: AnyPath, comparison: Comparison) -> None:
    """Draws the metric against operations and, if measured, against time.

    Error bars are sample standard deviations over runs.

    Args:
      path: Path of the picture.
      comparison: Result of `sft_jax.compare.comparison.compare`.
    """
    lines = [line for line in comparison.lines if line.mean is not None]
    if not lines:
        raise ValueError(f"{comparison.metric} is undefined for all runs")
    unit, letter = flops_unit(max(line.flops for line in lines))
    panels: dict[str, list[Any]] = {
        f"{letter}FLOPs of one example": [line.flops / unit for line in lines]
    }
    if all(line.milliseconds is not None for line in lines):
        times = [line.milliseconds for line in lines]
        panels[f"ms of one example, {comparison.device}"] = times
    title = f"{comparison.metric} on {comparison.split}, {comparison.checkpoint} checkpoint"
    names = pictures.labels(dict(enumerate(line.name for line in lines)), _NAME_COLUMNS)
    size = (5 * len(panels) + 3, max(4.0, 0.25 * len(lines) + 1))
    with pictures.drawn(path, size, [title, *names, *panels]) as figure:
        figure.suptitle(title)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, (label, costs) in zip(axes, panels.items(), strict=True):
            for name, line, cost in zip(names, lines, costs, strict=True):
                # Names beside the points would cover each other.
                panel.errorbar(cost, line.mean, yerr=line.std, fmt="o", capsize=3, label=name)
            if max(costs) > _LOGARITHMIC * min(costs):
                set_log_scale(panel)
            panel.set(xlabel=label, ylabel=comparison.metric)
            panel.grid(alpha=0.3, which="both")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
