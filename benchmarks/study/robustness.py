"""Pictures of the metric when one modality is corrupted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib import figure, pyplot

from benchmarks.study.frontier import FAMILIES, model_name
from benchmarks.study.sets import CLS_ALONE

_AXES = {
    "noise": "noise, in deviations of the training split",
    "missing": "share that is missing, in one stretch",
}


def draw(result: Mapping[str, Any]) -> figure.Figure:
    """Draws a panel for each modality and kind of corruption, with a line for each row.

    Bars are the sample standard deviation over seeds.

    Args:
      result: Result of `python -m benchmarks.study` with the part `why`.
    """
    metric, explained = result["metric"], result["why"]["rows"]
    modalities = [*next(iter(explained.values()))["corrupted"]]
    size = (2.6 * len(modalities) + 0.8, 2.5 * len(_AXES) + 0.4)
    layout = {"figsize": size, "sharey": True, "squeeze": False, "layout": "constrained"}
    drawn, axes = pyplot.subplots(len(_AXES), len(modalities), **layout)
    for line, (kind, label) in zip(axes, _AXES.items(), strict=True):
        line[0].set_ylabel(metric.replace("_", " "))
        for axis, modality in zip(line, modalities, strict=True):
            axis.set_title(modality, fontsize=9)
            axis.set_xlabel(label, fontsize=8)
            for name, row in explained.items():
                found = {"0": row["intact"]} | row["corrupted"][modality][kind]
                means = [own["mean"] for own in found.values()]
                deviations = [own["std"] or 0 for own in found.values()]
                places = [float(strength) for strength in found]
                style = "--" if name == CLS_ALONE else "-"
                model = model_name(result["rows"][name])
                axis.errorbar(
                    places, means, deviations, label=name, color=FAMILIES[model], linestyle=style,
                    capsize=2, alpha=0.7, linewidth=1,
                )  # fmt: skip
    handles, labels = axes[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
    return drawn
