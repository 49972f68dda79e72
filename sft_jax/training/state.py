"""Everything that training changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from sft_jax.parallel import sharding
from sft_jax.training import rngs


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds of the model and the optimiser.

    Attributes:
      step: optimiser steps taken.
      params: the parameters.
      opt_state: of the optimiser.
      plateau: state of the plateau schedule; its `scale` multiplies every update.
      ema_params: running mean of the parameters, or None without one.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: optax.OptState
    plateau: optax.OptState
    ema_params: Any

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate."""
        return self.params if self.ema_params is None else self.ema_params

    @property
    def evaluated(self) -> Literal["ema", "trained"]:
        """Which parameters `eval_params` are: the running mean, or those of the last step."""
        return "trained" if self.ema_params is None else "ema"


def update_ema(ema_params: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """The running mean after one more step.

    The decay begins at 0.1 and rises with the steps, as `min(decay, (1 + step) / (10 + step))`:
    the mean forgets the parameters' random start within some ten steps, however large `decay` is.

    Args:
      ema_params: the running mean so far.
      params: the parameters after the step.
      decay: what the decay rises to.
      step: steps taken before.
    """
    rising = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(params, ema_params, 1 - rising)


def make_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    plateau: optax.GradientTransformation,
    seed: int | Int[Array, ""],
    *,
    ema: bool,
) -> TrainState:
    """The state before the first step, as a pure function of the seed.

    Args:
      model: whose parameters are drawn; it has a method `example_inputs`.
      optimizer: whose state is made.
      plateau: see `sft_jax.training.optim.make_plateau`.
      seed: of the parameters.
      ema: whether to keep a running mean of the parameters.
    """
    params = model.init(rngs.stream(seed, "params"), model.example_inputs())["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        plateau=plateau.init(params),
        # A copy: a donated buffer may stand in the state only once.
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )


def compile_create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    plateau: optax.GradientTransformation,
    *,
    ema: bool,
    mesh: Mesh,
) -> tuple[Callable[[int], TrainState], TrainState]:
    """The function from a seed to the state of `make_state`, and what it returns without values.

    The function is compiled once for all seeds, when it is first called. Each part of the state
    is created where it will live: nowhere is all of it.

    Args:
      model: see `make_state`, as for `optimizer`, `plateau` and `ema`.
      optimizer: whose state is made.
      plateau: of the plateau schedule.
      ema: whether to keep a running mean of the parameters.
      mesh: the devices.

    Returns:
      The function, and shapes, types and shardings of the state, as restoring needs them.
    """
    make = functools.partial(make_state, model, optimizer, plateau, ema=ema)
    shapes = jax.eval_shape(make, np.int32(0))
    shardings = sharding.place(shapes, mesh)
    # A CPU takes longer to compile it than to run it as it stands; it runs once.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options: Any = {"xla_backend_optimization_level": 0} if on_cpu else None
    compiled = jax.jit(make, out_shardings=shardings, compiler_options=options)
    like = jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    return lambda seed: compiled(np.int32(seed)), like
