"""Folders of `sft_jax.export.layout`: models are read from them, and described for them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, get_args

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from sft_jax import config_io
from sft_jax.config import ExperimentConfig, ModelConfig
from sft_jax.data.dataset import DatasetInfo
from sft_jax.export import layout
from sft_jax.export.written import Bundle, ExportedFileError
from sft_jax.modules import MODELS, TOKENIZERS
from sft_jax.modules.factory import build_model, param_shapes
from sft_jax.modules.sparse_pooling import NoAttention
from sft_jax.ops.attention.block_sparse import BlockSparsePattern
from sft_jax.ops.attention.windowed import WindowPattern
from sft_jax.runs import storage
from sft_jax.runs.storage import AnyPath
from sft_jax.structs import NotFinite

_PATTERNS = {
    type(None): "dense",
    WindowPattern: "windowed",
    BlockSparsePattern: "block_sparse",
    NoAttention: "none",
}


def read(folder: str | os.PathLike[str]) -> Bundle:
    """Reads a folder.

    Args:
      folder: Folder of `--format=safetensors`, local or in a bucket.

    Raises:
      ExportedFileError: If the folder is of another format or version, or damaged.
    """
    path = storage.as_path(folder)
    described = layout.read_config(path)
    try:
        info = DatasetInfo.from_json(described["dataset"])
        config = config_io.from_mapping({"model": described["config"]}).model
        model = build_model(config, info.modalities, len(info.class_names))
        flat = safetensors.numpy.load((path / layout.WEIGHTS).read_bytes())
        policy = described.get("not_finite", "error")
        if policy not in get_args(NotFinite):
            raise ValueError(f"not_finite={policy!r} is not one of {get_args(NotFinite)}")
        thresholds = described.get("thresholds")
        if not isinstance(thresholds, dict | None):
            raise ValueError(f"thresholds={thresholds!r} is not a mapping from names to numbers")
        temperature = float(described.get("temperature", 1.0))
    except KeyError as error:
        raise ExportedFileError(f"{path} is damaged: config.json has no entry {error}") from None
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        needed = f"or needs sft_jax {described.get('sft_jax')}, which wrote it"
        raise ExportedFileError(f"{path} is damaged, {needed}: {error}") from error
    params = flax.traverse_util.unflatten_dict(flat, sep=".")
    _check_shapes(model, flat, path)
    return Bundle(model, params, info, policy, thresholds, temperature)


def flat_params(params: Any) -> dict[str, np.ndarray]:
    """Parameters by their path with dots, on the host."""
    flat = flax.traverse_util.flatten_dict(params, sep=".")
    return {name: np.asarray(array) for name, array in flat.items()}


def model_config(model: Any) -> dict[str, Any]:
    """Fields of the config that builds a model, as JSON values.

    Raises:
      ValueError: If no config builds it; names the attributes that no config has.
    """
    names = {path: name for name, path in MODELS.items()}
    values = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(ModelConfig)
        if hasattr(model, field.name)
    }
    values["name"] = names.get(_path(model), _path(model))
    values["dtype"] = str(jnp.dtype(model.dtype or jnp.float32))
    ours = {path: name for name, path in TOKENIZERS.items()}
    tokenizers = {n: _path(t) for n, t in (model.tokenizers or {}).items()}
    values["tokenizers"] = {n: ours.get(path, path) for n, path in tokenizers.items()}
    if "k" in values and isinstance(values["k"], Mapping):
        values["k"] = dict(values["k"])
    if "modality" in values:
        values["modality"] = model.modality or ""
    for where in ("unimodal", "pre_pooling"):
        if hasattr(model, f"{where}_pattern"):
            pattern = getattr(model, f"{where}_pattern")
            values[f"{where}_attention"] = _PATTERNS.get(type(pattern), str(pattern))
    try:
        config = ModelConfig(**values)
        built = build_model(config, model.modalities, model.num_classes)
    except ValueError as error:
        raise ValueError(f"no config describes this model: {error}") from None
    lost = [
        f"{field.name}={getattr(model, field.name)!r}"
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name", "dtype")
        and (getattr(model, field.name) or None) != (getattr(built, field.name) or None)
    ]
    if lost:
        raise ValueError(f"no config has these attributes of the model: {', '.join(lost)}")
    fields: dict[str, Any] = config_io.to_json(ExperimentConfig(model=config))["model"]
    return fields


def _path(thing: Any) -> str:
    return f"{type(thing).__module__}:{type(thing).__qualname__}"


def _check_shapes(model: Any, flat: Mapping[str, np.ndarray], path: AnyPath) -> None:
    shapes = flax.traverse_util.flatten_dict(param_shapes(model), sep=".")
    expected = {name: array.shape for name, array in shapes.items()}
    found = {name: array.shape for name, array in flat.items()}
    if wrong := sorted({name for name, _ in expected.items() ^ found.items()}):
        more = f" and {len(wrong) - 3} more arrays" if len(wrong) > 3 else ""
        raise ExportedFileError(
            f"{path / layout.WEIGHTS} does not fit config.json: {', '.join(wrong[:3])}{more}"
        )
