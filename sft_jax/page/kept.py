"""Picture of the tokens that a model kept, of examples that it predicted rightly and wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sft_jax.data.card import Card
from sft_jax.evaluation import pictures, report
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.restored import Restored
from sft_jax.evaluation.scores import probabilities
from sft_jax.inference.classifier import Classifier
from sft_jax.inference.explain import Explanation, NotExplainableError
from sft_jax.page.results import KEPT
from sft_jax.runs.directory import RunDirectory
from sft_jax.structs import CLASS_TASKS

EACH = 3
"""Number of examples that are predicted rightly, and as many wrongly."""
MAX_MODALITIES = 4
"""Largest number of modalities that are drawn."""
MAX_CHANNELS = 6
"""Largest number of features of a sequence that are drawn."""

_MARK = "#ffb300"
_MAX_NUMBERS = 3


def draw(
    run: RunDirectory, restored: Restored, result: Mapping[str, Any], predictions: Predictions
) -> None:
    """Draws examples with their kept tokens to `eval/`, if the model can explain itself.

    Nothing is drawn for other models, without some of the modalities, or with several processes.

    Args:
      run: Run directory.
      restored: Evaluated checkpoint.
      result: Result of the evaluation.
      predictions: Predictions of the result.
    """
    if result["left_out"] or jax.process_count() > 1:
        return
    records, model = restored.run.dataset.records(result["split"]), restored.run.model
    # An example without any input is predicted too, and has nothing to show.
    chosen = [
        (i, right)
        for i, right in choose(predictions)
        if any(len(records[i]["inputs"].get(name, ())) for name in model.mixed_modalities)
    ]
    if not chosen:
        return
    examples = [records[i] for i, _ in chosen]
    classifier = Classifier(
        model,
        restored.params,
        restored.run.trained_on,
        not_finite=Card.policy_at(run.card_file),
    )
    path = run.results / f"{report.file_stem(result)}_{KEPT}.png"
    with pictures.reported(path):
        try:
            read = [classifier.read(e["id"], e["inputs"], e.get("masks")) for e in examples]
            explanations = classifier.explanations(read)
        except NotExplainableError:
            return
        names = classifier.info.class_names
        titles = [f"{e['id']}: {outcome(predictions, i, names)}"
                  for e, (i, _) in zip(examples, chosen, strict=True)]  # fmt: skip
        right = [right for _, right in chosen]
        draw_examples(path, [e["inputs"] for e in examples], explanations, titles, right)


def choose(predictions: Predictions) -> list[tuple[int, bool]]:
    """Chooses the rightly, then the wrongly predicted examples with the greatest confidence.

    Both are of different classes as long as there are such. Of a regression they are those with
    the smallest and with the largest errors.

    Args:
      predictions: Predictions of a split.

    Returns:
      Positions in the split, and True for the right ones; at most `EACH` of both kinds.
    """
    logits, labels = predictions.logits, predictions.labels
    predicted = probabilities(predictions.task, logits)
    if predictions.task == "regression":
        error = np.abs(logits - labels).mean(axis=1)
        order = np.argsort(error, kind="stable")
        right, wrong = order[:EACH], order[::-1][: min(EACH, max(len(order) - EACH, 0))]
    else:
        if predictions.task in CLASS_TASKS:
            confidence, groups = predicted.max(axis=1), labels
            correct = predicted.argmax(axis=1) == labels
        else:
            confidence = np.maximum(predicted, 1 - predicted).min(axis=1)
            correct = ((logits > 0) == (labels > 0.5)).all(axis=1)
            groups = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
        order = np.argsort(-confidence, kind="stable")
        right = _spread(order[correct[order]], groups)[:EACH]
        wrong = _spread(order[~correct[order]], groups)[:EACH]
    return [(int(i), True) for i in right] + [(int(i), False) for i in wrong]


def _spread(order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Puts the first of each group before all others."""
    _, first = np.unique(groups[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), first)
    return order[np.concatenate([np.sort(first), rest])]


