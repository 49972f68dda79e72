"""Steps of a config, lowered and compiled from shapes for the devices of a mesh."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from sft_jax.compile import schedules
from sft_jax.compile.report import Report, compile_step
from sft_jax.compile.topology import Topology
from sft_jax.config import ExperimentConfig
from sft_jax.data.outline import Outline
from sft_jax.parallel import sharding
from sft_jax.profile import flops
from sft_jax.structs import CLASS_TASKS, Batch
from sft_jax.training import assembly
from sft_jax.training.programs import Programs, make_programs
from sft_jax.training.values import Values, without_values

_logger = logging.getLogger(__name__)


def compile_steps(
    topology: Topology, config: ExperimentConfig, outline: Outline, mesh: Mesh
) -> dict[str, Report]:
    """Compiles the `training` and the `evaluation` step.

    Args:
      topology: Slice.
      config: Experiment.
      outline: Shapes of the data.
      mesh: Devices of the slice.

    Raises:
      ValueError: If the mesh does not fit the batch or the heads, or the model not the data.
      OutOfMemoryError: If a device can't hold a step.
    """
    made = programs(config, outline, mesh)
    forward = flops.forward_cost(made.model).matmul_flops * config.train.batch_size / mesh.size
    # Gradients by inputs and by parameters take twice the products of the forward pass.
    shapes = config, outline, mesh
    train = train_shapes(made, *shapes)
    ahead = config.system.batches_ahead * sum(map(_device_bytes, jax.tree.leaves(train[1])))
    parts = {
        "training": (made.steps[1], train, 3, ahead),
        "evaluation": (made.evaluate, eval_shapes(made, *shapes), 1, 0),
    }
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made.like.params))
    reports = {}
    for name, (step, arguments, passes, waiting) in parts.items():
        _logger.info("compiling the %s step for %s", name, topology.name)
        lowered = step.lower(*arguments)
        reports[name] = compile_step(lowered, topology, passes * forward, parameters, waiting)
    return reports


def make_mesh(topology: Topology, config: ExperimentConfig) -> Mesh:
    """Makes the mesh of a config, of devices that are not there.

    Args:
      topology: Slice.
      config: Experiment.

    Raises:
      ValueError: If the slice does not have the devices of the mesh.
      ModuleNotFoundError: If the compiler for it is not installed.
    """
    # Compiling takes twice as long with schedules, which only kernels of Mosaic need.
    if config.model.attention_kernel == "flash":
        schedules.request()
    return sharding.make_mesh(config.mesh, topology.devices())


def programs(config: ExperimentConfig, outline: Outline, mesh: Mesh) -> Programs:
    """Makes the programs of training, whose devices need not be there.

    Args:
      config: Experiment. Weights of classes need the data and cost nothing, so there are none.
      outline: Shapes of the data.
      mesh: Devices.

    Raises:
      ValueError: If the mesh does not fit the batch or the heads, or the model not the data.
    """
    sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    train = dataclasses.replace(config.train, class_weights="")
    general = without_values(dataclasses.replace(config, train=train), fixed_rate=False)
    model = assembly.build(config, outline.modalities, outline.num_outputs, mesh)
    return make_programs(general, model, mesh)


def train_shapes(
    made: Programs, config: ExperimentConfig, outline: Outline, mesh: Mesh
) -> tuple[Any, ...]:
    """Returns the arguments of the training step as shapes: state, batch, seed, rate, values."""
    place = sharding.replicated(mesh)
    batch = batch_shapes(outline, config.train.batch_size, mesh)
    seed, rate = _shape((), jnp.int32, place), _shape((), jnp.float32, place)
    values: Any = Values(weight_decay=rate, mixup_from=seed)
    return made.like, batch, seed, rate, values


def eval_shapes(
    made: Programs, config: ExperimentConfig, outline: Outline, mesh: Mesh
) -> tuple[Any, ...]:
    """Returns those of the evaluation step: parameters, a batch of that size, positions."""
    size = config.train.batch_size
    positions = _shape((size,), jnp.int32, sharding.split_by_example(mesh))
    return made.like.params, batch_shapes(outline, size, mesh), positions


def batch_shapes(outline: Outline, size: int, mesh: Mesh) -> Batch:
    """Shapes, dtypes and shardings of a batch of full-length examples.

    Args:
      outline: Shapes of the data.
      size: Number of examples.
      mesh: Devices that the examples are divided over.
    """
    place = sharding.split_by_example(mesh)
    specs = outline.modalities.items()
    labels = (
        _shape((size,), jnp.int32, place)
        if outline.task in CLASS_TASKS
        else _shape((size, outline.num_outputs), jnp.float32, place)
    )
    return Batch(
        inputs={name: _shape((size, *spec.shape), jnp.float32, place) for name, spec in specs},
        masks={name: _shape((size, *spec.lengths), jnp.bool_, place) for name, spec in specs},
        labels=labels,
        weights=_shape((size,), jnp.float32, place),
    )


def _device_bytes(array: jax.ShapeDtypeStruct) -> int:
    """Bytes of the part of an array that each device holds."""
    assert array.sharding  # For mypy: `_shape` gives one.
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def _shape(shape: tuple[int, ...], dtype: Any, place: NamedSharding) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)
