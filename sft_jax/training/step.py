"""One step of training and one of evaluation, as pure functions to be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from sft_jax.config import TrainConfig
from sft_jax.ops.losses import cross_entropy
from sft_jax.structs import Batch
from sft_jax.training import distributed, rngs
from sft_jax.training.state import TrainState

STREAMS = ("dropout", "pool")
"""The random streams that a model may draw from in training."""


class StepMetrics(flax.struct.PyTreeNode):
    """What a training step reports.

    Attributes:
      loss: mean over the examples of the batch.
      accuracy: share of them whose largest logit is the label's.
      gradient_norm: global 2-norm before clipping.
      example_loss: loss of each example.
      finite: False where a parameter group's gradient has a NaN or infinity; by the name
        of the group, the first component of its path.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    example_loss: Float[Array, " b"]
    finite: dict[str, Bool[Array, ""]]


class Outputs(flax.struct.PyTreeNode):
    """What an evaluation step gives for each example of its batch."""

    logits: Float[Array, "b c"]
    loss: Float[Array, " b"]


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    seed: int | Int[Array, ""],
) -> TrainStep:
    """Builds the function that takes one optimiser step.

    With `accumulate` the batch is worked through in as many parts, one after the other;
    the gradient is that of the whole batch either way, dropout and random pools aside. A step
    whose loss or gradient is not finite leaves the state as it was, the step count included.
    """

    def summed_loss(
        params: Any, batch: Batch, keys: dict[str, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        logits = model.apply({"params": params}, batch.inputs, batch.masks, train=True, rngs=keys)
        loss = cross_entropy(logits, batch.labels, config.label_smoothing)
        correct = (logits.argmax(axis=-1) == batch.labels) * batch.weights
        return jnp.sum(loss * batch.weights), (loss, correct)

    def accumulate(params: Any, batch: Batch, step: Int[Array, ""]) -> Any:
        parts = config.accumulate
        # Every part takes each parts-th example, so that it stays spread over the devices.
        split = jax.tree.map(
            lambda a: a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1), batch
        )

        def part(total: Any, part: tuple[Array, Batch]) -> tuple[Any, Any]:
            index, batch = part
            keys = {
                name: jax.random.fold_in(rngs.stream(seed, name, step), index) for name in STREAMS
            }
            (_, aux), gradient = jax.value_and_grad(summed_loss, has_aux=True)(params, batch, keys)
            return jax.tree.map(jnp.add, total, gradient), aux

        zeros = jax.tree.map(jnp.zeros_like, params)
        gradient, aux = jax.lax.scan(part, zeros, (jnp.arange(parts), split))
        return gradient, jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1), aux)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        gradient, (example_loss, correct) = accumulate(state.params, batch, state.step)
        count = jnp.maximum(batch.weights.sum(), 1)
        gradient = jax.tree.map(lambda g: g / count, gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updates = optax.tree.scale(state.plateau.scale, updates)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema_params
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - config.ema_decay)
        metrics = StepMetrics(
            loss=jnp.sum(example_loss * batch.weights) / count,
            accuracy=correct.sum() / count,
            gradient_norm=optax.tree.norm(gradient),
            example_loss=example_loss,
            finite={name: _all_finite(group) for name, group in gradient.items()},
        )
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema)
        good = jnp.isfinite(metrics.loss) & _all_finite(gradient)
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state), metrics

    return train_step


def compile_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    seed: int,
    mesh: Mesh,
) -> Any:
    """The jitted training step over a mesh; it takes over the memory of the old state."""
    whole: Any = distributed.replicated(mesh)
    split: Any = distributed.split_by_example(mesh)
    metrics = StepMetrics(whole, whole, whole, split, whole)
    return jax.jit(
        make_train_step(model, optimizer, config, seed),
        donate_argnums=0,
        out_shardings=(whole, metrics),
    )


def compile_eval_step(model: Any, mesh: Mesh) -> Any:
    """The jitted function of parameters and a batch that gives every process all outputs."""

    def eval_step(params: Any, batch: Batch) -> Outputs:
        logits = model.apply({"params": params}, batch.inputs, batch.masks)
        return Outputs(logits, cross_entropy(logits, batch.labels))

    return jax.jit(eval_step, out_shardings=distributed.replicated(mesh))


def _all_finite(tree: Any) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
