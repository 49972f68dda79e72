"""From a model's config to the Flax module."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from sft_jax.config import ModelConfig
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.structs import ModalitySpec


def build_model(
    config: ModelConfig, modalities: Mapping[str, ModalitySpec], num_classes: int
) -> nn.Module:
    """Builds the module that `config` describes.

    Every model is called as `module.apply(variables, inputs, masks, train=...)` and
    returns `[b, num_classes]` logits.
    """
    return SparseFusionTransformer(
        num_classes=num_classes,
        modalities=modalities,
        width=config.width,
        num_heads=config.num_heads,
        n_pre=config.n_pre,
        n_post=config.n_post,
        pool=config.pool,
        k=config.k,
        dropout=config.dropout,
        embedding_std=config.embedding_std,
        dtype=jnp.dtype(config.dtype),
    )
