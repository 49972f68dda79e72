"""Runs opened for export: the model, and examples to compare a file with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from sft_jax.data.card import Card
from sft_jax.data.dataset import Dataset, DatasetInfo
from sft_jax.data.view import View
from sft_jax.evaluation.restored import restore
from sft_jax.export.derived import summaries
from sft_jax.export.written import Bundle, Classifier
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.runs import storage
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import RunDirectory
from sft_jax.structs import CLASS_TASKS

SPLIT = "test"


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run that is exported.

    Attributes:
      classifier: Its model.
      dataset: Examples to compare on, in the split `test`.
      real: False for random examples.
      step: Step of the checkpoint.
      parameters: Their kind, "ema" or "trained".
    """

    classifier: Classifier
    dataset: Dataset
    real: bool
    step: int
    parameters: str


def open_run(
    workdir: str | os.PathLike[str],
    checkpoint: str = "best",
    *,
    stride: int = 1,
    examples: int | None = None,
    data_folders: Mapping[str, str] | None = None,
) -> Opened:
    """Opens a checkpoint of a run, and examples for it.

    Args:
      workdir: Run directory.
      checkpoint: Name of the checkpoint: best, latest, or a step.
      stride: Number of patches along each axis that become one token (`sft_jax.modules.stride`).
      examples: Number of random examples in place of the test split; needs no data.
      data_folders: Present folders of the data; see `sft_jax.evaluation.run.evaluate_run`.

    Raises:
      RunDirectoryError: If `workdir` is not a run directory, or its data has changed or is
        missing.
      NoCheckpointError: If there is no such checkpoint.
      DamagedCheckpointError: If it is damaged.
      ValueError: If the model can't have the stride.
    """
    run = RunDirectory(storage.as_path(workdir))
    given = None
    if examples is not None:
        run.read_config(several=False)
        with contextlib.closing(Checkpoints(run.path, read_only=True)) as checkpoints:
            info = DatasetInfo.from_json(checkpoints.description(checkpoint)["dataset"])
        given = random_dataset(info, examples)
    restored = restore(run, checkpoint, given, data_folders=data_folders)
    own, policy = restored.run, Card.policy_at(run.card_file)
    model = with_stride(own.model, stride)
    params = resize_params(own.model, restored.params, stride)
    info = dataclasses.replace(own.trained_on, modalities=dict(model.modalities))
    step = restored.step
    thresholds, temperature = run.thresholds(step), run.temperature(step) or 1.0
    classifier = Bundle(model, params, info, policy, thresholds, temperature)
    dataset, real = own.dataset, examples is None
    return Opened(classifier, dataset, real, step, restored.parameters)


def random_dataset(info: DatasetInfo, count: int) -> Dataset:
    """Makes a test split of random examples with the statistics of a dataset.

    Values are normal, with mean and deviation of each feature. Lengths are drawn too, and a few
    examples lack a modality. Summaries are those of their sources. All labels are 0.
    """
    described = dataclasses.replace(info, num_examples={SPLIT: count})
    return Dataset(described, lambda split: View(count, lambda i: _random_record(info, i)))


def _random_record(info: DatasetInfo, number: int) -> dict[str, Any]:
    random = np.random.default_rng(number)
    inputs = {}
    computed = summaries(info.derived, info.modalities)
    for name, spec in info.modalities.items():
        if name in computed:
            continue
        own = info.statistics[name]
        length = random.integers(1, spec.lengths[0] + 1)
        values = random.normal(size=(int(length), *spec.shape[1:]))
        if spec.vocabulary:
            ids_in(values, spec.kind)[:] = random.integers(0, spec.vocabulary, int(length))
        else:
            values = values * own.std + own.mean
        inputs[name] = values.astype(np.float32)
    if number % 5 == 4 and len(inputs) > 1:
        del inputs[random.choice(sorted(inputs))]
    label: Any = 0 if info.task in CLASS_TASKS else np.zeros(len(info.class_names))
    return {"id": f"random/{number}", "inputs": inputs, "label": label}
