"""A small learnable dataset of two padded, sometimes absent modalities, and runs on it."""

import dataclasses

import jax
import numpy as np

from sft_jax import ModalitySpec
from sft_jax.config import DataConfig, ExperimentConfig, ModelConfig, OptimConfig, TrainConfig
from sft_jax.data import pipeline
from sft_jax.data.datasets import Dataset, DatasetInfo, compute_statistics
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.modules.factory import build_model
from sft_jax.training import distributed, loop, run_directory

MODALITIES = {"sight": ModalitySpec(12, 3, patch_size=2), "sound": ModalitySpec(7, 2)}
CLASSES = ("low", "middle", "high")


def example(index):
    """An example whose class shifts the mean of both modalities."""
    random = np.random.default_rng(index)
    label = int(random.integers(len(CLASSES)))
    inputs, masks = {}, {}
    for name, spec in MODALITIES.items():
        values = random.normal(size=(spec.length, spec.features)) + label - 1
        inputs[name] = values.astype(np.float32)
        masks[name] = np.arange(spec.length) < random.integers(2, spec.length + 1)
    if index % 7 == 3:
        masks["sound"][:] = False
    return {"id": f"example{index}", "inputs": inputs, "masks": masks, "label": label}


def dataset(train=50, valid=20):
    splits = {
        "train": [example(i) for i in range(train)],
        "valid": [example(1000 + i) for i in range(valid)],
    }
    info = DatasetInfo(
        modalities=MODALITIES,
        class_names=CLASSES,
        statistics=compute_statistics(splits["train"]),
        num_examples={name: len(examples) for name, examples in splits.items()},
    )
    return Dataset(info, splits.__getitem__)


def config(**changes):
    """A tiny experiment; `changes` are given as `section__field=value`, or `seed=value`."""
    sections = {
        "data": DataConfig(),
        "model": ModelConfig(width=8, num_heads=2, n_pre=0, n_post=1, k=2, dropout=0.1),
        "optim": OptimConfig(lr=1e-2),
        "train": TrainConfig(epochs=2, batch_size=8, log_every_steps=1),
    }
    for name, value in changes.items():
        if "__" in name:
            section, field = name.split("__")
            sections[section] = dataclasses.replace(sections[section], **{field: value})
    return ExperimentConfig(seed=changes.get("seed", 0), **sections)


def run(workdir, experiment, *, data=None, devices=None, wrap=iter, validate=None):
    """Trains as train.py does; `wrap` may change the batches on their way.

    Returns the result and the evaluator of the validation split.
    """
    data = data or dataset()
    run_directory.prepare(workdir, experiment)
    model = build_model(experiment.model, data.info.modalities, len(CLASSES))
    mesh = distributed.make_mesh(devices or jax.devices()[:1])
    size = experiment.train.batch_size
    batches = pipeline.train_iterator(data.source("train"), size, experiment.seed)
    evaluator = Evaluator(model, data.source("valid"), size, mesh)
    result = loop.fit(
        experiment,
        model,
        wrap(batches),
        validate or evaluator,
        num_examples=data.info.num_examples["train"],
        workdir=workdir,
        description={"dataset": data.info.to_json()},
        mesh=mesh,
    )
    return result, evaluator


class Batches:
    """An iterator of batches that calls `look(number, batch, ids)`, and yields what it returns."""

    def __init__(self, batches, look):
        self._batches, self._look = batches, look
        self.get_state, self.set_state = batches.get_state, batches.set_state
        self._number = 0

    def __next__(self):
        batch, ids = next(self._batches)
        self._number += 1
        return self._look(self._number, batch, ids)
