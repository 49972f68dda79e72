"""Training of one model for several numbers of kept tokens.

Each step fuses the tokens of the largest budget, of the smallest budget, and of one drawn from
the others. This is the sandwich rule of universally slimmable networks (Yu and Huang 2019,
arXiv 1903.05134), for numbers of tokens in place of widths. `l(z)` is the loss of logits and
`d(z, z')` their distillation from other logits. The loss is the mean over the three budgets of

    l(z_largest)                         for the largest
    (l(z_k) + d(z_k, z_largest)) / 2     for each other

No gradient of the distillation flows into `z_largest`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sft_jax.modules.budget import with_budget
from sft_jax.modules.elastic import Fusion, Trunk, part
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.ops.losses import binary_cross_entropy, squared_error
from sft_jax.ops.mixup import Mixup
from sft_jax.structs import AnyArray, Task

Logits = Float[Array, "b c"]


def check_budgets(model: Any, budgets: Sequence[int]) -> None:
    """Checks that a model can be trained for the given budgets.

    Args:
      model: Model to train.
      budgets: Numbers of kept tokens, `train.elastic_k`.

    Raises:
      ValueError: If the model does not pool tokens, or one of the budgets does not fit it.
    """
    if budgets and type(model) is not SparseFusionTransformer:
        raise ValueError(
            f"train.elastic_k={tuple(budgets)} must be () for {type(model).__name__}:"
            " SparseFusionTransformer alone can be trained for several numbers of tokens"
        )
    for k in budgets:
        try:
            with_budget(model, k)
        except ValueError as error:
            raise ValueError(f"train.elastic_k={tuple(budgets)}: {error}") from None


def elastic_losses(
    model: SparseFusionTransformer,
    params: Any,
    inputs: Mapping[str, AnyArray],
    masks: Mapping[str, AnyArray],
    mixup: Mixup | None,
    keys: Mapping[str, Key[Array, ""]],
    budgets: Sequence[int],
    losses: Callable[[Logits], Float[Array, " b"]],
) -> tuple[Logits, Float[Array, " b"]]:
    """Computes the training loss of each example over several budgets.

    The part before fusion is computed once. One budget between the smallest and the largest is
    drawn and fused.

    Args:
      model: Model to train.
      params: Parameters of the model.
      inputs: Inputs of the model.
      masks: Masks of the inputs.
      mixup: Draw of mixup, the same for all budgets.
      keys: Random keys: "dropout" and "pool" of the model, and "budget" of the draw.
      budgets: Numbers of kept tokens, at least two.
      losses: Function from logits to the loss of each example.

    Returns:
      The logits of the largest budget, and the losses.
    """
    smallest, *between, largest = sorted(budgets)
    trunk = part(Trunk, model, budgets=(largest, *between, smallest))
    before_fusion: Any = trunk.apply(
        {"params": params},
        inputs,
        masks,
        train=True,
        mixup=mixup,
        rngs={name: keys[name] for name in ("dropout", "pool")},
    )
    entering, pooled = before_fusion
    fusion = part(Fusion, model)

    def fuse(k: int, number: int, params: Any, entering: Any, pooled: Any) -> Any:
        # Each budget has its own dropout, which differs from that of its teacher.
        rngs = {"dropout": jax.random.fold_in(keys["dropout"], number)}
        return fusion.apply(
            {"params": params}, entering, pooled[k], train=True, mixup=mixup, rngs=rngs
        )

    given = (params, entering, pooled)
    teacher = fuse(largest, 0, *given)
    students = [fuse(smallest, 1, *given)]
    if between:
        drawn = jax.random.randint(keys["budget"], (), 0, len(between))
        # Branches of a switch that is differentiated return the values that each of them saves, as
        # zeros where they are another's. Computing these again in the backward pass costs less.
        branches = [jax.checkpoint(lambda *given, k=k: fuse(k, 2, *given)) for k in between]
        students.append(jax.lax.switch(drawn, branches, *given))
    total = losses(teacher)
    for logits in students:
        total += (losses(logits) + distillation(model.task, logits, teacher)) / 2
    return teacher, total / (1 + len(students))


def distillation(task: Task, outputs: Logits, teacher: Logits) -> Float[Array, " b"]:
    """Computes a loss with a teacher's outputs in place of labels (Hinton et al. 2015).

    It is the cross-entropy with the teacher's probabilities of the classes, or of each label, and
    the squared error for regression. No gradient flows into the teacher's outputs.

    Args:
      task: Task of both models.
      outputs: Outputs of the student.
      teacher: Outputs of the teacher.
    """
    teacher = jax.lax.stop_gradient(teacher)
    match task:
        case "single_label" | "ordinal":
            return -jnp.sum(jax.nn.softmax(teacher) * jax.nn.log_softmax(outputs), axis=-1)
        case "multi_label":
            return binary_cross_entropy(outputs, jax.nn.sigmoid(teacher))
        case "regression":
            return squared_error(outputs, teacher)
