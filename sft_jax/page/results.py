"""Sections of a page about the results of evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sft_jax.evaluation import report
from sft_jax.evaluation.metrics import BREAKDOWN, is_family
from sft_jax.page import markup
from sft_jax.runs.directory import RunDirectory

SPLITS = ("test", "valid", "train")
"""Splits in the order of their sections."""

PICTURES = {
    "confusion_matrix": "Confusion matrix: counts by true and predicted class",
    "per_label": "Metrics of each label; the bar at its share of examples is that of chance",
    "scatter": "Predicted against true numbers",
    "reliability": "Reliability: frequency against probability",
    "roc_pr": "ROC curves (left) and precision-recall curves (right)",
    "subsets": "Score with each set of modalities",
    "budgets": "Score and cost with each number of kept tokens",
    "strides": "Score and cost with each stride",
}
"""Captions of the pictures that evaluations draw, by the last part of their names."""

KEPT = "kept_tokens"
_TILES = (
    "accuracy", "macro_f1", "mae", "roc_auc", "average_precision", "macro_average_precision",
    "macro_roc_auc", "pearson_r", "quadratic_weighted_kappa",
)  # fmt: skip


def read_results(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Reads the results of all evaluations by the names of their files."""
    paths = sorted(run.results.glob("*.json"), key=lambda path: path.name)
    return {path.stem: json.loads(path.read_text()) for path in paths}


def sections(run: RunDirectory, results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Makes a section for each split, and one for results of other checkpoints and such.

    Args:
      run: Run directory.
      results: Result of `read_results`.
    """
    for split in SPLITS:
        if split in results:
            yield _split(run, split, results[split])
    others = {
        stem: result
        for stem, result in results.items()
        if stem not in SPLITS and set(result) & set(BREAKDOWN.values())
    }
    names = [
        name for name in ("accuracy", "mae", "loss") if any(name in r for r in others.values())
    ]
    rows = (
        (report.heading(result), *(result.get(name) for name in names))
        for result in others.values()
    )
    yield markup.section("Other evaluations", markup.table(["", *names], rows))


def headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the few values of a result that stand at the top of its section."""
    values = {name: result[name] for name in _TILES if result.get(name) is not None}
    calibration = result.get("calibration", {})
    error = {"calibration_error": calibration["ece"]} if calibration else {}
    return {"examples": result["n_examples"], **values, **error}


def _split(run: RunDirectory, stem: str, result: Mapping[str, Any]) -> str:
    drawn = [
        markup.picture(run.results / f"{stem}_{kind}.png", caption)
        for kind, caption in PICTURES.items()
    ]
    kept = markup.picture(
        run.results / f"{stem}_{KEPT}.png",
        "Kept tokens (shaded) and saliency (grey, at the bottom) of examples that are predicted"
        " rightly, then wrongly, with the greatest confidence",
    )
    return markup.section(
        f"Results: {stem}",
        markup.tiles(headline(result)),
        f"<p>{markup.text(report.heading(result))}</p>",
        markup.side_by_side(*drawn),
        markup.side_by_side(*_tables(result)),
        f'<div class="wide beside">{kept}</div>' if kept else "",
    )


def _tables(result: Mapping[str, Any]) -> Iterator[str]:
    """Tables of all metrics: of the task, of families, of the decisions, of each class."""
    yield markup.table(["metric", ""], _scalars(result))
    nested = {name: values for name, values in result.items() if is_family(name)}
    for name, values in (nested | _chosen(result)).items():
        yield markup.table([name.replace("_", " "), ""], _scalars(values))
    (key,) = set(result) & set(BREAKDOWN.values())
    yield _breakdown(key, result[key])
    if chosen := result.get("at_thresholds"):
        yield _breakdown("above threshold", chosen["per_label"])


def _chosen(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("calibration", "at_thresholds") if name in result}


def _scalars(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((n, v) for n, v in values.items() if v is None or isinstance(v, float))


def _breakdown(title: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    columns = next(iter(values.values()))
    header = [title.removeprefix("per_"), *(name.removeprefix("n_") for name in columns)]
    rows = ((name, *row.values()) for name, row in values.items())
    return markup.table([name.replace("_", " ") for name in header], rows, digits=3)
