"""Checks of logits and labels, made before any metric is computed from them."""

from __future__ import annotations

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from sft_jax.structs import CLASS_TASKS, Task

_MAX_NAMED = 3
"""Largest number of examples that an error names."""


class NotFiniteError(ValueError, ArithmeticError):
    """Error for outputs of a model that are NaN or infinite, and so are not predictions."""


def check_outputs(logits: np.ndarray, ids: np.ndarray | None = None) -> None:
    """Raises an error for logits that are not predictions, since NaN has no largest element.

    Args:
      logits: Outputs of the model, `[n, ...]` floats.
      ids: Names of the examples, `[n]`. Defaults to their positions.

    Raises:
      NotFiniteError: If an output is NaN or infinite. The message counts the affected examples
        and names the first of them.
    """
    logits = np.asarray(logits)
    bad = ~np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
    if not (count := int(bad.sum())):
        return
    names = np.arange(len(logits)) if ids is None else np.asarray(ids)
    some = ", ".join(map(str, names[bad][:_MAX_NAMED])) + (", ..." if count > _MAX_NAMED else "")
    raise NotFiniteError(
        f"logits: NaN or infinite for {count} of {len(logits)} examples ({some}), so the model"
        " predicts nothing for them; expected finite numbers. Training diverged or overflowed"
        " in its dtype: look at the losses, and evaluate another checkpoint"
    )


def probabilities(
    task: Task, logits: Float[np.ndarray, "n c"], temperature: float = 1.0
) -> Float[np.ndarray, "n c"]:
    """Computes what the outputs of a model stand for.

    Args:
      task: Task of the model.
      logits: Outputs of the model.
      temperature: Number that the logits of classes or labels are divided by
        (`sft_jax.evaluation.calibration`).

    Returns:
      Probabilities of the classes, whose sum is 1 in each row; with multi_label the probability
      of each label; with regression the predicted numbers, unchanged.
    """
    if task in CLASS_TASKS:
        result: np.ndarray = scipy.special.softmax(logits / temperature, axis=-1)
    elif task == "multi_label":
        result = scipy.special.expit(logits / temperature)
    else:
        result = logits
    return result


def calibrated(
    probability: float | Float[np.ndarray, "*n"], temperature: float
) -> Float[np.ndarray, "*n"]:
    """Computes the probability at a temperature, of a label or one of two classes.

    Args:
      probability: Probability at temperature 1.
      temperature: Temperature.
    """
    if temperature == 1:
        return np.asarray(probability)
    return scipy.special.expit(scipy.special.logit(np.asarray(probability, float)) / temperature)


def check_scores(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n c"], Int[np.ndarray, " n"]]:
    """Converts logits to float64 and labels to an array, and checks both.

    Raises:
      ValueError: If there is no example or the shapes do not match. Also if a logit is not finite
        or a label is not an integer from 0 to `c - 1`.
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
    """Computes class probabilities; each row sums to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
