"""Validation during training, with the metric that selects the best checkpoint."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sft_jax.data import pipeline
from sft_jax.data.dataset import Example
from sft_jax.evaluation.evaluator import Evaluator, Predictions
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.selection import Selection

_DRAWS = 3
"""Number of random predictions for which a metric is tried."""


class Validation:
    """Function from parameters to the metrics of the validation split.

    It computes the metrics of `Evaluator`, and the metric that selects the best checkpoint unless
    that is one of them. The metric is NaN where it is undefined, or where an output of the model
    is NaN or infinite. With several strides each metric is the mean over them.
    """

    def __init__(
        self,
        model: Any,
        strides: Sequence[int],
        make_evaluator: Callable[[Any], Evaluator],
        selection: Selection,
        names: Sequence[str],
    ) -> None:
        """Prepares the validation.

        Args:
          model: Model of stride 1.
          strides: Strides that it is evaluated with.
          make_evaluator: Function from a model to an evaluator of the validation split.
          selection: Metric that selects the best checkpoint.
          names: Names of the classes, labels or targets.
        """
        self._model, self._selection, self._names = model, selection, names
        self.evaluators = {s: make_evaluator(with_stride(model, s)) for s in strides}

    def compile(self, params: Any) -> None:
        """Compiles with one batch, unless already compiled."""
        for stride, evaluator in self.evaluators.items():
            evaluator.compile(resize_params(self._model, params, stride))

    def __call__(self, params: Any) -> dict[str, float]:
        """Computes the metrics."""
        each = [
            self._values(evaluator, resize_params(self._model, params, stride))
            for stride, evaluator in self.evaluators.items()
        ]
        return {name: statistics.fmean(values[name] for values in each) for name in each[0]}

    def _values(self, evaluator: Evaluator, params: Any) -> dict[str, float]:
        """Computes the metrics of one stride."""
        predictions = evaluator.predict(params)
        values = evaluator.scores(predictions)
        if self._selection.name not in values:
            finite = np.isfinite(predictions.logits).all()
            values[self._selection.name] = (
                metric_value(self._selection, predictions, self._names) if finite else math.nan
            )
        return values


def metric_value(selection: Selection, predictions: Predictions, names: Sequence[str]) -> float:
    """Computes one metric of predictions; NaN if it is undefined.

    Args:
      selection: Metric.
      predictions: Predictions of a split.
      names: Names of the classes, labels or targets.

    Raises:
      ValueError: If the family of the metric lacks it.
    """
    # Training without such a metric does not import scikit-learn.
    from sft_jax.evaluation.metrics import task_metrics

    family = selection.family
    values = task_metrics(predictions, names, [family] if family else [])
    key = selection.name
    if family:
        values, key = values[family], selection.name.removeprefix(f"{family}.")
    if key not in values:
        raise ValueError(
            f"train.best_metric={selection.name!r}: the family computed only {', '.join(values)}"
        )
    return math.nan if values[key] is None else float(values[key])


def check_defined(
    selection: Selection, source: Sequence[Example], names: Sequence[str], task: Any
) -> None:
    """Checks before training that a metric can be computed for the labels of a split.

    Args:
      selection: Metric.
      source: Examples of the split.
      names: Names of the classes, labels or targets.
      task: Task of the model.

    Raises:
      ValueError: If the metric is undefined for random predictions, such as the area under the
        ROC curve of a split with a single class.
    """
    labels, random = pipeline.stack_labels(source), np.random.default_rng(0)
    predictions = Predictions(
        np.arange(len(labels)), labels, np.zeros((len(labels), len(names))), np.zeros(1), task
    )
    for _ in range(_DRAWS):
        logits = random.normal(size=predictions.logits.shape)
        drawn = dataclasses.replace(predictions, logits=logits)
        if not math.isnan(metric_value(selection, drawn, names)):
            return
    raise ValueError(
        f"train.best_metric={selection.name!r} is undefined for the {len(labels)} examples of the"
        " split valid, such as where all have one class; choose another metric or split"
    )
