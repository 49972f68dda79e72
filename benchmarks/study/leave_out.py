"""Saliency beside a measure of what a token matters: the prediction without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from sft_jax.evaluation.restored import Restored
from sft_jax.inference.explain import explain_program
from sft_jax.structs import ModalitySpec

_AT_ONCE = 64


def measure(restored: Restored, examples: int) -> dict[str, Any]:
    """Leaves out each token in turn, and compares the change with the saliency of the token.

    The change of a token is the Euclidean distance of the logits with it from those without it.
    A token is left out by masking the steps of its patch, before any attention.

    Args:
      restored: Checkpoint of an SFT whose pool selects tokens.
      examples: Number of examples, spread evenly over the test split.

    Returns:
      JSON values by modality: `spearman`, the rank correlation of saliency and change, as the mean
      over examples with its standard error; `kept`, the share of the k tokens that matter most
      that the pool keeps; and `by_chance`, this share of tokens drawn at random.
    """
    model, source = restored.run.model, restored.run.dataset.source("test")
    explained = explain_program(model)
    logits = jax.jit(lambda *given: model.apply({"params": restored.params}, *given))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in model.modalities}
    for i in np.linspace(0, len(source) - 1, examples).astype(int):
        inputs, masks = source[i]["inputs"], source[i]["masks"]
        one = jax.tree.map(lambda array: array[None], (inputs, masks))
        saliency, index, filled = explained(restored.params, *one)
        whole = np.asarray(logits(*one))
        for name, spec in model.modalities.items():
            real, changed = _without_each(spec, masks[name])
            if len(real) < 2:
                continue
            outputs = _in_batches(logits, inputs, masks, name, changed)
            change = np.linalg.norm(outputs - whole, axis=-1)
            kept = np.asarray(index[name][0])[np.asarray(filled[name][0])]
            found[name].append(_agreement(np.asarray(saliency[name][0])[real], change, kept, real))
    return {name: _summary(rows) for name, rows in found.items() if rows}


def _without_each(spec: ModalitySpec, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the real tokens, and the mask without each."""
    grid = [n // patch for n, patch in zip(spec.lengths, spec.patch_sizes, strict=True)]
    numbers = np.arange(np.prod(grid)).reshape(grid)
    for axis, patch in enumerate(spec.patch_sizes):
        numbers = np.repeat(numbers, patch, axis)
    real = np.unique(numbers[mask])
    return real, np.stack([mask & (numbers != token) for token in real])


def _in_batches(
    logits: Any,
    inputs: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    name: str,
    changed: np.ndarray,
) -> np.ndarray:
    """Logits of an example with each of the masks of a modality."""
    outputs = []
    for start in range(0, len(changed), _AT_ONCE):
        part = changed[start : start + _AT_ONCE]
        padded = np.concatenate([part, np.repeat(part[:1], _AT_ONCE - len(part), axis=0)])
        every = {
            key: jnp.broadcast_to(mask, (_AT_ONCE, *mask.shape)) for key, mask in masks.items()
        }
        values = {key: jnp.broadcast_to(own, (_AT_ONCE, *own.shape)) for key, own in inputs.items()}
        outputs.append(np.asarray(logits(values, every | {name: padded}))[: len(part)])
    return np.concatenate(outputs)


def _agreement(
    saliency: np.ndarray, change: np.ndarray, kept: np.ndarray, real: np.ndarray
) -> dict[str, float]:
    """Agreement of saliency and change in one example."""
    k = min(len(kept), len(real))
    most = real[np.argsort(-change)[:k]]
    return {
        "spearman": float(scipy.stats.spearmanr(saliency, change).statistic),
        "kept": len({*most.tolist()} & {*kept.tolist()}) / k if k else 0.0,
        "by_chance": k / len(real),
    }


def _summary(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"n_examples": len(rows)}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        error = float(np.nanstd(values, ddof=1) / len(values) ** 0.5)
        summary[name] = {"mean": float(np.nanmean(values)), "standard_error": error}
    return summary
