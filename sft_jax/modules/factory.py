"""Construction of the Flax module from the config of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sft_jax import plugins
from sft_jax.config import ModelConfig
from sft_jax.modules import MODELS, TOKENIZERS
from sft_jax.modules.budget import budgets
from sft_jax.modules.sparse_pooling import NoAttention
from sft_jax.ops.attention.block_sparse import BlockSparsePattern
from sft_jax.ops.attention.windowed import WindowPattern
from sft_jax.structs import PATCHED, ModalitySpec

_PATTERNS = {
    "dense": None,
    "windowed": WindowPattern(),
    "block_sparse": BlockSparsePattern(),
    "none": NoAttention(),
}

_NEVER_IGNORED = ("tokenizers", "layer_drop", "mlp_ratio", "remat", "matmul_precision")
"""Fields of the config that a model without such an attribute refuses, unless at the default."""

_INTERFACE = (
    "num_classes",
    "modalities",
    "num_heads",
    "n_pre",
    "n_post",
    "task",
    "mixed_modalities",
    "joint_from",
    "shared_from",
    "example_inputs",
)
"""Attributes of a model that training and evaluation use."""


def build_model(
    config: ModelConfig, modalities: Mapping[str, ModalitySpec], num_classes: int
) -> Any:
    """Builds the module that a config describes.

    Every model is called as `module.apply(variables, inputs, masks, train=...)` and returns
    `[b, num_classes]` outputs; `MultimodalClassifier.task` defines their meaning. The model gets
    those fields of the config that its class has. If the config leaves `parts` open, it is 1;
    `sft_jax.training.assembly.build` chooses it by the mesh.

    Args:
      config: Config of the model.
      modalities: Shape of each modality by name.
      num_classes: Number of outputs.

    Raises:
      ValueError: If an import path of the config does not lead to a suitable object.
    """
    kind = _load_class(config.name)
    attributes: dict[str, Any] = {
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(config)},
        "num_classes": num_classes,
        "modalities": modalities,
        "k": budgets(config.k, modalities),
        "dtype": jnp.dtype(config.dtype),
        "parts": max(config.parts, 1),
        "tokenizer_stride": max(config.tokenizer_stride, 1),
        "modality": config.modality or None,
        "unimodal_pattern": _PATTERNS[config.unimodal_attention],
        "pre_pooling_pattern": _PATTERNS[config.pre_pooling_attention],
        "tokenizers": {
            name: _load_tokenizer(name, path, modalities)
            for name, path in config.tokenizers.items()
        },
    }
    del attributes["name"]  # Flax uses a field of this name itself.
    accepted = _fields(kind)
    plain = ModelConfig()
    for name in _NEVER_IGNORED:
        value = getattr(config, name)
        if value != getattr(plain, name) and name not in accepted:
            takers = [own for own in MODELS if name in _fields(_load_class(own))]
            raise ValueError(
                f"model.{name}={value!r} is set, and model.name={config.name!r} has no such"
                f" attribute; allowed with {', '.join(takers)}"
            )
    return kind(**{name: value for name, value in attributes.items() if name in accepted})


def param_shapes(model: Any) -> Any:
    """Shapes and dtypes of the parameters of a model of `build_model`."""
    return jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())["params"]


def _fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _load_class(name: str) -> Any:
    """Loads the class of a model of this or another package."""
    kind = plugins.load(MODELS.get(name, name), "model.name")
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"model.name={name!r} must be a flax.linen.Module class, got {kind!r}")
    missing = [n for n in _INTERFACE if n not in _fields(kind) and not hasattr(kind, n)]
    if missing:
        raise ValueError(
            f"model.name={name!r} lacks {', '.join(missing)}; a class derived from"
            " sft_jax.modules.multimodal.MultimodalClassifier has them"
        )
    return kind


def _load_tokenizer(modality: str, path: str, modalities: Mapping[str, ModalitySpec]) -> nn.Module:
    """Loads the tokenizer of a modality: one of ours, a module, or a class without arguments."""
    field = f"model.tokenizers.{modality}"
    if path in TOKENIZERS and (spec := modalities.get(modality)):
        if spec.kind not in PATCHED:
            raise ValueError(
                f"{field}={path!r} joins neighbouring positions, and {modality} is of kind"
                f" {spec.kind}; allowed are {', '.join(PATCHED)}"
            )
        own: nn.Module = plugins.load(TOKENIZERS[path], field)(spec.patch_sizes)
        return own
    tokenizer = plugins.load(path, field)
    if isinstance(tokenizer, type) and issubclass(tokenizer, nn.Module):
        try:
            tokenizer = tokenizer()
        except TypeError as error:
            raise ValueError(f"{field}={path!r} can't be made without arguments: {error}") from None
    if not isinstance(tokenizer, nn.Module):
        raise ValueError(
            f"{field}={path!r} must be a flax.linen.Module, got {type(tokenizer).__name__}"
        )
    return tokenizer
