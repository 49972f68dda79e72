"""One step of training and one of evaluation, as pure functions to be compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from sft_jax.config import ExperimentConfig, MixupConfig
from sft_jax.ops.losses import example_losses, example_scores
from sft_jax.ops.mixup import Mixup, draw_mixup
from sft_jax.ops.modalities import drop_modalities, is_present
from sft_jax.parallel import sharding
from sft_jax.structs import Batch
from sft_jax.training import rngs
from sft_jax.training.state import TrainState, update_ema

STREAMS = ("dropout", "pool", "mixup", "modality_dropout")
"""The random streams of training; a model draws from the first two."""


class StepMetrics(flax.struct.PyTreeNode):
    """What a training step reports.

    Attributes:
      loss: mean over the examples of the batch.
      score: mean over them of `sft_jax.ops.losses.example_scores`.
      gradient_norm: global 2-norm before clipping.
      example_loss: loss of each example.
      finite: False where the norm of a parameter group's gradient is NaN or infinite; by the
        name of the group, the first component of its path.
    """

    loss: Float[Array, ""]
    score: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    example_loss: Float[Array, " b"]
    finite: dict[str, Bool[Array, ""]]


class Outputs(flax.struct.PyTreeNode):
    """What an evaluation step gives for each example of its batch.

    Attributes:
      logits: of the model.
      loss: of each example.
      positions: which example of the split it is. Devices may be in any order, and their
        examples with them.
    """

    logits: Float[Array, "b c"]
    loss: Float[Array, " b"]
    positions: Int[Array, " b"]


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    config: ExperimentConfig,
    seed: int | Int[Array, ""],
    *,
    mixup_from: int = 0,
    gather: Callable[[Any], Any] = lambda params: params,
) -> TrainStep:
    """Builds the function that takes one optimiser step.

    With `accumulate` the batch is worked through in as many parts, one after the other;
    the gradient is that of the whole batch either way, but for what is drawn at random, and
    that mixup finds partners within a part. A step whose loss or gradient is not finite
    leaves the state as it was, the step count included.

    Args:
      model: whose parameters are trained.
      optimizer: of the state that the step is given.
      config: of the experiment.
      seed: of what is drawn at random.
      mixup_from: the first step, counted from 0, that mixes examples if `config.mixup` does.
      gather: Function that the parameters pass before they are used.
    """
    parts = config.train.accumulate

    def summed_loss(
        params: Any, batch: Batch, keys: dict[str, Array], step: Int[Array, ""], count: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        masks = {name: jnp.asarray(mask) for name, mask in batch.masks.items()}
        if rate := config.train.modality_dropout:
            used = {name: masks[name] for name in model.mixed_modalities}
            masks = {**masks, **drop_modalities(keys["modality_dropout"], used, rate)}
        mixup = None
        if config.mixup.layers != "none":
            mixup = _draw(model, config.mixup, keys["mixup"], len(batch.weights))
            mixup = mixup.replace(layer=jnp.where(step >= mixup_from, mixup.layer, -1))
        logits = model.apply(
            {"params": gather(params)},
            batch.inputs,
            masks,
            train=True,
            mixup=mixup,
            rngs={name: keys[name] for name in ("dropout", "pool")},
        )
        smoothing = config.train.label_smoothing
        name = config.train.loss
        loss = example_losses(model.task, logits, batch.labels, smoothing, name)
        if mixup is not None:
            share = mixup.label_share(
                {name: is_present(masks[name]) for name in model.mixed_modalities}
            )
            labels = mixup.from_partner(jnp.asarray(batch.labels))
            other = example_losses(model.task, logits, labels, smoothing, name)
            loss = share * loss + (1 - share) * other
        score = example_scores(model.task, logits, batch.labels) * batch.weights
        return jnp.sum(loss * batch.weights) / count, (loss, score)

    def accumulate(params: Any, batch: Batch, step: Int[Array, ""], count: Array) -> Any:
        # Every part takes each parts-th example, so that it stays spread over the devices.
        split = jax.tree.map(
            lambda a: a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1), batch
        )

        def part(total: Any, part: tuple[Array, Batch]) -> tuple[Any, Any]:
            index, batch = part
            keys = {
                name: jax.random.fold_in(rngs.stream(seed, name, step), index) for name in STREAMS
            }
            (_, aux), gradient = jax.value_and_grad(summed_loss, has_aux=True)(
                params, batch, keys, step, count
            )
            return jax.tree.map(jnp.add, total, gradient), aux

        zeros = jax.tree.map(jnp.zeros_like, params)
        gradient, aux = jax.lax.scan(part, zeros, (jnp.arange(parts), split))
        return gradient, jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1), aux)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        count = jnp.maximum(batch.weights.sum(), 1)
        gradient, (example_loss, score) = accumulate(state.params, batch, state.step, count)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updates = optax.tree.scale(state.plateau.scale, updates)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema_params
        if ema is not None:
            ema = update_ema(ema, params, config.train.ema_decay, state.step)
        metrics = StepMetrics(
            loss=jnp.sum(example_loss * batch.weights) / count,
            score=score.sum() / count,
            gradient_norm=optax.tree.norm(gradient),
            example_loss=example_loss,
            # By norms, since clipping computes those sums of squares anyway: one more use of each
            # gradient would have XLA compute parts of it once more, and compile twice as long.
            finite={name: jnp.isfinite(optax.tree.norm(group)) for name, group in gradient.items()},
        )
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema)
        good = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.gradient_norm)
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state), metrics

    return train_step


def _draw(model: Any, config: MixupConfig, key: Array, batch_size: int) -> Mixup:
    """Draws who is mixed with whom, in what shares and after which layer."""
    depth = model.n_pre + model.n_post
    layers = {"within": (0, model.n_pre), "fused": (model.n_pre, depth), "any": (0, depth)}
    return draw_mixup(
        key,
        batch_size,
        model.mixed_modalities,
        alpha=config.alpha,
        layers=layers[config.layers],
        joint_from=model.joint_from,
        shared_from=model.shared_from,
        per_modality=config.shares == "per_modality",
        consistent=config.consistent,
    )


def compile_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    config: ExperimentConfig,
    mesh: Mesh,
    like: TrainState,
    *,
    mixup_from: int = 0,
) -> Any:
    """The step of `make_train_step`, jitted over a mesh; it takes over the old state's memory.

    The seed is its third argument, a scalar of int32, so that one program does for any.

    Args:
      model: see `make_train_step`, as for `optimizer`, `config` and `mixup_from`.
      optimizer: whose state is that of `like`.
      config: of the experiment.
      mesh: the devices.
      like: a state, or its shapes, where the new state is to be.
      mixup_from: the first step that mixes examples.
    """
    whole: Any = sharding.replicated(mesh)
    split: Any = sharding.split_by_example(mesh)
    metrics = StepMetrics(whole, whole, whole, split, whole)

    def step(
        state: TrainState, batch: Batch, seed: Int[Array, ""]
    ) -> tuple[TrainState, StepMetrics]:
        gather = functools.partial(sharding.gather, mesh=mesh)
        take_step = make_train_step(
            model, optimizer, config, seed, mixup_from=mixup_from, gather=gather
        )
        return take_step(state, batch)

    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda array: array.sharding, like), metrics),
    )


def compile_eval_step(model: Any, mesh: Mesh, loss: str = "auto") -> Any:
    """The jitted function of parameters, a batch and its positions to all outputs.

    Every process gets the outputs of all.

    Args:
      model: Module whose outputs are computed.
      mesh: Devices.
      loss: Loss of `sft_jax.ops.losses` that is reported.
    """

    def eval_step(params: Any, batch: Batch, positions: Int[Array, " b"]) -> Outputs:
        params = sharding.gather(params, mesh)
        logits = model.apply({"params": params}, batch.inputs, batch.masks)
        losses = example_losses(model.task, logits, batch.labels, loss=loss)
        return Outputs(logits, losses, positions)

    return jax.jit(eval_step, out_shardings=sharding.replicated(mesh))
