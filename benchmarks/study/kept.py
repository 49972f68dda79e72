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

import numpy as np
from matplotlib import figure, patches, pyplot

import sft_jax
from sft_jax.data.dataset import Dataset
from sft_jax.evaluation.restored import restore
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory

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


def explained(run: RunDirectory, count: int) -> list[dict[str, Any]]:
    """Test examples with the parts that a model keeps of them.

    Args:
      run: Run directory, whose best checkpoint is used.
      count: Number of examples.

    Returns:
      JSON values of each example: `title`, its label and a wrong prediction, and `modalities`.
      Each modality of more than one token has its `kind` and its `values`, with four digits.
      `kept` has begin and end of each kept part, on each axis.
    """
    dataset, classifier = restore(run, "best", None).run.dataset, sft_jax.load(run.path)
    names, found = dataset.info.class_names, []
    for example in chosen(dataset, count):
        said, parts = classifier.predict(example["inputs"]), classifier.explain(example["inputs"])
        label = np.asarray(example["label"])
        true = names[int(label)] if label.ndim == 0 else "+".join(np.array(names)[label > 0])
        said = said if isinstance(said, str) else "+".join(said)
        modalities = {
            name: {
                "kind": spec.kind,
                "values": _digits(np.asarray(example["inputs"][name], np.float64)),
                "kept": [[[axis.start, axis.stop] for axis in part] for part in parts[name].kept],
            }
            for name, spec in classifier.model.modalities.items()
            if spec.num_tokens > 1
        }
        title = true if true == said else f"{true}, predicted {said}"
        found.append({"title": title, "modalities": modalities})
    return found


def _digits(values: np.ndarray) -> Any:
    return np.vectorize(lambda value: float(f"{value:.4g}"))(values).tolist()


def draw(examples: Sequence[Mapping[str, Any]]) -> figure.Figure:
    """Draws a row for each example and a column for each modality.

    Args:
      examples: Result of `explained`.
    """
    modalities = examples[0]["modalities"]
    size = (4.5 * len(modalities), 2.2 * len(examples))
    drawn, axes = pyplot.subplots(len(examples), len(modalities), figsize=size, squeeze=False)
    for line, example in zip(axes, examples, strict=True):
        for axis, (name, own) in zip(line, example["modalities"].items(), strict=True):
            kept = [tuple(slice(*ends) for ends in part) for part in own["kept"]]
            _DRAW.get(own["kind"], _draw_series)(axis, np.asarray(own["values"]), kept)
            axis.set_title(f"{example['title']}, {name}", fontsize=7)
            axis.tick_params(labelsize=6)
    drawn.tight_layout()
    return drawn


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
    pyplot.switch_backend("agg")
    run = RunDirectory(storage.as_path(options.run))
    draw(explained(run, options.examples)).savefig(options.out, dpi=120)


if __name__ == "__main__":
    main()
