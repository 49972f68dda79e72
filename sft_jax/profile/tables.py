"""A table and a picture of the costs of models."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
from rich import box
from rich.console import Console
from rich.table import Table

from sft_jax.evaluation import pictures
from sft_jax.profile.flops import STAGES

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_MIB = 2**20


def print_costs(console: Console, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a table with a column for each model.

    Args:
      console: Console to print to.
      models: Figures of each model by name: those of `sft_jax.profile.measure.count` and, for
        measured models, of `sft_jax.profile.measure.measure`.
    """
    table = Table(box=box.SIMPLE)
    table.add_column("")
    for name in models:
        table.add_column(name, justify="right", no_wrap=True)
    columns = [*models.values()]
    for label, cells in _counted(columns):
        table.add_row(label, *cells)
    if "train_step_seconds" in columns[0]:
        table.add_section()
        for label, cells in _measured(columns):
            table.add_row(label, *cells)
    console.print(table)


_Rows = Iterator[tuple[str, list[str]]]


def _counted(models: Sequence[Mapping[str, Any]]) -> _Rows:
    yield "parameters", [f"{model['parameters']:,}" for model in models]
    yield "forward MFLOPs, products", [_millions(model["forward_flops"]) for model in models]
    yield "  times those of the first", [_ratio(model, models[0]) for model in models]
    for stage in STAGES:
        if any(model["stage_flops"][stage] for model in models):
            yield f"  {stage}", [_millions(model["stage_flops"][stage]) for model in models]
    elementwise = [_millions(model["forward_elementwise_flops"]) for model in models]
    yield "forward MFLOPs, elementwise", elementwise


def _measured(models: Sequence[Mapping[str, Any]]) -> _Rows:
    for name, label, unit, digits in _MEASURED:
        if any(model[name] is not None for model in models):
            yield label, [_scaled(model[name], unit, digits) for model in models]
    for size in models[0]["examples_per_second"]:
        rates = [f"{model['examples_per_second'][size]:,.4g}" for model in models]
        yield f"  examples/s, batch of {size}", rates


_MEASURED = (
    ("train_temp_bytes", "training step, planned MiB", _MIB, 1),
    ("train_peak_rss_bytes", "  resident MiB above idle", _MIB, 1),
    ("train_peak_device_bytes", "  device MiB above idle", _MIB, 1),
    ("idle_rss_bytes", "  resident MiB, idle", _MIB, 0),
    ("train_bytes_accessed_xla", "  MiB moved (XLA, loops once)", _MIB, 0),
    ("train_lowering_seconds", "  lowering s", 1, 2),
    ("train_compile_seconds", "  compiling s", 1, 1),
    ("train_step_seconds", "  ms", 1e-3, 1),
    ("forward_bytes_accessed_xla", "forward, MiB moved (XLA)", _MIB, 1),
    ("latency_seconds", "  ms, batch of 1", 1e-3, 2),
)


def _scaled(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def _millions(flops: int) -> str:
    return f"{flops / 1e6:,.{1 if flops >= 1e8 else 2}f}"


def _ratio(model: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    return f"{model['forward_flops'] / first['forward_flops']:.2f}"


def draw_costs(
    path: pathlib.Path, models: Mapping[str, Mapping[str, Any]], *, title: str = ""
) -> None:
    """Draws the operations of each stage as stacked bars.

    Args:
      path: File of the picture.
      models: Figures of `sft_jax.profile.measure.count` for each model by name.
      title: Title of the picture.
    """
    size = (7.5, 1.9 + 0.45 * len(models))
    with pictures.drawn(path, size, [*models, title]) as figure:
        figure.suptitle(pictures.wrapped(title, int(size[0] * 10)))
        _draw_stages(figure.subplots(), models)


def _draw_stages(axes: Axes, models: Mapping[str, Mapping[str, Any]]) -> None:
    first, most = next(iter(models.values())), max(m["forward_flops"] for m in models.values())
    unit, letter = flops_unit(most)
    names, ends = list(models), dict.fromkeys(models, 0.0)
    for i, stage in enumerate(STAGES):
        widths = [models[name]["stage_flops"][stage] / unit for name in names]
        # A stage that is too small to see is left out of the legend.
        if all(width * unit < 1e-3 * most for width in widths):
            continue
        label = stage.replace("_", "-")
        axes.barh(names, widths, left=list(ends.values()), color=f"C{i}", label=label, height=0.65)
        ends = {name: ends[name] + width for name, width in zip(names, widths, strict=True)}
    for row, (name, end) in enumerate(ends.items()):
        text = f" {models[name]['forward_flops'] / unit:#.3g} {letter}FLOPs"
        if row:
            text += f", {_ratio(models[name], first)} x"
        axes.text(end, row, text, va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.32 * most / unit)
    axes.set(xlabel=f"{letter}FLOPs of one example's forward pass, matrix products")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=6, frameon=False, fontsize=9,
        columnspacing=1, handlelength=1,
    )  # fmt: skip


def flops_unit(flops: int) -> tuple[float, str]:
    """Returns the largest unit of at most a number of operations, and its letter."""
    return next(((unit, letter) for unit, letter in _UNITS if flops >= unit), (1.0, ""))


def set_log_scale(axes: Axes) -> None:
    """Makes the horizontal axis logarithmic, with plain numbers as labels."""
    axes.set_xscale("log")
    # There are labels between powers of ten too, if there are few of them.
    for axis_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_formatter(ticker.LogFormatter(minor_thresholds=(1.5, 0.6)))
