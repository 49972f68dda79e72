"""Optimisers and learning-rate schedules, all of them optax's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sft_jax.config import OptimConfig

_MASKED_DECAY = ("adamaxw", "adamw", "adan", "lamb", "lion", "nadamw")
"""Their own weight decay takes a mask of what it reaches; it is part of their equations."""

_OTHERS = (
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "amsgrad",
    "lars",
    "nadam",
    "novograd",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "radam",
    "rmsprop",
    "sgd",
    "sign_sgd",
    "signum",
    "yogi",
)

OPTIMIZERS: Sequence[str] = tuple(
    name
    for name in sorted((*_MASKED_DECAY, *_OTHERS))
    if hasattr(optax, name)  # Older versions lack some.
)
"""The optimisers of optax that a config may name; tests take a step with each.

The others of optax can't be used: they take no schedule (rprop, sm3, optimistic_adam), need the
value of the loss along a search (lbfgs, the Polyak step), or a random key (noisy_sgd); or they
shrink all parameters, biases and norms among them (fromage).
"""


def make_schedule(
    config: OptimConfig, steps_per_epoch: Fraction | float, total_steps: int
) -> optax.Schedule:
    """The learning rate at each step, before what a plateau takes off it.

    Args:
      config: of the optimiser.
      steps_per_epoch: exact as a fraction, as `sft_jax.training.assembly.Plan` has it.
      total_steps: of the run.

    Raises:
      ValueError: if the warm-up is as long as the run or longer.
    """
    warmup = round(exact(config.warmup_epochs) * exact(steps_per_epoch))
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

    Weight decay reaches the parameters named "kernel" alone. It is decoupled: after the update of
    the optimiser `rate * weight_decay * kernel` is subtracted (Loshchilov and Hutter 2019, arXiv
    1711.05101). Optimisers of which it is a part, as of LAMB's trust ratio, apply their own.

    Args:
      config: of the optimiser.
      schedule: learning rate by step.

    Raises:
      ValueError: if `config.name` is not one of `OPTIMIZERS`, or it does not take an option given.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(
            f"optim.name={config.name!r} is not an optimiser of optax that can be used; there are"
            f" {', '.join(OPTIMIZERS)}"
        )
    build = getattr(optax, config.name)
    _check_options(config, build)
    options: dict[str, Any] = dict(config.options)
    if config.name in _MASKED_DECAY:
        options["weight_decay"] = config.weight_decay
        if config.weight_decay:
            options["mask"] = _are_kernels
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(build(learning_rate=schedule, **options))
    if config.weight_decay and config.name not in _MASKED_DECAY:
        parts.append(_decay_kernels(config.weight_decay, schedule))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _decay_kernels(decay: float, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Subtracts `rate * decay * kernel` from the updates of kernels."""
    decayed = optax.masked(
        optax.chain(optax.add_decayed_weights(decay), optax.scale_by_learning_rate(schedule)),
        _are_kernels,
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        by_decay, state = decayed.update(jax.tree.map(jnp.zeros_like, updates), state, params)
        return jax.tree.map(jnp.add, updates, by_decay), state

    return optax.GradientTransformation(decayed.init, update)


def _check_options(config: OptimConfig, build: Callable[..., Any]) -> None:
    """Raises ValueError for an option that is not the optimiser's, or has a field of its own."""
    accepted = set(inspect.signature(build).parameters) - {"learning_rate"}
    own = {name for name in accepted if name == "mask" or name.startswith("weight_decay")}
    if decay := sorted(set(config.options) & own):
        raise ValueError(
            f"optim.options has {decay}: set optim.weight_decay, which reaches kernels alone"
        )
    if unknown := sorted(set(config.options) - accepted):
        raise ValueError(
            f"optim.options: optax.{config.name} takes no {unknown}; it takes"
            f" {sorted(accepted - own)}"
        )


def exact(number: Fraction | float) -> Fraction:
    """The number as it is written: 0.1 as one tenth, which the nearest float is not."""
    return number if isinstance(number, Fraction) else Fraction(str(number))


def make_plateau(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Scales updates by a factor that falls when the validation loss has stopped falling.

    Its `update` is called once an evaluation, with no updates and `value` the loss; the
    training step multiplies its updates by the `scale` of its state.
    """
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor, patience=config.plateau_patience
    )


def _are_kernels(params: Any) -> Any:
    """True for each parameter named "kernel"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )
