"""Optimisers and learning-rate schedules, all of them optax's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

from sft_jax.config import OptimConfig


def make_schedule(config: OptimConfig, steps_per_epoch: float, total_steps: int) -> optax.Schedule:
    """The learning rate at each step, before what a plateau takes off it.

    Raises:
      ValueError: if the warm-up is as long as the run or longer.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        raise ValueError(
            f"optim.warmup_epochs={config.warmup_epochs} is {warmup} steps, and the whole run"
            f" has {total_steps}: shorten the warm-up or raise train.epochs"
        )
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.lr, total_steps - warmup)
    else:
        main = optax.constant_schedule(config.lr)
    # The first step must move: the warm-up ends at the peak, it does not start at 0.
    rise = optax.linear_schedule(config.lr / (warmup + 1), config.lr, warmup)
    return optax.join_schedules([rise, main], [warmup])


def make_optimizer(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping, then the optimiser that `config.name` names in optax.

    Raises:
      ValueError: if optax has no such optimiser, or it does not take an option given.
    """
    build = _optimizers().get(config.name)
    if build is None:
        raise ValueError(
            f"optim.name={config.name!r} is not an optimiser of optax; there are"
            f" {', '.join(sorted(_optimizers()))}"
        )
    options: dict[str, Any] = dict(config.options)
    accepted = inspect.signature(build).parameters
    if config.weight_decay:
        options["weight_decay"] = config.weight_decay
        if "mask" in accepted:
            options["mask"] = _is_kernel
    if unknown := sorted(set(options) - set(accepted)):
        raise ValueError(f"optax.{config.name} takes no {unknown}; it takes {sorted(accepted)}")
    if "weight_decay" in accepted:
        options.setdefault("weight_decay", 0.0)
    optimizer = build(learning_rate=schedule, **options)
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer


def make_plateau(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Scales updates by a factor that falls when the validation loss has stopped falling.

    Its `update` is called once an evaluation, with no updates and `value` the loss; the
    training step multiplies its updates by the `scale` of its state.
    """
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor, patience=config.plateau_patience
    )


def _optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    return {
        name: build
        for name, build in inspect.getmembers(optax, inspect.isfunction)
        if "learning_rate" in inspect.signature(build).parameters
        and not name.startswith(("_", "scale_by_"))
        # Needs the value of the loss along its search, which a step does not compute.
        and name != "lbfgs"
    }


def _is_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
