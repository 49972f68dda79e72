"""Losses of single examples, and the score that is reported beside them."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sft_jax.structs import AnyArray, Task

SCORE_NAMES: Mapping[Task, str] = {
    "single_label": "accuracy",
    "multi_label": "accuracy",
    "ordinal": "accuracy",
    "regression": "mae",
}
"""What the mean of `example_scores` is called."""


def example_losses(
    task: Task,
    outputs: Float[Array, "b c"],
    labels: Int[AnyArray, " b"] | Float[AnyArray, "b c"],
    smoothing: float = 0.0,
) -> Float[Array, " b"]:
    """The loss that a task is trained with.

    Args:
      task: single_label and ordinal take `cross_entropy`, multi_label `binary_cross_entropy`
        and regression `squared_error`.
      outputs: of the model.
      labels: `[b]` classes; `[b, c]` floats for multi_label and regression.
      smoothing: of the labels.

    Raises:
      ValueError: if the labels of a regression are to be smoothed.
    """
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    match task:
        case "single_label" | "ordinal":
            return cross_entropy(outputs, labels, smoothing)
        case "multi_label":
            return binary_cross_entropy(outputs, labels, smoothing)
        case "regression":
            if smoothing:
                raise ValueError(f"smoothing={smoothing} must be 0 for regression")
            return squared_error(outputs, labels)


def example_scores(
    task: Task,
    outputs: Float[AnyArray, "b c"],
    labels: Int[AnyArray, " b"] | Float[AnyArray, "b c"],
) -> Bool[Array, " b"] | Float[Array, " b"]:
    """What people watch beside the loss; `SCORE_NAMES` says what its mean is called.

    For single_label and ordinal whether the largest output is the label's; for multi_label the
    share of the labels that the sign of their output is right about; for regression the mean
    absolute error of the targets.
    """
    match task:
        case "single_label" | "ordinal":
            return jnp.argmax(outputs, axis=-1) == labels
        case "multi_label":
            return jnp.mean((outputs > 0) == (labels > 0.5), axis=-1)
        case "regression":
            return jnp.mean(jnp.abs(outputs - labels), axis=-1)


def cross_entropy(
    logits: Float[Array, "b c"], labels: Int[AnyArray, " b"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Cross-entropy with the label, mixed with `smoothing` parts of the uniform distribution.

    The target is `(1 - smoothing) onehot(label) + smoothing / c`. A label outside
    `0 .. c - 1` gives NaN, which training reports, rather than the loss of some class.
    """
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    target = (1 - smoothing) * target + smoothing / classes
    loss = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


def binary_cross_entropy(
    logits: Float[Array, "b c"], labels: Float[AnyArray, "b c"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Mean over the labels of the cross-entropy of each with the sigmoid of its logit.

    The target is `(1 - smoothing) label + smoothing / 2`. An example with a label outside
    `[0, 1]` gets NaN.
    """
    target = (1 - smoothing) * labels + smoothing / 2
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    loss = -jnp.mean(target * yes + (1 - target) * no, axis=-1)
    return jnp.where(((labels >= 0) & (labels <= 1)).all(axis=-1), loss, jnp.nan)


def squared_error(
    outputs: Float[Array, "b c"], labels: Float[AnyArray, "b c"]
) -> Float[Array, " b"]:
    """Mean over the targets of the squared difference."""
    return jnp.mean(jnp.square(outputs - labels), axis=-1)
