"""Models and random batches at the true shapes of a config, which need no data."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.data.outline import Outline, outline
from sft_jax.parallel import sharding
from sft_jax.structs import CLASS_TASKS, Batch
from sft_jax.training import assembly

_STEPS_OF_AN_EPOCH = 1000


def load_config(name: str, argument: str | None, changes: dict[str, Any]) -> ExperimentConfig:
    """The config of `configs/NAME.py`, with changed fields by the name of their part."""
    module = importlib.import_module(f"configs.{name}")
    config = config_io.from_mapping(module.get_config(argument))
    # Mixed from the first step on: such a step costs the most.
    changes = {"mixup": {}, **changes}
    changes["mixup"] = {"warmup_epochs": 0.0, **changes["mixup"]}
    return dataclasses.replace(
        config,
        **{
            part: dataclasses.replace(getattr(config, part), **fields)
            for part, fields in changes.items()
        },
    )


def assemble(config: ExperimentConfig, mesh: Mesh) -> assembly.Assembled:
    """Assembles the model that `train.py` would train, for the shapes of the config's data."""
    data = outline(config.data)
    return assembly.assemble_model(
        config,
        data.modalities,
        data.num_outputs,
        num_examples=_STEPS_OF_AN_EPOCH * config.train.batch_size,
        mesh=mesh,
    )


def batch(config: ExperimentConfig, mesh: Mesh, seed: int = 0) -> Batch:
    """Random examples of full length, on the devices of the mesh."""
    data, size = outline(config.data), config.train.batch_size
    random = np.random.default_rng(seed)
    inputs = {
        name: random.standard_normal((size, *spec.shape), np.float32)
        for name, spec in data.modalities.items()
    }
    masks = {name: np.ones((size, *spec.lengths), bool) for name, spec in data.modalities.items()}
    made = Batch(inputs, masks, _labels(data, size), np.ones(size, np.float32))
    return sharding.put_batch(made, mesh)


def state(made: assembly.Assembled) -> Any:
    """A state with small random parameters, without compiling the program that draws them."""
    random = np.random.default_rng(0)

    def fill(path: Any, array: Any) -> jax.Array:
        values = np.zeros(array.shape, array.dtype)
        if "params" in jax.tree_util.keystr(path[:1]):
            values = (random.standard_normal(array.shape) * 0.1).astype(array.dtype)
        return jax.device_put(values, array.sharding)

    return jax.tree_util.tree_map_with_path(fill, made.like)


def one_device_mesh() -> Mesh:
    """A mesh of the first device."""
    return sharding.make_mesh(devices=jax.devices()[:1])


def _labels(data: Outline, size: int) -> np.ndarray:
    if data.task in CLASS_TASKS:
        return np.arange(size) % data.num_outputs
    return (np.arange(size * data.num_outputs).reshape(size, -1) % 2).astype(np.float32)
