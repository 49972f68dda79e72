"""Process of `mosei_memory.py` whose memory is watched: prepares data and trains on it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.assembled import assemble
from configs import mosei
from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.data import pipeline, registry
from sft_jax.parallel import sharding

_STEPS = 5


def run_phase(request: Mapping[str, str]) -> dict[str, Any]:
    """Runs a phase; its seconds and facts.

    Args:
      request: `phase`, prepare or train; `folder` with the file.
    """
    values = mosei.get_config("size=laptop")
    values.data.manual_dir = values.data.data_dir = request["folder"]
    config = config_io.from_mapping(values)
    begin = time.monotonic()
    facts = {"prepare": _prepare, "train": _train}[request["phase"]](config)
    return {"phase": request["phase"], "seconds": time.monotonic() - begin, **facts}


def _prepare(config: ExperimentConfig) -> dict[str, Any]:
    return {"n_examples": dict(registry.open_dataset(config.data).info.num_examples)}


def _train(config: ExperimentConfig) -> dict[str, Any]:
    dataset = registry.open_dataset(config.data)
    batches = pipeline.train_iterator(dataset.source("train"), config.train.batch_size, 0)
    assembled, mesh = assemble(config, dataset.info)
    state = assembled.new_state(0)
    for batch, _ in itertools.islice(batches, _STEPS):
        state, metrics = assembled.step(state, sharding.put_batch(batch, mesh), np.int32(0))
    return {"steps": _STEPS, "loss": float(metrics.loss)}
