"""Loss, training step and evaluation step, as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from sft_jax.config import MixupConfig, TrainConfig
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.ops.losses import example_losses, example_scores
from sft_jax.ops.mixup import Mixup, draw_mixup
from sft_jax.ops.modalities import drop_modalities, is_present
from sft_jax.parallel import sharding
from sft_jax.structs import Batch
from sft_jax.training import optim
from sft_jax.training.elastic import elastic_losses
from sft_jax.training.state import TrainState, stream, update_ema
from sft_jax.training.values import Values

STREAMS = ("dropout", "pool", "mixup", "modality_dropout", "budget")
"""Random streams of training; a model draws from the first two."""


class StepMetrics(flax.struct.PyTreeNode):
    """Metrics of a training step.

    Attributes:
      loss: Mean loss over the examples of the batch.
      score: Mean of `sft_jax.ops.losses.example_scores` over the same examples.
      gradient_norm: Global 2-norm of the gradient before clipping.
      example_loss: Loss of each example.
      finite: Flag for each parameter group by name, the first component of its path; False if the
        norm of the group's gradient is NaN or infinite.
    """

    loss: Float[Array, ""]
    score: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    example_loss: Float[Array, " b"]
    finite: dict[str, Bool[Array, ""]]


class Outputs(flax.struct.PyTreeNode):
    """Outputs of an evaluation step for each example of its batch.

    Attributes:
      logits: Logits of the model.
      loss: Loss of each example.
      positions: Position of each example in the split, since the order of the devices determines
        the order of the examples.
    """

    logits: Float[Array, "b c"]
    loss: Float[Array, " b"]
    positions: Int[Array, " b"]


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def loss_fn(
    params: Any,
    model: Any,
    batch: Batch,
    keys: Mapping[str, Key[Array, ""]],
    train: TrainConfig,
    mixup: MixupConfig,
    *,
    mixing: bool | Bool[Array, ""] = True,
    class_weights: Sequence[float] = (),
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Computes the training loss and score of each example, with modality dropout and mixup.

    Args:
      params: Parameters.
      model: Module of the parameters.
      batch: Batch of examples.
      keys: Random key of each of `STREAMS`.
      train: Section of training. Loss, label smoothing, modality dropout and the numbers of kept
        tokens are read.
      mixup: Section of mixup.
      mixing: False before the step that mixup begins with.
      class_weights: Weight of each class or label, as in `example_losses`, where
        `train.class_weights` asks for them (`sft_jax.data.class_weights`).

    Returns:
      Losses, and `sft_jax.ops.losses.example_scores`. Examples that fill up the batch, whose
      weight is 0, are included. With `train.elastic_k` the score is for the largest.

    Raises:
      ValueError: If `train.class_weights` is set but `class_weights` is empty, or `example_losses`
        refuses its arguments.
    """
    if train.class_weights and not class_weights:
        raise ValueError(f"train.class_weights={train.class_weights!r} but no class_weights given")
    masks = {name: jnp.asarray(mask) for name, mask in batch.masks.items()}
    if train.modality_dropout:
        used = {name: masks[name] for name in model.mixed_modalities}
        dropped = drop_modalities(keys["modality_dropout"], used, train.modality_dropout)
        masks = {**masks, **dropped}
    mixed = None
    if mixup.layers != "none":
        mixed = _draw(model, mixup, keys["mixup"], len(batch.weights))
        mixed = mixed.replace(layer=jnp.where(mixing, mixed.layer, -1))

    def losses(logits: Float[Array, "b c"]) -> Float[Array, " b"]:
        options = (train.label_smoothing, train.loss, class_weights)
        loss = example_losses(model.task, logits, batch.labels, *options)
        if mixed is None:
            return loss
        present = {name: is_present(masks[name]) for name in model.mixed_modalities}
        share = mixed.label_share(present)
        labels = mixed.from_partner(jnp.asarray(batch.labels))
        partners = example_losses(model.task, logits, labels, *options)
        return share * loss + (1 - share) * partners

    if train.elastic_k:
        logits, loss = elastic_losses(
            model, params, batch.inputs, masks, mixed, keys, train.elastic_k, losses
        )
    else:
        rngs = {name: keys[name] for name in ("dropout", "pool")}
        logits = model.apply(
            {"params": params}, batch.inputs, masks, train=True, mixup=mixed, rngs=rngs
        )
        loss = losses(logits)
    return loss, example_scores(model.task, logits, batch.labels)


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    train: TrainConfig,
    mixup: MixupConfig,
    seed: int | Int[Array, ""],
    *,
    mixup_from: int | Int[Array, ""] = 0,
    gather: Callable[[Any], Any] = lambda params: params,
    class_weights: Sequence[float] = (),
) -> TrainStep:
    """Builds the function that takes one optimiser step.

    With `train.accumulate` the batch is processed in this number of micro-batches in turn. The
    gradient is still that of the whole batch, except that random numbers differ, and that mixup
    finds partners within a micro-batch. A step whose loss or gradient is not finite leaves the
    state unchanged, including the step count.

    Args:
      model: Module whose parameters are trained.
      optimizer: Optimiser of the states that the step gets.
      train: Section of training.
      mixup: Section of mixup.
      seed: Seed of the random streams.
      mixup_from: First step, counted from 0, that mixes examples if `mixup` does.
      gather: Function applied to the parameters before they are used.
      class_weights: Weight of each class or label; see `loss_fn`.
    """

    def summed_loss(
        params: Any, batch: Batch, keys: dict[str, Array], step: Int[Array, ""], count: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        options: Any = {"mixing": step >= mixup_from, "class_weights": class_weights}
        loss, score = loss_fn(gather(params), model, batch, keys, train, mixup, **options)
        return jnp.sum(loss * batch.weights) / count, (loss, score * batch.weights)

    def accumulate(params: Any, batch: Batch, step: Int[Array, ""], count: Array) -> Any:
        parts = train.accumulate
        # A micro-batch takes every parts-th example, so that it stays spread over the devices.
        split = jax.tree.map(
            lambda a: a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1), batch
        )

        def add_part(total: Any, part: tuple[Array, Batch]) -> tuple[Any, Any]:
            index, batch = part
            keys = {name: jax.random.fold_in(stream(seed, name, step), index) for name in STREAMS}
            (_, aux), gradient = jax.value_and_grad(summed_loss, has_aux=True)(
                params, batch, keys, step, count
            )
            return jax.tree.map(jnp.add, total, gradient), aux

        zeros = jax.tree.map(jnp.zeros_like, params)
        gradient, aux = jax.lax.scan(add_part, zeros, (jnp.arange(parts), split))
        return gradient, jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1), aux)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        count = jnp.maximum(batch.weights.sum(), 1)
        gradient, (example_loss, score) = accumulate(state.params, batch, state.step, count)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updates = optim.scale_updates(updates, state.plateau)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema_params
        if ema is not None:
            ema = update_ema(ema, params, train.ema_decay, state.step)
        metrics = StepMetrics(
            loss=jnp.sum(example_loss * batch.weights) / count,
            score=score.sum() / count,
            gradient_norm=optax.tree.norm(gradient),
            example_loss=example_loss,
            # The check uses norms, since clipping computes their sums of squares anyway. Another
            # use of each gradient would make XLA recompute parts of it and compile twice as long.
            finite={name: jnp.isfinite(optax.tree.norm(group)) for name, group in gradient.items()},
        )
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema)
        good = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.gradient_norm)
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state), metrics

    return train_step


