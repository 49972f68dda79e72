"""Losses per example, and the score that is reported with them.

| loss | task | numbers |
| --- | --- | --- |
| `cross_entropy` | single_label, ordinal | `-log p(label)` |
| `focal` | single_label, ordinal | `-(1 - p(label))² log p(label)` |
| `binary_cross_entropy` | multi_label | mean over the labels of `-log p(label)` |
| `squared_error` | regression | mean over the targets of `(output - target)²` |
| `absolute_error` | regression | mean over the targets of `abs(output - target)` |
| `huber` | regression | `squared_error / 2` up to an error of 1, linear above |
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sft_jax import plugins
from sft_jax.structs import AnyArray, Task

SCORE_NAMES: Mapping[Task, str] = {
    "single_label": "accuracy",
    "multi_label": "accuracy",
    "ordinal": "accuracy",
    "regression": "mae",
}
"""Name of the mean of `example_scores`."""

AUTO = "auto"


def example_losses(
    task: Task,
    outputs: Float[Array, "b c"],
    labels: Int[AnyArray, " b"] | Float[AnyArray, "b c"],
    smoothing: float = 0.0,
    loss: str | Callable[..., Any] = AUTO,
    class_weights: Sequence[float] = (),
) -> Float[Array, " b"]:
    """Computes the loss of each example.

    Args:
      task: Task of the model.
      outputs: Outputs of the model.
      labels: `[b]` classes; `[b, c]` floats for multi_label and regression.
      smoothing: Label smoothing, at least 0 and below 1.
      loss: Name of one of `LOSSES` that fits the task, the import path of a function, or a
        function; `auto` for the first of `LOSSES` that fits.
      class_weights: Weight of each class, by which the losses of its examples are multiplied.
        With multi_label the weight of each label where an example has it; only for
        `binary_cross_entropy`. Empty for none.

    Raises:
      ValueError: If the loss does not fit the task or returns the wrong shape, or if `smoothing`
        is not 0 for regression. Also if the weights do not fit the outputs, the task or the loss.
    """
    if task == "regression" and smoothing:
        raise ValueError(f"smoothing={smoothing} must be 0 for regression")
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    function = _loss_function(task, loss)
    if class_weights and len(class_weights) != outputs.shape[-1]:
        raise ValueError(
            f"class_weights: {len(class_weights)} weights for outputs of {outputs.shape[-1]}"
        )
    if class_weights and task == "multi_label":
        check_class_weights(task, loss)
        function = functools.partial(function, positive_weights=class_weights)
    losses = function(outputs, labels, smoothing)
    if getattr(losses, "shape", None) != outputs.shape[:1]:
        raise ValueError(
            f"train.loss={loss!r} must return one number for each example, shape"
            f" {outputs.shape[:1]}, got {getattr(losses, 'shape', type(losses).__name__)}"
        )
    if class_weights and task != "multi_label":
        check_class_weights(task, loss)
        return losses * jnp.asarray(class_weights, losses.dtype)[labels]
    return losses


def check_class_weights(task: Task, loss: str | Callable[..., Any] = AUTO) -> None:
    """Raises ValueError unless losses of a task can be weighted by class.

    Args:
      task: Task of the model.
      loss: Loss, as in `example_losses`.
    """
    if task == "regression":
        raise ValueError("train.class_weights must be empty for model.task='regression'")
    if task == "multi_label" and loss not in (AUTO, "binary_cross_entropy"):
        raise ValueError(
            f"train.class_weights must be empty for train.loss={loss!r} with"
            " model.task='multi_label'; binary_cross_entropy alone takes them"
        )


def _loss_function(task: Task, loss: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(loss, str):
        return loss
    name = loss_name(task, loss)
    if name in LOSSES:
        return LOSSES[name].function
    function: Callable[..., Any] = plugins.load(name, "train.loss")
    return function


def loss_name(task: Task, loss: str = AUTO, field: str = "train.loss") -> str:
    """Checks a loss against a task, and resolves `auto`.

    Args:
      task: Task of the model.
      loss: Loss, as in `example_losses`.
      field: Name of the field that holds `loss`, for the error message.

    Raises:
      ValueError: If the task has no such loss.
    """
    allowed = [name for name, entry in LOSSES.items() if task in entry.tasks]
    if loss == AUTO:
        return allowed[0]
    if loss in allowed or plugins.is_import_path(loss):
        return loss
    raise ValueError(
        f"{field}={loss!r} is not a loss for model.task={task!r}; allowed are auto,"
        f" {', '.join(allowed)}, or an import path such as 'my_package.my_module:my_loss'"
    )


def example_scores(
    task: Task,
    outputs: Float[AnyArray, "b c"],
    labels: Int[AnyArray, " b"] | Float[AnyArray, "b c"],
) -> Bool[Array, " b"] | Float[Array, " b"]:
    """Computes the score that is reported with the loss; `SCORE_NAMES` names its mean.

    For single_label and ordinal the score is 1 if the label has the largest output, else 0. For
    multi_label it is the share of labels whose output has the right sign. For regression it is
    the mean absolute error over the targets.
    """
    match task:
        case "single_label" | "ordinal":
            return jnp.argmax(outputs, axis=-1) == labels
        case "multi_label":
            return jnp.mean((outputs > 0) == (labels > 0.5), axis=-1)
        case "regression":
            return absolute_error(outputs, labels)


def cross_entropy(
    logits: Float[Array, "b c"], labels: Int[AnyArray, " b"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Cross-entropy with the label, smoothed towards the uniform distribution.

    The target is `(1 - smoothing) onehot(label) + smoothing / c`. A label outside
    `0 .. c - 1` gives NaN, which training reports, rather than the loss of another class.
    """
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    target = (1 - smoothing) * target + smoothing / classes
    loss = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


