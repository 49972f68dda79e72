"""From a model's config to the Flax module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from sft_jax.config import ModelConfig
from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.mult import CrossmodalTransformer
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.modules.simple_fusion import ConcatFusion, LateFusion, Unimodal
from sft_jax.ops.attention.block_sparse import BlockSparsePattern
from sft_jax.ops.attention.windowed import WindowPattern
from sft_jax.structs import ModalitySpec

_PATTERNS = {"dense": None, "windowed": WindowPattern(), "block_sparse": BlockSparsePattern()}


def build_model(
    config: ModelConfig, modalities: Mapping[str, ModalitySpec], num_classes: int
) -> MultimodalClassifier:
    """Builds the module that `config` describes.

    Every model is called as `module.apply(variables, inputs, masks, train=...)` and
    returns `[b, num_classes]` outputs; `MultimodalClassifier.task` says what they are. Its `parts`
    is 1 where the config leaves that open; `sft_jax.training.assembly.build` chooses by the mesh.
    """
    shared: dict[str, Any] = {
        "num_classes": num_classes,
        "modalities": modalities,
        "width": config.width,
        "num_heads": config.num_heads,
        "n_pre": config.n_pre,
        "n_post": config.n_post,
        "dropout": config.dropout,
        "embedding_std": config.embedding_std,
        "dtype": jnp.dtype(config.dtype),
        "attention_kernel": config.attention_kernel,
        "parts": max(config.parts, 1),
        "task": config.task,
    }
    match config.name:
        case "sft":
            return SparseFusionTransformer(
                **shared,
                pool=config.pool,
                k=config.k,
                readout=config.readout,
                unimodal_pattern=_PATTERNS[config.unimodal_attention],
                pre_pooling_pattern=_PATTERNS[config.pre_pooling_attention],
            )
        case "late":
            return LateFusion(**shared)
        case "concat":
            return ConcatFusion(**shared)
        case "unimodal":
            return Unimodal(**shared, modality=config.modality or None)
        case "mbt":
            return BottleneckTransformer(**shared)
        case "mult":
            return CrossmodalTransformer(**shared)
