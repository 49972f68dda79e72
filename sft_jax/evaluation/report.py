"""Readable results: tables, files of predictions, names of files."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich import markup
from rich.console import Console
from rich.table import Table

from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import BREAKDOWN, is_family
from sft_jax.evaluation.scores import check_outputs, probabilities
from sft_jax.runs import storage
from sft_jax.runs.storage import AnyPath
from sft_jax.structs import CLASS_TASKS
from sft_jax.wording import plural

OWN = "own"
"""Value of `data` in a result on the run's own data."""

_MAX_LETTERS = 150
"""Largest number of letters for the names of modalities in the name of a file."""


def print_tables(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the metrics of a split, and the metrics of each class, label or target.

    Each family of metrics has a table of its own, without nested values.

    Args:
      console: Terminal or file to print to.
      result: Result of `evaluate_run`.
    """
    console.print(heading(result), highlight=False)
    scalars = {k: v for k, v in result.items() if v is None or isinstance(v, float)}
    console.print(_values_table("metric", scalars))
    for name in filter(is_family, result):
        console.print(_values_table(name, result[name]))
    (key,) = set(result) & set(BREAKDOWN.values())
    console.print(_breakdown_table(key.removeprefix("per_"), result[key]))
    if chosen := result.get("at_thresholds"):
        console.print(_values_table("at thresholds", chosen))
        console.print(_breakdown_table("above threshold", chosen["per_label"]))
    if "calibration" in result:
        console.print(_values_table("calibration", result["calibration"]))


def print_subsets(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the result of `evaluate_every_subset`, one row for each subset."""
    console.print(heading(result), highlight=False)
    table = Table()
    table.add_column("modalities")
    for name in (result["score"], "loss"):
        table.add_column(name, justify="right")
    for row in result["subsets"]:
        values = (_cell(row[name], 4) for name in (result["score"], "loss"))
        table.add_row(", ".join(row["modalities"]), *values)
    console.print(table)


def print_seeds(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the result of `sft_jax.evaluation.seeds.evaluate_seeds`, one row for each metric.

    Each family of metrics has a table of its own.
    """
    spread = "; ± is the sample standard deviation over the seeds"
    console.print(heading(result) + spread, highlight=False)
    if result["unfinished"]:
        console.print(
            f"not trained to the end yet: seeds {', '.join(map(str, result['unfinished']))}",
            highlight=False,
        )
    metrics = result["metrics"]
    scalars = {name: spread for name, spread in metrics.items() if not is_family(name)}
    console.print(_seeds_table("metric", result, scalars))
    for name in filter(is_family, metrics):
        console.print(_seeds_table(name, result, metrics[name]))


def heading(result: Mapping[str, Any]) -> str:
    """Formats a line that names the split, checkpoint, modalities and data of a result."""
    n_examples, n_seeds = result["n_examples"], result.get("n_seeds")
    seeds = "" if n_seeds is None else f", {n_seeds} {plural('seed', n_seeds)}"
    step = f", step {result['step']}" if "step" in result else ""
    left_out = result.get("left_out")
    other = result.get("data", OWN)
    return (
        f"{result['split']}: {n_examples} {plural('example', n_examples)}{seeds},"
        f" {result['checkpoint']} checkpoint{step}"
        + (f", {', '.join(result['modalities'])} alone" if left_out else "")
        + ("" if other == OWN else f", other data ({other[:12]})")
    )


def _values_table(heading: str, values: Mapping[str, Any]) -> Table:
    """Makes a table of names and values. A list holds names; nested mappings are left out."""
    table = Table()
    table.add_column(heading)
    table.add_column("value", justify="right")
    for name, value in values.items():
        if isinstance(value, list):
            table.add_row(name, markup.escape(", ".join(map(str, value))) or "-")
        elif not isinstance(value, dict):
            table.add_row(name, _cell(value, 4))
    return table


def _breakdown_table(heading: str, values_by_name: Mapping[str, Mapping[str, Any]]) -> Table:
    """Makes a table with a row for each class, label or target."""
    table = Table()
    table.add_column(heading)
    for name in next(iter(values_by_name.values())):
        table.add_column(name.removeprefix("n_"), justify="right")
    for name, values in values_by_name.items():
        table.add_row(markup.escape(name), *(_cell(value, 3) for value in values.values()))
    return table


def _seeds_table(heading: str, result: Mapping[str, Any], metrics: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column(heading)
    for name in (*(f"seed {seed}" for seed in result["seeds"]), "mean ± std"):
        table.add_column(name, justify="right")
    for name, metric in metrics.items():
        values = (_cell(value, 4) for value in metric["values"])
        table.add_row(name, *values, f"{_cell(metric['mean'], 4)} ± {_cell(metric['std'], 4)}")
    table.add_section()
    table.add_row("step", *map(str, result["steps"]), "")
    return table


def _cell(value: float | int | str | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def file_stem(result: Mapping[str, Any]) -> str:
    """Names the files of a result, without their ending. Different results get different names.

    The name is `SPLIT` for the best checkpoint, all modalities and the run's own data. Each
    departure is appended, in this order:

    * `-FIRST-SECOND`, the sorted names of the modalities used, or their digest if too long;
    * `@CHECKPOINT`, latest or a step;
    * `+DATA`, the first digits of the data's fingerprint.

    Args:
      result: Result with `split`, `modalities` and `left_out`. `checkpoint` and `data` default
        to best and own.
    """
    modalities = "-".join(result["modalities"]) if result["left_out"] else ""
    if len(modalities) > _MAX_LETTERS:
        modalities = hashlib.sha256(modalities.encode()).hexdigest()[:16]
    checkpoint, data = result.get("checkpoint", "best"), result.get("data", OWN)
    return "".join(
        [
            _escaped(result["split"]),
            f"-{modalities}" if modalities else "",
            f"@{_escaped(checkpoint)}" if checkpoint != "best" else "",
            f"+{data[:12]}" if data != OWN else "",
        ]
    )


def _escaped(text: str) -> str:
    """Escapes all characters except ASCII letters, digits and _ as %XX of their UTF-8 bytes."""

    def escape(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogatepass"))

    return re.sub(r"[^A-Za-z0-9_]", escape, text)


def write_predictions(
    path: AnyPath, predictions: Predictions, names: Sequence[str], temperature: float = 1.0
) -> None:
    """Writes a CSV file with a line for each example.

    For classes, the columns are id, true class, predicted class and the probability of each
    class. For labels and numbers, they are id, and the true and predicted value of each. Only
    the first of several processes writes the file.

    Args:
      path: Path of the file.
      predictions: Predictions of a split.
      names: Names of the classes, labels or targets, in the order of the labels.
      temperature: Temperature of the probabilities.

    Raises:
      NotFiniteError: If an output of the model is NaN or infinite.
      OSError: If the file can't be written.
    """
    check_outputs(predictions.logits, predictions.ids)
    if jax.process_index():
        return
    predicted = probabilities(predictions.task, predictions.logits, temperature)
    columns = _class_columns if predictions.task in CLASS_TASKS else _number_columns
    header, rows = columns(predictions, predicted, names)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", *header])
    for identity, row in zip(predictions.ids, rows, strict=True):
        writer.writerow([identity, *row])
    storage.write_whole(path, text.getvalue())


def _class_columns(
    predictions: Predictions, predicted: np.ndarray, names: Sequence[str]
) -> tuple[list[str], Iterable[list[str]]]:
    rows = (
        [names[label], names[row.argmax()], *(f"{p:.6f}" for p in row)]
        for label, row in zip(predictions.labels, predicted, strict=True)
    )
    return ["label", "prediction", *(f"p({name})" for name in names)], rows


def _number_columns(
    predictions: Predictions, predicted: np.ndarray, names: Sequence[str]
) -> tuple[list[str], Iterable[list[str]]]:
    digits, kind = (".6f", "p") if predictions.task == "multi_label" else (".8g", "predicted")
    rows = (
        [*(f"{true:.8g}" for true in label), *(f"{value:{digits}}" for value in row)]
        for label, row in zip(predictions.labels, predicted, strict=True)
    )
    return [f"{part}({name})" for part in ("true", kind) for name in names], rows
