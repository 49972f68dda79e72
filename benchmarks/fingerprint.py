"""Fingerprints of trainings: digests of everything that a result is computed from.

A source digest changes with any edit. The programs of a training, lowered to StableHLO, its
batches and its schedule change only if its numbers may. What runs beside the programs is trained
with, on small data (`benchmarks.behaviour`). So a figure of older code is fresh if its fingerprint
is that of the code at head (`benchmarks.renewal`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks import behaviour, freshness
from benchmarks.assembled import assemble
from benchmarks.study.rows import folds
from benchmarks.study.sets import StudyRow
from sft_jax.config import ExperimentConfig
from sft_jax.data import pipeline
from sft_jax.data.dataset import Dataset
from sft_jax.data.registry import open_dataset
from sft_jax.parallel import sharding
from sft_jax.profile.budgets import Setting
from sft_jax.structs import Batch
from sft_jax.training import assembly
from sft_jax.training.state import make_state
from sft_jax.training.step import compile_eval_step

Parts = Mapping[str, Callable[[], str]]
"""Parts of a fingerprint: functions that compute their digests."""

_RATES = 64  # Learning rates that are compared, evenly over the steps.
_CONFIG_PARTS = ("programs", "plan", "batches")
_CLASSICAL = (
    "sft_jax/evaluation/ sft_jax/data/metric_families.py sft_jax/selection.py"
    " sft_jax/ops/losses.py benchmarks/study/classical_rows.py benchmarks/classical*.py"
)
_COST = "sft_jax/profile/ benchmarks/study/cost.py"


def training(config: ExperimentConfig, row: StudyRow, seeds: Sequence[int]) -> Parts:
    """Fingerprint of the runs of a row of the study, or of the diagnosis.

    Args:
      config: Config with its tuned learning rate.
      row: Row, with the settings that its runs are evaluated with.
      seeds: Seeds.

    Returns:
      The parts `programs`, `plan`, `batches` and `behaviour`. They raise ValueError if the config
      has what none covers, as no row does.
    """

    @functools.cache
    def own() -> Mapping[str, str]:
        return _config_digests(config, row, seeds)

    parts = {name: functools.partial(lambda part: own()[part], name) for name in _CONFIG_PARTS}
    return {**parts, "behaviour": behaves}


@functools.cache
def behaves() -> str:
    """Digest of what runs beside the programs, by its results (`benchmarks.behaviour`)."""
    return digest([json.dumps(behaviour.results(), sort_keys=True).encode()])


def _config_digests(
    config: ExperimentConfig, row: StudyRow, seeds: Sequence[int]
) -> Mapping[str, str]:
    """Digests of what a config alone decides: programs, plan and batches."""
    uncovered = {
        "train.class_weights": config.train.class_weights,
        "train.sampling": config.train.sampling != "shuffled",
        "train.init_from": config.train.init_from,
        "optim.schedule='plateau'": config.optim.schedule == "plateau",
    }
    if names := [name for name, given in uncovered.items() if given]:
        raise ValueError(f"fingerprints do not cover {', '.join(names)}")
    programs: list[str] = []
    plans, batches = [], []
    for dataset in _datasets(config):
        assembled, mesh = assemble(config, dataset.info)
        batches.append(digest(_batches(dataset, config)))
        plans.append(_plan(config, assembled, seeds))
        programs = programs or [
            *lowered_programs(config, row, assembled, _first(dataset, config), mesh)
        ]
    return {
        "programs": digest(text.encode() for text in programs),
        "plan": digest(json.dumps(plan).encode() for plan in plans),
        "batches": digest(own.encode() for own in batches),
    }


def classical(config: ExperimentConfig) -> Parts:
    """Fingerprint of a classical model: `batches`, and `source`, the code that it is fitted by.

    Args:
      config: Config of the set.
    """

    def batches() -> str:
        each = [digest(_batches(dataset, config)) for dataset in _datasets(config)]
        return digest(own.encode() for own in each)

    return {"batches": batches, "source": functools.partial(source, _CLASSICAL)}


def cost(configs: Iterable[ExperimentConfig]) -> Parts:
    """Fingerprint of time and memory: `programs` of all models, and `source`, what measures.

    Args:
      configs: Configs of the models.
    """

    def programs() -> str:
        texts: list[str] = []
        for config in configs:
            dataset = next(_datasets(config))
            assembled, mesh = assemble(config, dataset.info)
            batch = _first(dataset, config)
            texts += lowered_programs(config, StudyRow(), assembled, batch, mesh)
        return digest(text.encode() for text in texts)

    return {"programs": programs, "source": functools.partial(source, _COST)}


def source(scope: str) -> str:
    """Digest of the source of a scope (`benchmarks.freshness.sources`)."""
    return freshness.digest(freshness.sources(scope))


def _datasets(config: ExperimentConfig) -> Iterator[Dataset]:
    """Dataset of each fold."""
    for _, data in folds(config, pathlib.Path()):
        yield open_dataset(data)


def lowered_programs(
    config: ExperimentConfig, row: StudyRow, assembled: assembly.Assembled, batch: Batch, mesh: Mesh
) -> Iterator[str]:
    """StableHLO of the initial state, the training steps, and evaluation with each setting.

    Args:
      config: Experiment.
      row: Row, with the settings of evaluation.
      assembled: Its model and optimiser.
      batch: A batch, for its shapes and dtypes.
      mesh: Devices.
    """
    model, like = assembled.model, assembled.like
    make = functools.partial(
        make_state, model, assembled.optimizer, ema=like.ema_params is not None
    )
    yield jax.jit(make).lower(np.int32(0)).as_text()
    batch, seed = sharding.put_batch(batch, mesh), np.int32(0)
    for step in assembled.steps.values():
        yield step.lower(like, batch, seed).as_text()
    positions = np.arange(config.train.batch_size, dtype=np.int32)
    settings = itertools.product(row.budgets or (None,), row.strides or (1,), row.depths or (None,))
    for setting in itertools.starmap(Setting, settings):
        params = jax.eval_shape(functools.partial(setting.params, model), like.params)
        step = compile_eval_step(setting.model(model), mesh, config.train.loss)
        yield step.lower(params, batch, positions).as_text()


def _plan(config: ExperimentConfig, assembled: assembly.Assembled, seeds: Sequence[int]) -> Any:
    """Numbers that the programs take as arguments, and the rules of choosing a checkpoint."""
    plan, train = assembled.plan, config.train
    mixup_from = None if config.mixup.layers == "none" else plan.mixup_from
    steps = np.linspace(0, plan.total_steps - 1, _RATES, dtype=int)
    return {
        "seeds": [*seeds],
        "steps": [plan.total_steps, sorted(plan.evaluate_at), mixup_from],
        "rates": [f"{float(assembled.schedule(int(step))):.6g}" for step in steps],
        "weight_decay": config.optim.weight_decay,
        "chosen": [train.best_metric, train.patience],
    }


def _first(dataset: Dataset, config: ExperimentConfig) -> Batch:
    """A batch, for its shapes and dtypes."""
    batches = pipeline.eval_batches(dataset.source("valid"), config.train.batch_size)
    return next(iter(batches))[0]


def _batches(dataset: Dataset, config: ExperimentConfig) -> Iterator[bytes]:
    """Bytes of the training batches of an epoch of seed 0, and of the other splits."""
    size = config.train.batch_size
    steps = math.ceil(dataset.info.num_examples["train"] / size)
    train = pipeline.train_iterator(dataset.source("train"), size, 0)
    others = (pipeline.eval_batches(dataset.source(split), size) for split in ("valid", "test"))
    for batch, ids in itertools.chain(itertools.islice(train, steps), *others):
        yield "\n".join(map(str, ids)).encode()
        for leaf in jax.tree.leaves(batch):
            yield np.ascontiguousarray(leaf).tobytes()


def digest(parts: Iterable[bytes]) -> str:
    """The sha256 of bytes that follow one another."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return f"sha256:{found.hexdigest()}"
