"""Models and random batches of the true shapes of a config, without its data."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.data.outline import outline
from sft_jax.parallel import sharding
from sft_jax.profile.measure import random_batch
from sft_jax.structs import Batch
from sft_jax.training import assembly

_STEPS_PER_EPOCH = 1000


def load_config(name: str, argument: str | None, changes: dict[str, Any]) -> ExperimentConfig:
    """Loads the config of `configs/NAME.py`, with changed fields by the name of their section."""
    module = importlib.import_module(f"configs.{name}")
    config = config_io.from_mapping(module.get_config(argument))
    # Examples are mixed from the first step on: such a step costs the most.
    changes = {"mixup": {}, **changes}
    changes["mixup"] = {"warmup_epochs": 0.0, **changes["mixup"]}
    return dataclasses.replace(
        config,
        **{
            section: dataclasses.replace(getattr(config, section), **fields)
            for section, fields in changes.items()
        },
    )


def assemble(config: ExperimentConfig, mesh: Mesh) -> assembly.Assembled:
    """Assembles the model that `train.py` would train, for the shapes of the config's data."""
    data = outline(config.data)
    return assembly.assemble_model(
        config,
        data.modalities,
        data.num_outputs,
        num_examples=_STEPS_PER_EPOCH * config.train.batch_size,
        mesh=mesh,
    )


def batch(config: ExperimentConfig, mesh: Mesh, seed: int = 0) -> Batch:
    """Random examples of full length, on the devices of the mesh."""
    return random_batch(outline(config.data), config.train.batch_size, mesh, seed=seed)


def state(assembled: assembly.Assembled) -> Any:
    """A state with small random parameters, without compiling the program that draws them."""
    random = np.random.default_rng(0)

    def fill(path: Any, array: Any) -> jax.Array:
        values = np.zeros(array.shape, array.dtype)
        if "params" in jax.tree_util.keystr(path[:1]):
            values = (random.standard_normal(array.shape) * 0.1).astype(array.dtype)
        return jax.device_put(values, array.sharding)

    return jax.tree_util.tree_map_with_path(fill, assembled.like)


def one_device_mesh() -> Mesh:
    """A mesh of the first device."""
    return sharding.make_mesh(devices=jax.devices()[:1])
