"""Comparison of an exported file with the model in JAX, example by example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sft_jax.data import pipeline
from sft_jax.data.checks import real_steps
from sft_jax.data.dataset import Dataset
from sft_jax.export.opened import SPLIT
from sft_jax.export.program import activated
from sft_jax.export.written import Classifier, Written, with_k
from sft_jax.ops.losses import SCORE_NAMES, example_scores

BATCH = 64
"""Examples that are computed at once; the first so many are also compared in special cases."""

Arrays = dict[str, np.ndarray]


class Batch(NamedTuple):
    """Examples of a dataset.

    Attributes:
      raw: Raw values, padded.
      inputs: The same, standardised on the host in float64.
      masks: Real positions.
      size: Number of examples, without repeated ones that fill a batch.
    """

    raw: Arrays
    inputs: Arrays
    masks: Arrays
    size: int


def compare(
    classifier: Classifier,
    written: Written,
    dataset: Dataset,
    *,
    k: int | Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Runs a file and the model on the test split, and on its start without each modality.

    Where the file takes any `k`, the start is also compared with 1 token and with all. Inputs that
    the file computes are given in these special cases alone.

    Args:
      classifier: Model, with the `k` that it was trained for.
      written: File.
      dataset: Dataset with the split `test`.
      k: Number of tokens kept that the file was written with; None for the model's.

    Returns:
      JSON values:

      * `n_examples`;
      * `largest_difference` of any output in any case, and `differences` by case;
      * `same_class`, number of examples with the same largest output; None unless the task
        is of classes;
      * `score`, the name of a metric, with its values `jax` and `exported`.
    """
    classifier = with_k(classifier, k)
    model = classifier.model
    expected, found = [], []
    run = _reference(classifier)
    computed = dict.fromkeys(written.metadata.get("computed", ()))
    for batch in _batches(dataset):
        expected.append(run(batch.inputs, batch.masks)[: batch.size])
        found.append(written.predict(batch.raw | computed, batch.masks)[: batch.size])
    outputs, exported = np.concatenate(expected), np.concatenate(found)
    first = next(_batches(dataset))
    differences = {"all examples": _difference(outputs, exported)}
    for name in model.mixed_modalities if len(model.mixed_modalities) > 1 else ():
        masks = first.masks | {name: np.zeros_like(first.masks[name])}
        # Files may refuse an example that has nothing else.
        rest = _with_input(masks)
        if rest.any():
            wanted = run(first.inputs, masks)[rest]
            raw, real = ({n: a[rest] for n, a in part.items()} for part in (first.raw, masks))
            found_without = written.predict(raw, real)
            differences[f"without {name}"] = _difference(wanted, found_without)
    if most := written.metadata["k_most"]:
        for budget in (dict.fromkeys(most, 1), most):
            other = _reference(with_k(classifier, budget))
            found_with = written.predict(first.raw, first.masks, k=budget)
            case = f"k={', '.join(map(str, sorted({*budget.values()})))}"
            differences[case] = _difference(other(first.inputs, first.masks), found_with)
    labels = pipeline.stack_labels(dataset.source(SPLIT))
    classes = model.task in ("single_label", "ordinal")
    return {
        "n_examples": len(outputs),
        "largest_difference": max(differences.values()),
        "differences": differences,
        "same_class": int((outputs.argmax(1) == exported.argmax(1)).sum()) if classes else None,
        "score": SCORE_NAMES[model.task],
        "jax": _score(model.task, outputs, labels),
        "exported": _score(model.task, exported, labels),
    }


def _reference(classifier: Classifier) -> Any:
    """Function of standardised inputs to outputs, compiled once."""
    model = classifier.model

    @jax.jit
    def run(inputs: Arrays, masks: Arrays) -> Any:
        logits = model.apply({"params": classifier.params}, inputs, masks)
        return activated(model.task, logits)

    return lambda inputs, masks: np.asarray(run(inputs, masks), np.float32)


def stack(dataset: Dataset, positions: Sequence[int], size: int | None = None) -> Batch:
    """Stacks examples of the test split.

    Args:
      dataset: Dataset.
      positions: Positions of the examples.
      size: Number of examples, if some of them only fill a batch; by default all.
    """
    records, examples = dataset.records(SPLIT), dataset.source(SPLIT)
    specs = dataset.info.modalities
    padded = [examples[i] for i in positions]
    inputs, masks = (
        {name: np.stack([example[part][name] for example in padded]) for name in specs}
        for part in ("inputs", "masks")
    )
    raw = {name: np.zeros_like(inputs[name]) for name in specs}
    for row, i in enumerate(positions):
        for name in records[i]["inputs"]:
            values, _ = real_steps(records[i], name)
            within = tuple(map(slice, values.shape[:-1]))
            raw[name][row][within] = values
    return Batch(raw, inputs, masks, len(positions) if size is None else size)


def _batches(dataset: Dataset) -> Iterator[Batch]:
    total = dataset.info.num_examples[SPLIT]
    for start in range(0, total, BATCH):
        positions = np.arange(start, min(start + BATCH, total))
        yield stack(dataset, np.resize(positions, BATCH).tolist(), len(positions))


def _with_input(masks: Arrays) -> np.ndarray:
    """Tells the examples that have a real position, `[b]` booleans."""
    real = [mask.reshape(len(mask), -1).any(axis=1) for mask in masks.values()]
    return np.asarray(np.any(real, axis=0))


def _difference(outputs: np.ndarray, exported: np.ndarray) -> float:
    """Largest absolute difference; infinite where an output is not finite."""
    difference = np.abs(outputs - exported).max(initial=0.0)
    return float(difference) if np.isfinite(difference) else float("inf")


def _score(task: str, outputs: np.ndarray, labels: np.ndarray) -> float:
    # A probability above 0.5 is a logit above 0.
    scored = outputs - 0.5 if task == "multi_label" else outputs
    return float(np.mean(example_scores(task, scored, labels)))  # type: ignore[arg-type]
