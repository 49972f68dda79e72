"""Optimisers and learning-rate schedules, built from optax."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sft_jax.config import OptimConfig
from sft_jax.training.groups import scale_groups
from sft_jax.training.values import MASKED_DECAY, Values, put_numbers

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
    for name in sorted((*MASKED_DECAY, *_OTHERS))
    if hasattr(optax, name)  # Older versions of optax lack some.
)
"""Optimisers of optax that a config may name; tests take a step with each.

The other optimisers of optax can't be used. Some take no schedule (rprop, sm3, optimistic_adam).
Some need the value of the loss during a search (lbfgs, the Polyak step), or a random key
(noisy_sgd). fromage shrinks all parameters, including biases and norms.
"""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Function from a step to the learning rate: a linear warm-up, then a curve.

    Attributes:
      name: `optim.schedule`.
      peak: Peak of the rate.
      warmup: Number of steps of the warm-up.
      steps: Number of steps after it.
    """

    name: str
    peak: float
    warmup: int
    steps: int

    @property
    def is_fixed(self) -> bool:
        """True if the rate is the same in all steps."""
        return self.name in ("constant", "plateau") and self.warmup == 0

    def __call__(self, step: Any) -> Any:
        """Computes the rate of a step, counted from 0."""
        return _rate(self.name, self.warmup, self.steps, step, *self._numbers())

    def compiled(self, place: jax.sharding.Sharding) -> Callable[[Any], Any]:
        """Makes a compiled function from steps to rates; it is compiled once for all peaks."""
        rate = _compiled_rate(self.name, self.warmup, self.steps, place)
        numbers = put_numbers(self._numbers(), place)
        return lambda step: rate(step, *numbers)

    def _numbers(self) -> tuple[float, float]:
        """Negative height of the warm-up, and the peak."""
        # The first step must change the parameters, so the warm-up does not start at 0.
        return self.peak / (self.warmup + 1) - self.peak, self.peak


def _rate(name: str, warmup: int, steps: int, step: Any, rise: Any, peak: Any) -> Any:
    """Computes the rate of a step; only the last two arguments depend on the peak."""
    rate = peak
    if name == "cosine":
        rate = peak * optax.cosine_decay_schedule(1.0, steps)(step - warmup)
    if warmup:
        falling = optax.linear_schedule(1.0, 0.0, warmup)(step)
        rate = jnp.where(step < warmup, rise * falling + peak, rate)
    return jnp.asarray(rate)


@functools.cache
def _compiled_rate(name: str, warmup: int, steps: int, place: jax.sharding.Sharding) -> Any:
    return jax.jit(functools.partial(_rate, name, warmup, steps), out_shardings=place)


def make_schedule(
    config: OptimConfig, steps_per_epoch: Fraction | float, total_steps: int
) -> Schedule:
    """Makes the schedule of the learning rate, before the plateau schedule lowers it.

    Args:
      config: Section of the optimiser.
      steps_per_epoch: Number of steps in an epoch, as an exact fraction; see
        `sft_jax.training.assembly.Plan`.
      total_steps: Number of steps in the run.

    Raises:
      ValueError: If the warm-up is at least as long as the run.
    """
    warmup = round(exact(config.warmup_epochs) * exact(steps_per_epoch))
    if warmup >= total_steps:
        raise ValueError(
            f"optim.warmup_epochs={config.warmup_epochs} is {warmup} steps, and the whole run"
            f" has {total_steps}: shorten the warm-up or raise train.epochs"
        )
    return Schedule(config.schedule, config.lr, warmup, total_steps - warmup)


def make_optimizer(
    config: OptimConfig, schedule: optax.Schedule, values: Values | None = None
) -> optax.GradientTransformation:
    """Makes the optimiser `config.name` of optax, preceded by clipping.

    With `config.groups` or `config.layer_decay`, the updates are scaled last; see
    `sft_jax.training.groups`.

    Weight decay applies only to parameters named "kernel". It is decoupled: after the update of
    the optimiser, `rate * weight_decay * kernel` is subtracted (Loshchilov and Hutter 2019, arXiv
    1711.05101). Optimisers whose own equations include weight decay, such as LAMB's trust ratio,
    apply it themselves.

    Args:
      config: Section of the optimiser.
      schedule: Learning rate by step.
      values: Weight decay in place of that of `config` if this is not 0, for optimisers whose
        own equations include it.

    Raises:
      ValueError: If `config.name` is not one of `OPTIMIZERS`, or does not accept an option.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(
            f"optim.name={config.name!r} is not an optimiser of optax that can be used; there are"
            f" {', '.join(OPTIMIZERS)}"
        )
    build = getattr(optax, config.name)
    _check_options(config, build)
    options: dict[str, Any] = dict(config.options)
    if config.name in MASKED_DECAY:
        options["weight_decay"] = config.weight_decay
        if config.weight_decay:
            options["mask"] = _are_kernels
            if values:
                options["weight_decay"] = values.weight_decay
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(build(learning_rate=schedule, **options))
    if config.weight_decay and config.name not in MASKED_DECAY:
        parts.append(_decay_kernels(config.weight_decay, schedule))
    if config.groups or config.layer_decay < 1:
        parts.append(scale_groups(config))
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
    """Raises ValueError for an option that the optimiser lacks or that has a config field."""
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
    """Returns the exact value of a number's decimal form, such as 1/10 for 0.1."""
    return number if isinstance(number, Fraction) else Fraction(str(number))


def init_plateau(params: Any) -> optax.OptState:
    """Makes the initial state of the plateau schedule; other schedules never change it.

    It is separate from the optimiser's state, since it follows evaluations and not steps.
    """
    return optax.contrib.reduce_on_plateau().init(params)


def observe(config: OptimConfig, plateau: Any, loss: float) -> Any:
    """Updates the state of the plateau schedule after an evaluation.

    The learning rate falls once the validation loss has stopped falling. A loss that is NaN or
    infinite is ignored.

    Args:
      config: Section of the optimiser.
      plateau: Previous state, on any devices. The new state is on the same devices.
      loss: Mean validation loss.
    """
    if config.schedule != "plateau" or not math.isfinite(loss):
        return plateau
    place = plateau.scale.sharding
    update = _compiled_update(config.plateau_factor, config.plateau_patience, place)
    return update(plateau, value=np.float32(loss))[1]


def scale_updates(updates: Any, plateau: Any) -> Any:
    """Scales updates of the optimiser by the current factor of the plateau schedule."""
    return optax.tree.scale(plateau.scale, updates)


def learning_rate(schedule: optax.Schedule, step: int, plateau: Any) -> float:
    """Returns the learning rate of a step, counted from 0."""
    return float(schedule(step)) * float(plateau.scale)


@functools.cache
def _compiled_update(factor: float, patience: int, place: jax.sharding.Sharding) -> Any:
    update = optax.contrib.reduce_on_plateau(factor=factor, patience=patience).update
    return jax.jit(functools.partial(update, {}), out_shardings=place)


def _are_kernels(params: Any) -> Any:
    """Marks each parameter named "kernel" with True."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )
