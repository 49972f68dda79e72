"""Numbers by which runs may differ that share their compiled programs.

The programs take them as arguments. The learning rate of a step is such an argument too, which a
small program of its own computes (`sft_jax.training.optim.Schedule`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from sft_jax.config import ExperimentConfig, SystemConfig

T = TypeVar("T")

MASKED_DECAY = ("adamaxw", "adamw", "adan", "lamb", "lion", "nadamw")
"""Optimisers whose own equations include weight decay, with a mask."""


class Values(flax.struct.PyTreeNode):
    """Arguments of the training step that are the same in all steps of a run.

    Attributes:
      weight_decay: `optim.weight_decay`.
      mixup_from: First step, counted from 0, that mixes examples.
    """

    weight_decay: float | Float[Array, ""]
    mixup_from: int | Int[Array, ""]

    @classmethod
    def from_config(cls, config: ExperimentConfig, mixup_from: int) -> Values:
        """Reads the values of a run from its config and plan."""
        return cls(config.optim.weight_decay, mixup_from)


def put_numbers(numbers: T, place: jax.sharding.Sharding) -> T:
    """Puts a tree of Python numbers on devices, as float32 and int32.

    Several processes compare what they put, and JAX finds the same Python float unequal.
    """
    typed = jax.tree.map(lambda n: np.int32(n) if isinstance(n, int) else np.float32(n), numbers)
    return jax.device_put(typed, place)


def without_values(config: ExperimentConfig, *, fixed_rate: bool) -> ExperimentConfig:
    """Replaces all fields that do not change the programs of training.

    Runs share their programs if they are equal in the other fields, in the shapes of their data
    and in their devices.

    XLA multiplies constants with each other before anything else, which changes the rounding. So
    two numbers remain constants: a learning rate that never changes, and weight decay that is
    applied after the optimiser's own equations.

    Args:
      config: Experiment.
      fixed_rate: Whether the learning rate is `optim.lr` in all steps.

    Returns:
      The config to make the programs from. Its schedule is constant only with `fixed_rate`.
    """
    optim, train = config.optim, config.train
    default = ExperimentConfig()
    decay = optim.weight_decay
    return dataclasses.replace(
        config,
        seed=default.seed,
        seeds=default.seeds,
        data=default.data,
        optim=dataclasses.replace(
            optim,
            lr=optim.lr if fixed_rate else default.optim.lr,
            weight_decay=float(decay > 0) if optim.name in MASKED_DECAY else decay,
            schedule="constant" if fixed_rate else "cosine",
            warmup_epochs=default.optim.warmup_epochs,
            plateau_factor=default.optim.plateau_factor,
            plateau_patience=default.optim.plateau_patience,
        ),
        train=dataclasses.replace(
            train,
            epochs=default.train.epochs,
            init_from=default.train.init_from,
            sampling=default.train.sampling,
            evaluate_every_epochs=default.train.evaluate_every_epochs,
            best_metric=default.train.best_metric,
            patience=default.train.patience,
            log_every_steps=default.train.log_every_steps,
            keep_latest=default.train.keep_latest,
        ),
        mixup=dataclasses.replace(config.mixup, warmup_epochs=default.mixup.warmup_epochs),
        system=SystemConfig(),
    )


class RunStep:
    """Training step of one run: a program, and the values of the run that it gets.

    It has the methods of a jitted function, also once it is lowered or compiled.
    """

    def __init__(self, program: Any, rate: Callable[[Any], Any], values: Values) -> None:
        """Prepares the step.

        Args:
          program: Function of a state, a batch, a seed, a learning rate and values.
          rate: Jitted function from the number of steps taken to the learning rate.
          values: Values of the run.
        """
        self._program, self._rate, self._values = program, rate, values

    def __call__(self, state: Any, batch: Any, seed: Any) -> Any:
        """Takes a step; returns the next state and the metrics."""
        return self._program(state, batch, seed, self._rate(state.step), self._values)

    def lower(self, state: Any, batch: Any, seed: Any) -> RunStep:
        """Lowers the program for arguments, or for their shapes."""
        rate = jax.eval_shape(self._rate, state.step)
        lowered = self._program.lower(state, batch, seed, rate, self._values)
        return RunStep(lowered, self._rate, self._values)

    def compile(self, **options: Any) -> RunStep:
        """Compiles the lowered program."""
        return RunStep(self._program.compile(**options), self._rate, self._values)

    def __getattr__(self, name: str) -> Any:
        """Returns another attribute of the program, such as its text."""
        return getattr(self._program, name)
