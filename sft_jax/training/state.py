"""State of training, and random streams, which need no state."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from sft_jax.parallel import sharding
from sft_jax.training import optim


class TrainState(flax.struct.PyTreeNode):
    """State of the model and the optimiser, as saved in a checkpoint.

    Attributes:
      step: Number of optimiser steps taken.
      params: Parameters.
      opt_state: State of the optimiser.
      plateau: State of the plateau schedule; see `sft_jax.training.optim`.
      ema_params: Running mean of the parameters; None if none is kept.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: optax.OptState
    plateau: optax.OptState
    ema_params: Any

    @property
    def eval_params(self) -> Any:
        """Parameters to evaluate."""
        return self.params if self.ema_params is None else self.ema_params


def stream(seed: int | Int[Array, ""], name: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """Derives the key of the random stream `name` at `step`, purely from the arguments."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)


def update_ema(ema_params: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """Updates the running mean of the parameters after one step.

    The decay begins at 0.1 and rises with the steps, as `min(decay, (1 + step) / (10 + step))`:
    the mean forgets the random initial parameters within about ten steps, for any `decay`.

    Args:
      ema_params: Running mean so far.
      params: Parameters after the step.
      decay: Final decay.
      step: Number of steps taken before.
    """
    rising = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(params, ema_params, 1 - rising)


def make_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int | Int[Array, ""],
    *,
    ema: bool,
) -> TrainState:
    """Makes the state before the first step, a pure function of the seed.

    Args:
      model: Module with a method `example_inputs`.
      optimizer: Optimiser.
      seed: Seed of the parameters.
      ema: Whether to keep a running mean of the parameters.
    """
    params = model.init(stream(seed, "params"), model.example_inputs())["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        plateau=optim.init_plateau(params),
        # The copy is needed since a donated buffer may occur in the state only once.
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )


def state_shapes(
    model: nn.Module, optimizer: optax.GradientTransformation, *, ema: bool, mesh: Mesh
) -> TrainState:
    """Computes the shapes, dtypes and shardings of a state, for example to restore one.

    Args:
      model: Module.
      optimizer: Optimiser.
      ema: Whether the state has a running mean of the parameters.
      mesh: Devices.
    """
    make = functools.partial(make_state, model, optimizer, ema=ema)
    return sharding.placed_shapes(jax.eval_shape(make, np.int32(0)), mesh)


def compile_make_state(
    model: nn.Module, optimizer: optax.GradientTransformation, shapes: TrainState, mesh: Mesh
) -> Callable[[int], TrainState]:
    """Makes a compiled function from a seed to the state of `make_state`.

    It is compiled on its first call, once for all seeds. Each part of the state is created on the
    devices that hold it: no device holds the whole state.

    Args:
      model: Module.
      optimizer: Optimiser.
      shapes: Result of `state_shapes` for the mesh.
      mesh: Devices.
    """
    make = functools.partial(make_state, model, optimizer, ema=shapes.ema_params is not None)
    shardings = jax.tree.map(lambda array: array.sharding, shapes)
    # On a CPU, compilation takes longer than the single run without it.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options: Any = {"xla_backend_optimization_level": 0} if on_cpu else None
    compiled = jax.jit(make, out_shardings=shardings, compiler_options=options)
    return lambda seed: compiled(np.int32(seed))