def focal(
    logits: Float[Array, "b c"], labels: Int[AnyArray, " b"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Focal loss with gamma 2, which gives less weight to confidently classified examples.

    The loss is `-sum_c target_c (1 - p_c)² log p_c`, with the target of `cross_entropy` (Lin et
    al. 2017, arXiv 1708.02002). A label outside `0 .. c - 1` gives NaN.
    """
    log_p = jax.nn.log_softmax(logits)
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    target = (1 - smoothing) * target + smoothing / classes
    loss = -jnp.sum(target * jnp.square(-jnp.expm1(log_p)) * log_p, axis=-1)
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


def binary_cross_entropy(
    logits: Float[Array, "b c"],
    labels: Float[AnyArray, "b c"],
    smoothing: float = 0.0,
    positive_weights: Sequence[float] = (),
) -> Float[Array, " b"]:
    """Mean over the labels of the cross-entropy between label and sigmoid of its logit.

    The target is `(1 - smoothing) label + smoothing / 2`. An example with a label outside
    `[0, 1]` gets NaN. Of `-target log p - (1 - target) log(1 - p)` the first term is multiplied
    by the label's entry of `positive_weights`, if there are any.
    """
    target = (1 - smoothing) * labels + smoothing / 2
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    if positive_weights:
        yes *= jnp.asarray(positive_weights, yes.dtype)
    loss = -jnp.mean(target * yes + (1 - target) * no, axis=-1)
    return jnp.where(((labels >= 0) & (labels <= 1)).all(axis=-1), loss, jnp.nan)


def squared_error(
    outputs: Float[AnyArray, "b c"], labels: Float[AnyArray, "b c"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Mean over the targets of the squared difference; `smoothing` has no effect."""
    return jnp.mean(jnp.square(outputs - labels), axis=-1)


def absolute_error(
    outputs: Float[AnyArray, "b c"], labels: Float[AnyArray, "b c"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Mean over the targets of the absolute difference; `smoothing` has no effect."""
    return jnp.mean(jnp.abs(outputs - labels), axis=-1)


def huber(
    outputs: Float[AnyArray, "b c"], labels: Float[AnyArray, "b c"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Mean over the targets of Huber's loss with delta 1 (1964); `smoothing` has no effect."""
    error = jnp.abs(outputs - labels)
    near = jnp.minimum(error, 1)
    return jnp.mean(near * (error - near / 2), axis=-1)


@dataclasses.dataclass(frozen=True)
class Loss:
    """One loss, and the tasks that it fits.

    Attributes:
      function: Function called as `function(outputs, labels, smoothing)`, with `[b, c]` outputs
        in float32 at least; it returns `[b]` losses.
      tasks: Tasks whose labels and outputs the function accepts.
    """

    function: Callable[..., Any]
    tasks: tuple[Task, ...]


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, ("single_label", "ordinal")),
    "focal": Loss(focal, ("single_label", "ordinal")),
    "binary_cross_entropy": Loss(binary_cross_entropy, ("multi_label",)),
    "squared_error": Loss(squared_error, ("regression",)),
    "absolute_error": Loss(absolute_error, ("regression",)),
    "huber": Loss(huber, ("regression",)),
}
"""Built-in losses by their name in a config. The first that fits a task is its default."""
