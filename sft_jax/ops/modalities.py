"""Arithmetic over modalities that an example may lack.

An example lacks a modality if the mask of that modality is False throughout the example. A model
puts a CLS token first, whose mask is True where the example has the modality. Tokens thus carry
their presence with them, and no token of an absent modality counts as real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from sft_jax.structs import Tokens


def is_present(mask: Bool[Array, "b _ ..."]) -> Bool[Array, " b"]:
    """Computes which examples have a modality.

    Args:
      mask: Mask of the modality, False at padding.

    Returns:
      True for each example with a real position.
    """
    return mask.any(axis=tuple(range(1, mask.ndim)))


def drop_modalities(
    key: Key[Array, ""], masks: Mapping[str, Bool[Array, "b _ ..."]], rate: float
) -> dict[str, Bool[Array, "b _ ..."]]:
    """Masks each modality of each example with probability `rate`, but never all of them.

    Where all modalities of an example would be dropped, one is kept, each with equal
    probability (compare Neverova et al. 2016, ModDrop, arXiv 1501.00102).

    Args:
      key: Random key.
      masks: Masks by modality. An example lacks a modality whose mask is False throughout.
      rate: Probability from 0 to 1.

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


def mean_over_present(
    values: Sequence[Float[Array, "b ..."]], present: Sequence[Bool[Array, " b"]]
) -> Float[Array, "b ..."]:
    """Computes the mean over the modalities that each example has.

    Args:
      values: One array for each modality.
      present: One mask of the examples that have the modality, for each modality.

    Returns:
      `sum_m present_m values_m / sum_m present_m`; 0 for an example without any modality.
    """
    count = jnp.maximum(sum(has.astype(jnp.int32) for has in present), 1)
    total = _total_over_present(values, present)
    mean = total / count.reshape(-1, *[1] * (total.ndim - 1)).astype(total.dtype)
    return mean.astype(values[0].dtype)


def sum_over_present(
    values: Sequence[Float[Array, "b ..."]], present: Sequence[Bool[Array, " b"]]
) -> Float[Array, "b ..."]:
    """Computes the sum over the modalities that each example has; 0 without any."""
    return _total_over_present(values, present).astype(values[0].dtype)


def _total_over_present(
    values: Sequence[Float[Array, "b ..."]], present: Sequence[Bool[Array, " b"]]
) -> Float[Array, "b ..."]:
    """Computes the sum in float32 at least: it may overflow float16 even if the mean does not."""
    total = jnp.zeros_like(values[0], jnp.promote_types(values[0].dtype, jnp.float32))
    for array, has in zip(values, present, strict=True):
        total += jnp.where(has.reshape(-1, *[1] * (total.ndim - 1)), array, 0)
    return total


def first_tokens(tokens: Tokens, count: int = 1) -> Tokens:
    """Keeps the first tokens of each sequence."""
    first: Tokens = jax.tree.map(lambda array: array[:, :count], tokens)
    return first


def join(*sequences: Tokens) -> Tokens:
    """Concatenates sequences.

    A sequence without sizes gets size 1 everywhere if another sequence has sizes.
    """
    sizes = None
    if any(tokens.sizes is not None for tokens in sequences):
        dtype = jnp.promote_types(sequences[0].values.dtype, jnp.float32)
        filled = [jnp.ones(t.mask.shape, dtype) if t.sizes is None else t.sizes for t in sequences]
        sizes = jnp.concatenate(filled, axis=1)
    return Tokens(
        jnp.concatenate([tokens.values for tokens in sequences], axis=1),
        jnp.concatenate([tokens.mask for tokens in sequences], axis=1),
        sizes,
    )
