"""Weights of classes in the loss, computed from the labels of the training split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sft_jax.structs import Task


def class_weights(
    setting: str | Mapping[str, float], labels: Sequence[Any], task: Task, names: Sequence[str]
) -> tuple[float, ...]:
    """Computes the weight of each class or label.

    Balanced weights of classes are `n / (c n_i)`, with `n_i` of the `n` examples in class `i` and
    `c` classes that have examples; their mean over the examples is 1. Balanced weights of
    multi_label are `(n - n_i) / n_i`, with `n_i` examples that have label `i`. A class without
    examples has weight 1, and so has a label that no or every example has.

    Args:
      setting: `train.class_weights`, not empty.
      labels: Labels of the training split.
      task: Task of the model, except regression.
      names: Names of the classes or labels.

    Returns:
      Weights in the order of the labels.

    Raises:
      ValueError: If a class of a mapping does not exist or is given twice.
    """
    if isinstance(setting, Mapping):
        return _from_mapping(setting, names)
    array = np.asarray(labels)
    if task == "multi_label":
        counts = (array > 0.5).sum(axis=0)
        varied = (counts > 0) & (counts < len(array))
        weights = np.where(varied, (len(array) - counts) / np.maximum(counts, 1), 1.0)
    else:
        counts = np.bincount(array.astype(int), minlength=len(names))
        equal = len(array) / np.count_nonzero(counts)
        weights = np.where(counts > 0, equal / np.maximum(counts, 1), 1.0)
    return tuple(weights.tolist())


def _from_mapping(setting: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """Weights by name or index; a name that looks like an index counts as a name."""
    indices = {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    if unknown := sorted(set(setting) - set(indices)):
        raise ValueError(
            f"train.class_weights names {', '.join(map(repr, unknown))}; allowed are"
            f" {', '.join(names)}, or indices from 0 to {len(names) - 1}"
        )
    weights: dict[int, float] = {}
    for name, weight in setting.items():
        if indices[name] in weights:
            raise ValueError(f"train.class_weights gives class {names[indices[name]]!r} twice")
        weights[indices[name]] = weight
    return tuple(weights.get(i, 1.0) for i in range(len(names)))