def draw_examples(
    path: Any,
    inputs: Sequence[Mapping[str, np.ndarray]],
    explanations: Sequence[Mapping[str, Explanation]],
    titles: Sequence[str],
    right: Sequence[bool],
) -> None:
    """Draws a row for each example, with a panel for each modality.

    Args:
      path: Path of the picture.
      inputs: Raw values by modality of each example.
      explanations: Explanation by modality of each example.
      titles: Title of each example.
      right: True where an example is predicted rightly.
    """
    names = sorted({name for row in explanations for name in row})[:MAX_MODALITIES]
    size = (max(4.6 * len(names), 7), 2.0 * len(titles) + 0.3)
    with pictures.drawn(path, size, [*titles, *names]) as figure:
        rows = figure.subfigures(len(titles), 1, squeeze=False)[:, 0]
        for i, row in enumerate(rows):
            title = pictures.shortened(titles[i], int(size[0] * 9.5))
            row.suptitle(title, fontsize=10, color="#2e7d32" if right[i] else "#c62828")
            for axes, name in zip(
                row.subplots(1, len(names), squeeze=False)[0], names, strict=True
            ):
                axes.set_ylabel(pictures.shortened(name, 18), fontsize=8)
                axes.tick_params(labelsize=7)
                if name not in explanations[i]:
                    axes.text(0.5, 0.5, "absent", ha="center", va="center")
                    axes.set(xticks=[], yticks=[])
                    continue
                _draw_panel(axes, np.asarray(inputs[i][name]), explanations[i][name])


def _draw_panel(axes: Any, values: np.ndarray, explanation: Explanation) -> None:
    draw_values = {2: _draw_sequence, 3: _draw_image}.get(values.ndim)
    if draw_values and np.issubdtype(values.dtype, np.number):
        draw_values(axes, values.astype(np.float32), explanation)
    else:
        axes.text(0.5, 0.5, "not drawn", ha="center", va="center")
        axes.set(xticks=[], yticks=[])


def _draw_sequence(axes: Any, values: np.ndarray, explanation: Explanation) -> None:
    for (steps,) in explanation.kept:
        axes.axvspan(steps.start - 0.5, steps.stop - 0.5, color=_MARK, alpha=0.35, linewidth=0)
    marker = "o" if len(values) == 1 else None
    axes.plot(values[:, :MAX_CHANNELS], linewidth=0.9, marker=marker)
    axes.set(xlim=(-0.5, len(values) - 0.5))
    # The saliency fills at most the lowest part.
    saliency = explanation.saliency[~np.isnan(explanation.saliency)]
    # The last patch of an example may be shorter than the others.
    patch = max(
        (steps.stop - steps.start for (steps,) in explanation.kept),
        default=-(-len(values) // max(len(saliency), 1)),
    )
    edges = np.minimum(np.arange(len(saliency) + 1) * patch, len(values)) - 0.5
    below = axes.twinx()
    below.stairs(saliency, edges, fill=True, color="grey", alpha=0.45)
    below.set(ylim=(0, 6 * max(float(saliency.max(initial=0)), 1e-12)), yticks=[])


def _draw_image(axes: Any, values: np.ndarray, explanation: Explanation) -> None:
    shown = values if values.shape[-1] == 3 else values.mean(axis=-1)
    low, high = np.nanmin(shown), np.nanmax(shown)
    # A spectrogram may be far longer than it is high.
    aspect = "equal" if max(shown.shape[:2]) <= 3 * min(shown.shape[:2]) else "auto"
    axes.imshow((shown - low) / (high - low if high > low else 1), cmap="gray", aspect=aspect)
    for rows, columns in explanation.kept:
        x, y = (columns.start - 0.5, columns.stop - 0.5), (rows.start - 0.5, rows.stop - 0.5)
        corners = ((x[0], x[1], x[1], x[0], x[0]), (y[0], y[0], y[1], y[1], y[0]))
        axes.plot(*corners, color=_MARK, linewidth=1.5)
    axes.set(xticks=[], yticks=[])


def outcome(predictions: Predictions, i: int, names: Sequence[str]) -> str:
    """Describes truth and prediction of the example at a position."""
    labels, logits = predictions.labels[i], predictions.logits[i]
    if predictions.task == "regression":
        true, predicted = (
            ", ".join(f"{value:.3g}" for value in values[:_MAX_NUMBERS])
            for values in (labels, logits)
        )
        return f"true {true}, predicted {predicted}"
    if predictions.task == "multi_label":
        true, predicted = (
            ", ".join(names[int(j)] for j in np.flatnonzero(values)) or "none"
            for values in (labels > 0.5, logits > 0)
        )
        return f"true {true}; predicted {predicted}"
    probability = probabilities(predictions.task, logits[None])[0]
    best, label = int(probability.argmax()), int(labels)
    if best == label:
        return f"{names[best]} ({probability[best]:.2f})"
    return f"true {names[label]}, predicted {names[best]} ({probability[best]:.2f})"
