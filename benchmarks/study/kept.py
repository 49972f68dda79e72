"""Pictures of the tokens that a model keeps of real examples.

python -m benchmarks.study.kept --run=RUN_DIRECTORY --out=kept.png [--examples=3]

RUN_DIRECTORY is of one seed. Pictures of HAPT and PhysioNet 2012 are for oneself: their licences
restrict what may be passed on.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")

import numpy as np
from matplotlib import patches, pyplot

import sft_jax
from sft_jax.data.dataset import Dataset
from sft_jax.evaluation.restored import restore
from sft_jax.inference.explain import Explanation
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory
from sft_jax.structs import ModalitySpec

_KEPT = "C3"


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--run", type=pathlib.Path, required=True)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    arguments.add_argument("--examples", type=int, default=3)
    return arguments


def chosen(dataset: Dataset, count: int) -> list[Mapping[str, Any]]:
    """Test examples, evenly spread, that have all modalities."""
    records = dataset.records("test")
    places = np.linspace(0, len(records) - 1, 10 * count).astype(int)
    names = {*dataset.info.modalities}
    whole = [records[int(i)] for i in places if {*records[int(i)]["inputs"]} >= names]
    return [whole[i] for i in np.linspace(0, len(whole) - 1, count).astype(int)]


def draw(
    path: pathlib.Path,
    examples: Sequence[Mapping[str, Any]],
    explanations: Sequence[Mapping[str, Explanation]],
    modalities: Mapping[str, ModalitySpec],
    titles: Sequence[str],
) -> None:
    """Draws a row for each example and a column for each modality.

    Args:
      path: File of the picture.
      examples: Records with raw inputs.
      explanations: Explanation of each modality of each example.
      modalities: Modalities of the model.
      titles: Title of each example.
    """
    size = (4.5 * len(modalities), 2.2 * len(examples))
    figure, axes = pyplot.subplots(len(examples), len(modalities), figsize=size, squeeze=False)
    for line, example, explained, title in zip(axes, examples, explanations, titles, strict=True):
        for axis, (name, spec) in zip(line, modalities.items(), strict=True):
            values, kept = np.asarray(example["inputs"][name]), explained[name].kept
            _DRAW.get(spec.kind, _draw_series)(axis, values, kept)
            axis.set_title(f"{title}, {name}", fontsize=7)
            axis.tick_params(labelsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_series(axis: Any, values: np.ndarray, kept: Sequence[tuple[slice, ...]]) -> None:
    """Draws lines over the steps; kept steps are shaded. Many features become an image."""
    if values.shape[1] > 6:
        axis.imshow(values.T, aspect="auto", origin="lower", cmap="Greys")
    else:
        axis.plot(values, linewidth=0.7)
    for (steps,) in kept:
        axis.axvspan(steps.start - 0.5, steps.stop - 0.5, color=_KEPT, alpha=0.3, linewidth=0)


def _draw_image(axis: Any, values: np.ndarray, kept: Sequence[tuple[slice, ...]]) -> None:
    axis.imshow(values, cmap="Greys")
    for rows, columns in kept:
        corner = columns.start - 0.5, rows.start - 0.5
        size = columns.stop - columns.start, rows.stop - rows.start
        axis.add_patch(patches.Rectangle(corner, *size, fill=False, edgecolor=_KEPT))
    axis.set(xticks=[], yticks=[])


def _draw_events(axis: Any, values: np.ndarray, kept: Sequence[tuple[slice, ...]]) -> None:
    """Draws a point for each event, by its time and the number of its type."""
    axis.plot(values[:, 0], values[:, 1], ".", color="0.7", markersize=3)
    places = [steps.start for (steps,) in kept]
    axis.plot(
        values[places, 0], values[places, 1], "o", color=_KEPT, markersize=5, fillstyle="none"
    )


_DRAW = {"image": _draw_image, "events": _draw_events}


def main() -> None:
    """Draws the examples."""
    options = parser().parse_args()
    run = RunDirectory(storage.as_path(options.run))
    dataset = restore(run, "best", None).run.dataset
    classifier = sft_jax.load(options.run)
    examples = chosen(dataset, options.examples)
    explained = [classifier.explain(example["inputs"]) for example in examples]
    predicted = [classifier.predict(example["inputs"]) for example in examples]
    names = dataset.info.class_names
    titles = []
    for example, prediction in zip(examples, predicted, strict=True):
        label = np.asarray(example["label"])
        true = names[int(label)] if label.ndim == 0 else "+".join(np.array(names)[label > 0])
        said = prediction if isinstance(prediction, str) else "+".join(prediction)
        titles.append(true if true == said else f"{true}, predicted {said}")
    draw(options.out, examples, explained, dict(classifier.model.modalities), titles)


if __name__ == "__main__":
    main()
