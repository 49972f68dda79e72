"""Pictures of accuracy against cost, one for each set of the study.

python -m benchmarks.study.frontier --results=benchmarks/results --out=docs/images

The digest of the result is written into the picture, so that a test can tell an old one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

from benchmarks import harness
from benchmarks.study.sets import SETS

_FAMILIES = {"sft": "C0", "mbt": "C1", "concat": "C2", "late": "C4", "mult": "C5", "unimodal": "C7"}
"""Colour of each model."""


class Point(NamedTuple):
    """Model in the picture.

    Attributes:
      name: Name of the row; empty for one of several settings of a run.
      model: Value of `model.name`.
      flops: Operations of one example.
      seconds: Median time of one example; None if it was not measured.
      mean: Mean of the metric over seeds.
      std: Sample standard deviation over seeds.
    """

    name: str
    model: str
    flops: float
    seconds: float | None
    mean: float
    std: float


def points(result: Mapping[str, Any]) -> Iterator[Point]:
    """Points of the rows of a result, and of the settings that runs were evaluated with."""
    metric, cost = result["metric"], result.get("cost", {"rows": {}})["rows"]
    for name, row in result["rows"].items():
        if "flops" not in row:
            continue
        model = row["changes"].get("model.name", "sft")
        tested = row["test"][metric]
        seconds = cost[name]["latency_seconds"]["median"] if name in cost else None
        yield Point(name, model, row["flops"], seconds, tested["mean"], tested["std"] or 0.0)
        for line in row.get("settings", ()):
            own = line["metrics"][metric]
            yield Point("", model, line["flops"], None, own["mean"], own["std"] or 0.0)


def draw(result: Mapping[str, Any], path: pathlib.Path, digest: str) -> None:
    """Draws the metric against operations, and against time where it was measured.

    Args:
      result: Result of `python -m benchmarks.study`.
      path: File of the picture.
      digest: Digest of the result, written into the picture.
    """
    found = [*points(result)]
    panels: dict[str, list[tuple[Point, float]]] = {
        "MFLOPs of one example": [(point, point.flops / 1e6) for point in found],
        "ms of one example": [(p, 1e3 * p.seconds) for p in found if p.seconds is not None],
    }
    panels = {label: pairs for label, pairs in panels.items() if pairs}
    matplotlib.rcParams["svg.hashsalt"] = result["set"]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 4.2), sharey=True, squeeze=False
    )
    for axis, (label, pairs) in zip(axes[0], panels.items(), strict=True):
        _panel(axis, pairs)
        _levels(axis, result)
        axis.set(xlabel=label, xscale="log")
    axes[0][0].set_ylabel(result["metric"].replace("_", " "))
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Description": digest})
    pyplot.close(figure)


def _panel(axis: Any, pairs: list[tuple[Point, float]]) -> None:
    for point, x in pairs:
        colour = _FAMILIES.get(point.model, "C7")
        marker = "o" if point.name else "."
        axis.errorbar(x, point.mean, point.std, fmt=marker, color=colour, alpha=0.8, capsize=2)
        if point.name:
            axis.annotate(
                point.name, (x, point.mean), (4, 4), textcoords="offset points", fontsize=7
            )


def _levels(axis: Any, result: Mapping[str, Any]) -> None:
    """Draws a level for each model that has no operations to count."""
    for name, row in result["rows"].items():
        if "flops" not in row:
            mean = row["test"][result["metric"]]["mean"]
            axis.axhline(mean, color="0.6", linewidth=0.8, linestyle="--")
            axis.text(0.01, mean, name, fontsize=7, transform=axis.get_yaxis_transform())


def digest(content: bytes) -> str:
    """Computes the digest of a file of results that its picture carries."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def main() -> None:
    """Draws the picture of each set that has a result."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    images = harness.ROOT / "docs" / "images"
    arguments.add_argument("--results", type=pathlib.Path, default=harness.RESULTS)
    arguments.add_argument("--out", type=pathlib.Path, default=images)
    options = arguments.parse_args()
    for name in SETS:
        path = options.results / f"study_{name}.json"
        if path.exists():
            content = path.read_bytes()
            target = options.out / f"frontier_{name}.svg"
            draw(json.loads(content), target, digest(content))
            print(target)


if __name__ == "__main__":
    main()
