"""Classical models on hand-made features, to compare a network with.

Each has the same budget of tuning: four settings, the first the default of scikit-learn. The best
on the validation split is taken. All are fitted to the training split alone. Only the forest
depends on the seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.classical_features import features
from sft_jax.data.dataset import Dataset
from sft_jax.evaluation.binary import log_odds
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.ops.losses import example_losses
from sft_jax.selection import find_metric
from sft_jax.structs import CLASS_TASKS, Task

_FOREST_FLOOR = 1e-6  # Least probability of a class, since the trees may agree on 0.
_ABSENT = -30.0  # Log-probability of a class that the training split lacks.

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Method:
    """Kind of model, with the settings that are tried.

    Attributes:
      make: Function from settings and seed to a classifier of scikit-learn, not fitted.
      grid: Settings that are tried, the default first.
    """

    make: Callable[[Settings, int], ClassifierMixin]
    grid: Sequence[Settings]


def _logistic_regression(settings: Settings, seed: int) -> ClassifierMixin:
    # The mean of the training split stands for what is missing, beside a flag.
    model = LogisticRegression(max_iter=5000, random_state=seed, **settings)
    return make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), model)


def _gradient_boosting(settings: Settings, seed: int) -> ClassifierMixin:
    # Without early stopping, which would hold out windows that overlap with the others.
    return HistGradientBoostingClassifier(early_stopping=False, random_state=seed, **settings)


def _random_forest(settings: Settings, seed: int) -> ClassifierMixin:
    return RandomForestClassifier(500, random_state=seed, n_jobs=2, **settings)


METHODS: Mapping[str, Method] = {
    "logistic regression": Method(
        _logistic_regression, [{"C": strength} for strength in (1.0, 0.01, 0.1, 10.0)]
    ),
    "random forest": Method(
        _random_forest, [{"min_samples_leaf": count} for count in (1, 3, 10, 30)]
    ),
    "gradient boosting": Method(
        _gradient_boosting,
        [
            {"learning_rate": rate, "max_leaf_nodes": leaves, "max_iter": trees}
            for rate, leaves, trees in (
                (0.1, 31, 100),
                (0.1, 7, 100),
                (0.05, 15, 200),
                (0.03, 7, 400),
            )
        ],
    ),
}
"""Models by name."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Model that did best on the validation split.

    Attributes:
      settings: Settings of the model.
      metric: Name of the metric by which they were chosen.
      tried: Settings that were tried, each with its `value` of the metric.
      predictions: Split to the predictions for it, whose logits are log-odds of labels, or
        logarithms of probabilities of classes.
      metrics: Split to the metrics of the predictions (`sft_jax.evaluation.metrics`).
    """

    settings: Settings
    metric: str
    tried: Sequence[Mapping[str, Any]]
    predictions: Mapping[str, Predictions]
    metrics: Mapping[str, Mapping[str, Any]]


def tune(
    dataset: Dataset,
    method: str,
    seed: int,
    splits: Sequence[str] = ("valid", "test"),
    metric: str = "",
) -> Tuned:
    """Fits a model with each of its settings, and evaluates the one that is best in validation.

    Args:
      dataset: Examples with classes or labels.
      method: Name in `METHODS`.
      seed: Seed of the model.
      splits: Splits to predict for.
      metric: Metric of the task that is best in the validation split. Empty for `roc_auc` of two
        classes, `accuracy` of more, and `macro_average_precision` of labels.

    Raises:
      ValueError: If the task is regression, the metric is unknown, or it is undefined.
    """
    info = dataset.info
    count = len(info.class_names)
    if info.task == "regression":
        raise ValueError("task='regression' has no classical model; allowed are classes and labels")
    chosen = find_metric(info.task, metric or _default_metric(info.task, count), count)
    x, y = features(dataset, "train"), labels(dataset, "train")
    inputs = {split: features(dataset, split) for split in {"valid", *splits}}
    tried: list[dict[str, Any]] = []
    for settings in METHODS[method].grid:
        logits = _fit(method, settings, seed, x, y, dataset)
        own = predictions(dataset, "valid", logits(inputs["valid"]))
        value = evaluate(dataset, own)[chosen.name]
        if value is None:
            raise ValueError(f"{chosen.name} is undefined in the validation split; name another")
        sign = 1 if chosen.better == "higher" else -1
        if all(sign * value > sign * row["value"] for row in tried):
            best, best_logits = settings, logits
        tried.append({**settings, "value": value})
    by_split = {split: predictions(dataset, split, best_logits(inputs[split])) for split in splits}
    return Tuned(
        settings=best,
        metric=chosen.name,
        tried=tried,
        predictions=by_split,
        metrics={split: evaluate(dataset, own) for split, own in by_split.items()},
    )


def baselines(dataset: Dataset, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy on the test split of two models with the settings that scikit-learn has."""
    x, y, test = features(dataset, "train"), labels(dataset, "train"), features(dataset, "test")
    results = {}
    for name in ("logistic regression", "random forest"):
        logits = _fit(name, METHODS[name].grid[0], seed, x, y, dataset)(test)
        metrics = evaluate(dataset, predictions(dataset, "test", logits))
        results[name] = {key: metrics[key] for key in ("accuracy", "n_examples")}
    return results


