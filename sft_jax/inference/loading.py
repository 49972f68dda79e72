"""Classifiers from run directories and exported folders, with nothing but their files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from sft_jax.data.card import Card
from sft_jax.data.dataset import DatasetInfo
from sft_jax.export import hub, layout
from sft_jax.inference.classifier import Classifier
from sft_jax.modules.factory import build_model, param_shapes
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory


def load(workdir: str | os.PathLike[str], checkpoint: str | int = "best") -> Classifier:
    """Loads the classifier of a run, a folder or a repository; see `sft_jax.load`."""
    path = storage.as_path(workdir)
    if hub.is_id(workdir) and not path.exists():
        path = storage.as_path(hub.snapshot(str(workdir)))
    if layout.is_folder(path):
        return _from_folder(path, checkpoint)
    return _from_run(RunDirectory(path), str(checkpoint))


def _from_run(run: RunDirectory, which: str) -> Classifier:
    """Classifier of a run directory."""
    with _needing(run, "predict"):
        from sft_jax.runs.checkpoint import Checkpoints
    config = run.read_config(data=False, several=False)
    field = "ema_params" if config.train.ema_decay > 0 else "params"
    with contextlib.closing(Checkpoints(run.path, read_only=True)) as checkpoints:
        info = DatasetInfo.from_json(checkpoints.description(which)["dataset"])
        model = build_model(config.model, info.modalities, len(info.class_names))
        fields = {"step": jax.ShapeDtypeStruct((), jnp.int32), field: param_shapes(model)}
        state = checkpoints.restore_part(which, jax.tree.map(_on_one_device, fields))
    step = int(state["step"])
    return Classifier(
        model,
        state[field],
        info,
        step=step,
        not_finite=Card.policy_at(run.card_file),
        thresholds=run.thresholds(step),
        temperature=run.temperature(step) or 1.0,
    )


def _from_folder(path: storage.AnyPath, checkpoint: str | int) -> Classifier:
    """Classifier of a folder of `export.py --format=safetensors`."""
    if checkpoint != "best":
        raise ValueError(f"checkpoint={checkpoint!r}: {path} holds one model; leave it out")
    with _needing(path, "safetensors"):
        from sft_jax.export import safetensors_folder
    read = safetensors_folder.read(path)
    return Classifier(
        read.model,
        read.params,
        read.info,
        not_finite=read.not_finite,
        thresholds=read.thresholds,
        temperature=read.temperature,
    )


@contextlib.contextmanager
def _needing(path: Any, extra: str) -> Iterator[None]:
    """Names the extra of a package that an import lacks."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} needs the package {error.name}: pip install 'sft_jax[{extra}]'"
        ) from error


def _on_one_device(array: Any) -> jax.ShapeDtypeStruct:
    place = SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place)
