"""One experiment from beginning to end, on any dataset."""

from __future__ import annotations

import os

import jax

from sft_jax.config import ExperimentConfig
from sft_jax.data import pipeline
from sft_jax.data.catalog import open_dataset
from sft_jax.data.datasets import Dataset
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.modules.factory import build_model
from sft_jax.training import distributed, loop, run_directory, storage


def train(
    config: ExperimentConfig, workdir: str | os.PathLike[str], dataset: Dataset | None = None
) -> loop.Result:
    """Trains the model of a config, from the latest checkpoint of `workdir` if there is one.

    Args:
      config: of the experiment.
      workdir: the run directory, also `gs://bucket/run`; made if it is not there.
      dataset: with splits `train` and `valid`, such as `sft_jax.data.arrays.from_arrays`
        makes; by default the one that `config.data` names, which is prepared if need be.

    Raises:
      RunDirectoryError: if `workdir` can't be written to, or is another config's or dataset's.
      ValueError: if model and dataset do not fit, or as `open_dataset` and `loop.fit` say.
      OSError, ModuleNotFoundError: as `open_dataset` and `storage.as_path` say.
      NonFiniteError: as `loop.fit` says.
    """
    workdir = storage.as_path(workdir)
    own_dataset = dataset is not None
    with distributed.first_process_first():
        run_directory.prepare(workdir, config)
        if dataset is None:
            dataset = open_dataset(config.data)
        info = dataset.info
        info.check_task(config.model.task)
        run_directory.keep_dataset(workdir, info.to_json())
    if dataset.card:
        run_directory.write_json(workdir / run_directory.CARD, dataset.card.to_json())
    mesh = distributed.make_mesh(config.mesh)
    model = build_model(config.model, info.modalities, len(info.class_names))
    batches = pipeline.train_iterator(
        dataset.source("train"),
        config.train.batch_size,
        config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    validate = Evaluator(model, dataset.source("valid"), config.train.batch_size, mesh)
    return loop.fit(
        config,
        model,
        batches,
        validate,
        num_examples=info.num_examples["train"],
        workdir=workdir,
        description={"dataset": info.to_json(), "own_dataset": own_dataset},
        mesh=mesh,
    )