def _draw(model: Any, config: MixupConfig, key: Array, batch_size: int) -> Mixup:
    """Draws partners, shares and the layer whose output is mixed."""
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
    make_optimizer: Callable[[Float[Array, ""], Values], optax.GradientTransformation],
    train: TrainConfig,
    mixup: MixupConfig,
    mesh: Mesh,
    like: TrainState,
    *,
    stride: int = 1,
    freeze: Callable[[Any], Any] = lambda params: params,
    class_weights: Sequence[float] = (),
) -> Any:
    """Makes the step of `make_train_step`, jitted over a mesh; it donates the old state's memory.

    Its further arguments are the seed, an int32 scalar, the learning rate of the step, and
    `Values`: runs that differ in these share one program.

    Args:
      model: Module whose parameters are trained.
      make_optimizer: Function from a learning rate and values to the optimiser of the states that
        the step gets.
      train: Section of training.
      mixup: Section of mixup.
      mesh: Devices.
      like: State, or its shapes, with the shardings of the new state.
      stride: Stride that the step trains with; the parameters are always those of `model`.
      freeze: Function that stops the gradients of some parameters.
      class_weights: Weight of each class or label; see `loss_fn`.
    """
    whole: Any = sharding.replicated(mesh)
    split: Any = sharding.split_by_example(mesh)
    metrics = StepMetrics(whole, whole, whole, split, whole)

    def step(
        state: TrainState,
        batch: Batch,
        seed: Int[Array, ""],
        rate: Float[Array, ""],
        values: Values,
    ) -> tuple[TrainState, StepMetrics]:
        take_step = make_train_step(
            with_stride(model, stride),
            make_optimizer(rate, values),
            train,
            mixup,
            seed,
            mixup_from=values.mixup_from,
            gather=lambda params: resize_params(
                model, sharding.gather(freeze(params), mesh), stride
            ),
            class_weights=class_weights,
        )
        return take_step(state, batch)

    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda array: array.sharding, like), metrics),
    )


def compile_eval_step(model: Any, mesh: Mesh, loss: str = "auto") -> Any:
    """Makes a jitted function from parameters, a batch and its positions to `Outputs`.

    Every process gets the outputs of all processes.

    Args:
      model: Module whose outputs are computed.
      mesh: Devices.
      loss: Loss of `sft_jax.ops.losses` to report.
    """

    def eval_step(params: Any, batch: Batch, positions: Int[Array, " b"]) -> Outputs:
        params = sharding.gather(params, mesh)
        logits = model.apply({"params": params}, batch.inputs, batch.masks)
        losses = example_losses(model.task, logits, batch.labels, loss=loss)
        return Outputs(logits, losses, positions)

    return jax.jit(eval_step, out_shardings=sharding.replicated(mesh))