def labels(dataset: Dataset, split: str) -> np.ndarray:
    """Returns the labels of a split: `[examples]` classes, or `[examples, labels]` 0 and 1."""
    return np.asarray([example["label"] for example in dataset.source(split)])


def predictions(dataset: Dataset, split: str, logits: np.ndarray) -> Predictions:
    """Makes the predictions of a split from `[examples, classes]` logits."""
    task, true = dataset.info.task, labels(dataset, split)
    ids = np.asarray([example["id"] for example in dataset.source(split)])
    losses = np.asarray(example_losses(task, jnp.asarray(logits, jnp.float32), true))
    return Predictions(ids, true, logits, losses, task)


def evaluate(dataset: Dataset, own: Predictions) -> dict[str, Any]:
    """Computes the metrics of predictions, with the families of the dataset."""
    return task_metrics(own, dataset.info.class_names, dataset.info.metrics)


def _default_metric(task: Task, count: int) -> str:
    if task == "multi_label":
        return "macro_average_precision"
    return "roc_auc" if count == 2 else "accuracy"


def _fit(
    method: str, settings: Settings, seed: int, x: np.ndarray, y: np.ndarray, dataset: Dataset
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits one model, or one for each label, and returns the function to its logits."""
    make = METHODS[method].make
    known = ~np.isnan(x).all(axis=0)  # Such as those of a type that no example has.
    x = x[:, known]
    if dataset.info.task in CLASS_TASKS:
        model, count = make(settings, seed).fit(x, y), len(dataset.info.class_names)
        return lambda inputs: log_probabilities(model, inputs[:, known], count)
    columns = [_fit_label(make(settings, seed), x, column > 0.5) for column in y.T]
    return lambda inputs: np.stack([odds(inputs[:, known]) for odds in columns], axis=1)


def _fit_label(
    model: ClassifierMixin, x: np.ndarray, has: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits the model of a label, and returns the function to its log-odds."""
    if has.all() or not has.any():
        constant = np.log((1 + has.sum()) / (1 + (~has).sum()))
        return lambda inputs: np.full(len(inputs), constant)
    model.fit(x, has.astype(int))
    return lambda inputs: log_odds(log_probabilities(model, inputs, 2))


def log_probabilities(model: ClassifierMixin, x: np.ndarray, count: int) -> np.ndarray:
    """Computes the logarithms of the probabilities of classes, `[examples, count]` float64.

    Args:
      model: Fitted classifier, whose classes are from 0 to `count - 1`.
      x: Features of examples.
      count: Number of classes.
    """
    if hasattr(model, "decision_function"):
        scores = np.asarray(model.decision_function(x), np.float64)
        if scores.ndim == 1:
            scores = np.stack([np.zeros(len(scores)), scores], axis=1)
    else:
        scores = np.log(np.maximum(model.predict_proba(x), _FOREST_FLOOR))
    result = np.full((len(x), count), _ABSENT)
    result[:, model.classes_] = scipy.special.log_softmax(scores, axis=1)
    return result
