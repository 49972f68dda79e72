"""Placement of arrays: a mesh of devices, and the sharding of batches and parameters over it.

The mesh has three axes, each of any size from 1. Examples are divided over `data` and `fsdp`.
Parameters and their optimiser state are divided over `fsdp`, so that no device holds all of them
(Zhao et al. 2023, arXiv 2304.11277). They are also divided over `model`, so that each device
computes only some heads and hidden features (Shoeybi et al. 2019, arXiv 1909.08053). XLA moves
arrays between devices as needed: the mesh changes results only by rounding.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sft_jax.config import MeshConfig
from sft_jax.structs import EXAMPLE_AXES

T = TypeVar("T")

AXES = ("data", "fsdp", "model")
RULES: Sequence[tuple[str, tuple[str | None, ...]]] = (
    (r"/qkv/kernel$", ("fsdp", None, "model")),
    (r"/(query|key|value|mlp_in)/kernel$", ("fsdp", "model")),
    (r"/(qkv|query|key|value|mlp_in)/bias$", ("model",)),
    (r"/(out|mlp_out)/kernel$", ("model", "fsdp")),
    (r"/kernel$", ("fsdp", None)),
    (r"/(position|cls|bottleneck|queries)$", ("fsdp",)),
)
"""Patterns of parameters' paths, and the axes that their last dimensions are divided over.

The first pattern that matches a path applies. If the size of an axis doesn't divide a dimension,
that dimension is not divided. Parameters without a matching pattern are replicated.
"""


def make_mesh(config: MeshConfig | None = None, devices: list[jax.Device] | None = None) -> Mesh:
    """Makes a mesh of devices.

    Args:
      config: Sizes of the axes; by default all devices are on `data`.
      devices: Devices of all processes, by default all.

    Raises:
      ValueError: If the product of the sizes is not the number of devices, or the devices of a
        `model` axis belong to several processes.
    """
    config, devices = config or MeshConfig(), devices or jax.devices()
    others = config.fsdp * config.model
    shape = (config.data or max(len(devices) // others, 1), config.fsdp, config.model)
    if math.prod(shape) != len(devices):
        raise ValueError(
            f"mesh.data={config.data}, mesh.fsdp={config.fsdp} and mesh.model={config.model} take"
            f" {'a multiple of ' if not config.data else ''}{others * (config.data or 1)} devices,"
            f" and there are {len(devices)}"
        )
    local = len(devices) // len({device.process_index for device in devices})
    if local % config.model:
        raise ValueError(f"mesh.model={config.model} must divide the {local} devices of a process")
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES), devices=devices)


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Context that the first process enters alone; the others enter after it has left."""
    is_first, done = jax.process_index() == 0, "the first process is done"
    if not is_first:
        multihost_utils.sync_global_devices(done)
    yield
    if is_first:
        multihost_utils.sync_global_devices(done)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_example(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with the first dimension divided over the axes of examples."""
    return NamedSharding(mesh, PartitionSpec(EXAMPLE_AXES))


def put_batch(batch: T, mesh: Mesh) -> T:
    """Puts this process's part of a batch on its devices, as parts of global arrays."""
    sharding = split_by_example(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), batch
    )


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raises ValueError unless every micro-batch divides evenly over the devices."""
    devices = math.prod(mesh.shape[axis] for axis in EXAMPLE_AXES)
    if batch_size % (accumulate * devices):
        raise ValueError(
            f"train.batch_size={batch_size} must be a multiple of train.accumulate={accumulate}"
            f" x {devices} devices = {accumulate * devices}"
        )


def place(tree: T, mesh: Mesh) -> T:
    """Returns the sharding of each array of a tree by `RULES`.

    Args:
      tree: Arrays, or their shapes. A copy of the parameters' tree, such as in the state of an
        optimiser, has paths with the same endings.
      mesh: Devices.
    """

    def place_array(path: Any, array: Any) -> NamedSharding:
        name = "/" + jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, _divided(name, array.shape, mesh))

    return jax.tree_util.tree_map_with_path(place_array, tree)


def placed_shapes(shapes: T, mesh: Mesh) -> T:
    """Adds to shapes and dtypes the shardings of `place`, for example to restore arrays."""
    return jax.tree.map(
        lambda array, place: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place),
        shapes,
        place(shapes, mesh),
    )


def gather(params: T, mesh: Mesh) -> T:
    """Gathers parameters over `fsdp` where a program uses them.

    The examples then stay divided over that axis. Without this constraint, XLA would divide
    products over the axis and move the activations of all examples.

    Args:
      params: Parameters in a traced program, placed by `place`.
      mesh: Devices.
    """

    def whole(sharding: NamedSharding) -> NamedSharding:
        axes = (None if axis == "fsdp" else axis for axis in sharding.spec)
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.lax.with_sharding_constraint(params, jax.tree.map(whole, place(params, mesh)))


def _divided(name: str, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    for pattern, axes in RULES:
        if re.search(pattern, name) and len(axes) <= len(shape):
            sizes = shape[len(shape) - len(axes) :]
            divided = (
                axis if axis and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(axes, sizes, strict=True)
            )
            return PartitionSpec(*[None] * (len(shape) - len(axes)), *divided)
    return PartitionSpec()
