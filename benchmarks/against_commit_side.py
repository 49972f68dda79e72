"""One side of `against_commit.py`: steps of one commit, timed in a process of its own.

The package may be older than this file. Modules that have moved are imported from either place.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

MOVED = {
    "sft_jax.parallel.sharding": "sft_jax.training.distributed",
}
"""Modules that this file needs, to their place before commit 848a3e6."""


def import_either(name: str) -> ModuleType:
    """Imports a module from its place of today or, in older commits, its former place."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return importlib.import_module(MOVED[name])


class Side:
    """Programs of one config, compiled at the first call."""

    def __init__(self) -> None:
        self._programs: dict[str, Callable[[], None]] = {}

    def __call__(self, request: Mapping[str, Any]) -> float:
        """Times steps; CPU seconds of one.

        Args:
          request: `config`, the name of a config file; `batch_size`; `core` to run on; `work`,
            train or infer; `steps` to take.
        """
        if not self._programs:
            # Before JAX counts the cores that it may use.
            os.sched_setaffinity(0, [request["core"]])
            self._programs = _compile(request["config"], request["batch_size"])
        run = self._programs[request["work"]]
        begin = time.process_time()
        for _ in range(request["steps"]):
            run()
        return (time.process_time() - begin) / request["steps"]


def _compile(name: str, size: int) -> dict[str, Callable[[], None]]:
    """Functions that take a training step and run inference, on random examples."""
    import jax

    from sft_jax import config_io
    from sft_jax.data.outline import outline
    from sft_jax.training import assembly
    from sft_jax.training.step import compile_eval_step

    sharding = import_either("sft_jax.parallel.sharding")
    config = config_io.from_mapping(importlib.import_module(f"configs.{name}").get_config(None))
    # Models are made for a batch size: one CPU goes through small batches example by example.
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, batch_size=size, accumulate=1)
    )
    data, mesh = outline(config.data), sharding.make_mesh()
    assembled = assembly.assemble_model(
        config, data.modalities, data.num_outputs, num_examples=1000 * size, mesh=mesh
    )
    batch = sharding.put_batch(_random_batch(data, size), mesh)
    state, seed = assembled.new_state(0), np.int32(0)
    positions = np.arange(size, dtype=np.int32)
    train_step = assembled.step.lower(state, batch, seed).compile()
    eval_step = compile_eval_step(assembled.model, mesh)
    infer_step = eval_step.lower(state.params, batch, positions).compile()

    def train() -> None:
        nonlocal state
        state, metrics = train_step(state, batch, seed)
        jax.block_until_ready(metrics.loss)

    def infer() -> None:
        jax.block_until_ready(infer_step(state.params, batch, positions))

    return {"train": train, "infer": infer}


def _random_batch(data: Any, size: int) -> Any:
    from sft_jax.structs import Batch

    random, specs = np.random.default_rng(0), data.modalities.items()
    return Batch(
        {name: random.standard_normal((size, *spec.shape), np.float32) for name, spec in specs},
        {name: np.ones((size, *spec.lengths), bool) for name, spec in specs},
        random.integers(0, data.num_outputs, size),
        np.ones(size, np.float32),
    )
