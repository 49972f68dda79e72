"""Logits and labels, checked before anything is computed from them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_NAMED = 3
"""As many examples are named by an error."""


class NotFiniteError(ValueError, ArithmeticError):
    """Outputs of a model that are NaN or infinite, so no predictions."""


def check_outputs(logits: np.ndarray, ids: np.ndarray | None = None) -> None:
    """Refuses what can't be taken for a prediction, as NaN has no largest.

    Args:
      logits: `[n, ...]` outputs for each example.
      ids: `[n]` names of the examples; by default their positions.

    Raises:
      NotFiniteError: with the number of examples that have an output that is NaN or infinite,
        and the first of their names.
    """
    logits = np.asarray(logits)
    found = ~np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
    if not (count := int(found.sum())):
        return
    names = np.arange(len(logits)) if ids is None else np.asarray(ids)
    some = ", ".join(map(str, names[found][:_NAMED])) + (", ..." if count > _NAMED else "")
    raise NotFiniteError(
        f"logits: NaN or infinite for {count} of {len(logits)} examples ({some}), so the model"
        " predicts nothing for them; expected finite numbers. Training diverged, or overflows"
        " in its dtype: see the losses, and take another checkpoint"
    )


def check_scores(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n c"], Int[np.ndarray, " n"]]:
    """The logits in float64 and the labels, both as arrays.

    Raises:
      ValueError: if there is no example, shapes do not fit, a logit is not finite, or a label
        is not an integer from 0 to `c - 1`.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits: expected [n, c], neither of them 0, got {[*logits.shape]}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels: expected one for each of {len(logits)} examples, got {[*labels.shape]}"
        )
    if not np.isfinite(logits).all():
        raise NotFiniteError(f"logits: {(~np.isfinite(logits)).sum()} are NaN or infinite")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels: expected integers, got {labels.dtype}")
    classes = logits.shape[1]
    if wrong := sorted({int(label) for label in labels if not 0 <= label < classes}):
        raise ValueError(f"labels: {wrong} are not from 0 to {classes - 1}")
    return logits, labels


def softmax(logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Probabilities of the classes; rows sum to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
