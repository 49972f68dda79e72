"""Attention with stored weights, which other kernels are compared with."""

import jax.numpy as jnp

from sft_jax.ops.attention.plain import apply_weights, attention_weights, saliency


def attend(query, key, value, mask, sizes, *, salient):
    """Computes the weighted sums and, if asked, the saliency; masked tokens may be NaN."""
    key, value = (jnp.where(mask[..., None, None], array, 0) for array in (key, value))
    if salient:
        query = jnp.where(mask[..., None, None], query, 0)
    weights = attention_weights(query, key, mask, sizes)
    attended = apply_weights(weights, value)
    return (attended, saliency(weights, mask)) if salient else (attended,)
