"""Accuracy when a modality is corrupted: noise, or a stretch that is missing.

Modalities that are derived from it are computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.study import rows
from sft_jax.compare import intervals
from sft_jax.data import derived
from sft_jax.data.dataset import DatasetInfo, Example, padded_inputs
from sft_jax.data.view import View
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.evaluation.restored import Restored
from sft_jax.training.step import compile_eval_step

NOISE = (0.5, 1.0, 2.0, 4.0)
"""Standard deviations of the noise, in those of the training split."""
MISSING = (0.25, 0.5, 0.75, 1.0)
"""Shares of the first axis that are missing, in one stretch."""
MOST_EXAMPLES = 2000
"""Number of examples that are corrupted of a larger test split."""

Corruption = Callable[
    [np.ndarray, np.ndarray, np.random.Generator, slice], tuple[np.ndarray, np.ndarray]
]
"""Function from values, their mask, a generator and the columns that may change, to both anew."""


def noisy(deviation: float) -> Corruption:
    """Corruption that adds Gaussian noise to standardised values.

    Of events, rows of time, type and value, only the values change.
    """

    def corrupt(
        values: np.ndarray, mask: np.ndarray, random: np.random.Generator, columns: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        noise = random.normal(0, deviation, values.shape).astype(values.dtype)
        values = values.copy()
        values[..., columns] += np.where(mask[..., None], noise, 0)[..., columns]
        return values, mask

    return corrupt


def missing(share: float) -> Corruption:
    """Corruption that masks a stretch of the steps that an example has, at a random place."""

    def corrupt(
        values: np.ndarray, mask: np.ndarray, random: np.random.Generator, _: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        steps = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
        count = round(share * len(steps))
        start = random.integers(len(steps) - count + 1)
        gone = steps[start : start + count]
        mask, values = mask.copy(), values.copy()
        mask[gone], values[gone] = False, 0
        return values, mask

    return corrupt


KINDS = {"noise": (noisy, NOISE), "missing": (missing, MISSING)}
"""Makers of the corruptions, and their strengths."""


def metric_with(
    restored: Restored, change: Callable[[int, Example], Example], metric: str, step: Any
) -> float | None:
    """Metric of the test split, or of `MOST_EXAMPLES` spread over it, with changed examples.

    Args:
      restored: Checkpoint.
      change: Function from the position of an example and the example to another.
      metric: Name of the metric.
      step: Evaluation step of the model.
    """
    run = restored.run
    source, info = run.dataset.source("test"), run.dataset.info
    count = min(len(source), MOST_EXAMPLES)
    places = [i * len(source) // count for i in range(count)]
    examples = View(count, lambda i: change(places[i], source[places[i]]))
    size, loss = run.config.train.batch_size, run.config.train.loss
    evaluator = Evaluator(run.model, examples, size, run.mesh, loss=loss, step=step)
    predictions = evaluator.predict(restored.params)
    return intervals.scalars(task_metrics(predictions, info.class_names, info.metrics))[metric]


def corrupted(
    info: DatasetInfo, modality: str, corruption: Corruption
) -> Callable[[int, Example], Example]:
    """Makes the function that corrupts a modality of an example.

    The corruption depends on the position of the example alone, so that all models get the same.

    Args:
      info: Description of the dataset.
      modality: Name of the modality.
      corruption: Function of its values and mask.
    """
    # Time and type of an event stay.
    columns = slice(2 if info.modalities[modality].kind == "events" else 0, None)

    def change(i: int, example: Example) -> Example:
        own = example["inputs"][modality], example["masks"][modality]
        changed = {modality: corruption(*own, np.random.default_rng(i), columns)}
        changed |= derived_anew(info, modality, *changed[modality])
        return Example(
            id=example["id"],
            label=example["label"],
            inputs={**example["inputs"], **{name: own[0] for name, own in changed.items()}},
            masks={**example["masks"], **{name: own[1] for name, own in changed.items()}},
        )

    return change


def derived_anew(
    info: DatasetInfo, modality: str, values: np.ndarray, mask: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Computes the modalities that are derived from another; without a step of it they are missing.

    Args:
      info: Description of the dataset.
      modality: Name of the other.
      values: Its standardised values, `[steps, features]` for a series.
      mask: Mask of its steps.

    Returns:
      Standardised values and mask of each.
    """
    rules = {n: r for n, r in info.derived.items() if derived.source_name(r) == modality}
    if not rules:
        return {}
    scale = info.statistics[modality]
    raw = values[mask] * np.asarray(scale.std) + np.asarray(scale.mean)
    record = {"id": modality, "inputs": {modality: raw} if len(raw) else {}}
    inputs, masks = padded_inputs(info, record)
    return {name: (inputs[name], masks[name]) for name in rules}


def measure(runs: Sequence[Restored], metric: str) -> dict[str, Any]:
    """Metric of several seeds by modality, kind of corruption and its strength.

    Args:
      runs: Checkpoints of the same model with different seeds.
      metric: Name of the metric.

    Returns:
      JSON values: `intact`, the summary over seeds of the same examples without corruption; and
      `corrupted`, modality to kind, `noise` or `missing`, to strength, to the summary. Derived
      modalities are corrupted with those they are derived from.
    """
    first = runs[0].run
    info = first.dataset.info
    step = compile_eval_step(first.model, first.mesh, first.config.train.loss)

    def summary(change: Callable[[int, Example], Example]) -> dict[str, Any]:
        return rows.summary([metric_with(one, change, metric, step) for one in runs])

    return {
        "intact": summary(lambda _, example: example),
        "corrupted": {
            modality: {
                kind: {f"{x:g}": summary(corrupted(info, modality, make(x))) for x in strengths}
                for kind, (make, strengths) in KINDS.items()
            }
            for modality in sorted({*first.model.mixed_modalities} - {*info.derived})
        },
    }
