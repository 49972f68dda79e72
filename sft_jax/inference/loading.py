"""Classifiers from run directories, with nothing but their files."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from sft_jax.data.card import Card
from sft_jax.data.dataset import DatasetInfo
from sft_jax.inference.classifier import Classifier
from sft_jax.modules.factory import build_model
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.runs import storage
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import RunDirectory, RunDirectoryError, SeedsDirectory


def load(workdir: str | os.PathLike[str], checkpoint: str | int = "best") -> Classifier:
    """Loads the classifier of a run or an exported folder; see `sft_jax.load`."""
    path = storage.as_path(workdir)
    if (path / "model.safetensors").exists():
        return _from_folder(path, checkpoint)
    run = RunDirectory(path)
    config = run.read_config(data=False)
    if config.seeds:
        first = SeedsDirectory(run.path, config.seeds).runs[config.seeds[0]]
        raise RunDirectoryError(
            f"{run} holds the runs of several seeds: load one of them, such as {first}"
        )
    which, ema = str(checkpoint), config.train.ema_decay > 0
    field = "ema_params" if ema else "params"
    with contextlib.closing(Checkpoints(run.path, read_only=True)) as checkpoints:
        info = DatasetInfo.from_json(checkpoints.description(which)["dataset"])
        model = build_model(config.model, info.modalities, len(info.class_names))
        state = checkpoints.restore_part(which, {"step": _scalar(), field: _shapes(model)})
    policy = Card.load(run.card_file).policy if run.card_file.exists() else "error"
    step = int(state["step"])
    thresholds = run.thresholds(step)
    return Classifier(
        model, state[field], info, step=step, not_finite=policy, thresholds=thresholds
    )


def _from_folder(path: storage.AnyPath, checkpoint: str | int) -> Classifier:
    """Classifier of a folder of `export.py --format=safetensors`."""
    if checkpoint != "best":
        raise ValueError(f"checkpoint={checkpoint!r}: {path} holds one model; leave it out")
    try:
        from sft_jax.export import safetensors_folder
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} needs the package {error.name}: pip install 'sft_jax[safetensors]'"
        ) from error
    metadata = safetensors_folder.read_config(path)
    return Classifier(*safetensors_folder.read(path), thresholds=metadata.get("thresholds"))


def _shapes(model: MultimodalClassifier) -> Any:
    """Shapes of the parameters, on one device."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), model.example_inputs()))
    return jax.tree.map(_on_one_device, variables["params"])


def _scalar() -> jax.ShapeDtypeStruct:
    return _on_one_device(jax.ShapeDtypeStruct((), jnp.int32))


def _on_one_device(array: Any) -> jax.ShapeDtypeStruct:
    place = SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place)
