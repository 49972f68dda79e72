"""Where arrays live: a mesh over all devices, batches split along it, the state on each."""

from __future__ import annotations

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `data` over the given devices, by default all there are."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_example(mesh: Mesh) -> NamedSharding:
    """The first dimension divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: T, mesh: Mesh) -> T:
    """Puts this process's part of a batch on its devices, as part of one global array each."""
    sharding = split_by_example(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), batch
    )


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raises ValueError unless every micro-batch divides evenly over the devices."""
    devices = mesh.shape["data"]
    if batch_size % (accumulate * devices):
        raise ValueError(
            f"train.batch_size={batch_size} must be a multiple of train.accumulate={accumulate}"
            f" x {devices} devices = {accumulate * devices}"
        )
