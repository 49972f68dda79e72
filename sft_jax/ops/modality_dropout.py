"""Modality dropout: training examples lose modalities, so that a model learns to do without."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from sft_jax.ops.presence import is_present


def drop_modalities(
    key: Key[Array, ""], masks: Mapping[str, Bool[Array, "b _ ..."]], rate: float
) -> dict[str, Bool[Array, "b _ ..."]]:
    """Masks each modality of each example with probability `rate`, but never all it has.

    Where all modalities that an example has would be dropped, one of them, each with equal
    probability, stays (compare Neverova et al. 2016, ModDrop, arXiv 1501.00102).

    Args:
      key: of the draw.
      masks: by modality; an example where one is False throughout is without it.
      rate: from 0 to 1.

    Returns:
      Masks of the same shapes.
    """
    names = sorted(masks)
    present = jnp.stack([is_present(masks[name]) for name in names])
    drawn = jnp.where(present, jax.random.uniform(key, present.shape), -1)
    stays = (drawn >= rate) | (drawn == drawn.max(axis=0, keepdims=True))
    return {
        name: masks[name] & jnp.expand_dims(keep, range(1, masks[name].ndim))
        for name, keep in zip(names, stays, strict=True)
    }
