"""Compiled functions of training, which runs share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax
from jax.sharding import Mesh

from sft_jax.config import ExperimentConfig, check_heads
from sft_jax.training import groups, optim
from sft_jax.training.state import (
    TrainState,
    compile_first_state,
    compile_make_state,
    state_shapes,
)
from sft_jax.training.step import compile_eval_step, compile_train_step
from sft_jax.training.strides import strided_trainings
from sft_jax.training.values import Values

MOST_SHARED = 8
"""Largest number of models whose programs are kept for later runs."""


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled functions of training a model; each is compiled on its first call.

    Attributes:
      model: Module.
      like: Shapes, dtypes and shardings of a state.
      new_state: Function from a seed to the state before the first step.
      first_state: Function from parameters to the state before the first step.
      steps: Training step of each stride; see `compile_train_step`.
      evaluate: Evaluation step; see `compile_eval_step`.
    """

    model: Any
    like: TrainState
    new_state: Callable[[int], TrainState]
    first_state: Callable[[Any], TrainState]
    steps: Mapping[int, Any]
    evaluate: Any


class SharedPrograms:
    """Programs of the latest runs of a process, by everything that they depend on."""

    def __init__(self) -> None:
        """Begins without programs."""
        self._kept: list[tuple[Any, Programs]] = []

    def get(self, key: Any, make: Callable[[], Programs]) -> Programs:
        """Returns the programs of an equal key, or makes and keeps them.

        Args:
          key: Everything that the programs depend on. Keys are compared and not hashed.
          make: Function that makes the programs.
        """
        equal = [pair for pair in self._kept if pair[0] == key]
        pair = equal[0] if equal else (key, make())
        others = [other for other in self._kept if other is not pair]
        self._kept = [*others, pair][-MOST_SHARED:]
        return pair[1]


def make_programs(
    general: ExperimentConfig, model: Any, mesh: Mesh, class_weights: Sequence[float] = ()
) -> Programs:
    """Makes the programs of training a model.

    Args:
      general: Config from `sft_jax.training.values.without_values`.
      model: Module.
      mesh: Devices.
      class_weights: Weight of each class or label; see `sft_jax.training.step.loss_fn`.

    Raises:
      ValueError: See `sft_jax.training.assembly.assemble`.
    """
    check_heads(model.num_heads, mesh.shape["model"])
    trainings = strided_trainings(model, general.train)
    fixed = optax.constant_schedule(general.optim.lr)
    optimizer = optim.make_optimizer(general.optim, fixed)
    like = state_shapes(model, optimizer, ema=general.train.ema_decay > 0, mesh=mesh)
    groups.check_groups(general.optim, like.params)
    is_fixed = general.optim.schedule == "constant"

    def make_optimizer(rate: Any, values: Values) -> optax.GradientTransformation:
        schedule = fixed if is_fixed else lambda _: rate
        return optim.make_optimizer(general.optim, schedule, values)

    steps = {
        stride: compile_train_step(
            model,
            make_optimizer,
            train,
            general.mixup,
            mesh,
            like,
            stride=stride,
            freeze=functools.partial(groups.stop_gradients, general.optim),
            class_weights=class_weights,
        )
        for stride, train in trainings.items()
    }
    return Programs(
        model=model,
        like=like,
        new_state=compile_make_state(model, optimizer, like, mesh),
        first_state=compile_first_state(optimizer, like, mesh),
        steps=steps,
        evaluate=compile_eval_step(model, mesh, general.train.loss),
    )
