"""Multi-head attention over padded sequences, and the saliency that pooling uses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attention_weights(
    query: Float[Array, "b q h e"],
    key: Float[Array, "b n h e"],
    key_mask: Bool[Array, "b n"],
    key_sizes: Float[Array, "b n"] | None = None,
) -> Float[Array, "b h q n"]:
    """Scaled dot-product attention weights, `softmax(query keyᵀ / sqrt(e))` over the keys.

    A key of size `s` counts as `s` equal keys: `log s` is added to its logits (proportional
    attention; Bolya et al. 2023, arXiv 2210.09461, section 3).

    Args:
      query: Queries of `h` heads of size `e`.
      key: Keys.
      key_mask: False marks a key that gets no weight.
      key_sizes: Sizes, above 0 at real keys; None for 1 everywhere.

    Returns:
      Weights that sum to 1 over the real keys, in float32 or, for float64 inputs, float64.
      In an example without any real key they are 0, not NaN.
    """
    logits = scaled_products("bqhe,bnhe->bhqn", query * query.shape[-1] ** -0.5, key)
    if key_sizes is not None:
        sizes = jnp.where(key_mask, key_sizes, 1).astype(logits.dtype)
        logits += jnp.log(sizes)[:, None, None, :]
    return masked_softmax(logits, key_mask[:, None, None, :])


def scaled_products(subscripts: str, query: Array, key: Array) -> Array:
    """Computes logits by `jnp.einsum`, and returns them in float32 or float64.

    Products of float16 are computed in float32, since they may overflow float16.
    """
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    if query.dtype == jnp.float16:
        query, key = query.astype(dtype), key.astype(dtype)
    return jnp.einsum(subscripts, query, key).astype(dtype)


def masked_softmax(
    logits: Float[Array, "*b n"], mask: Bool[Array, "*#b n"]
) -> Float[Array, "*b n"]:
    """Computes a softmax over the last axis, for the entries whose mask is True.

    Args:
      logits: Logits; entries where the mask is False are ignored.
      mask: Mask that broadcasts over the leading axes.

    Returns:
      Numbers that sum to 1 over the entries whose mask is True, and are 0 at the others.
      A row without any True entry is 0, not NaN.
    """
    # The fill is the lowest finite number, not -inf: a fully masked row must stay finite, in the
    # gradient too, until it is set to 0.
    softmax = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(logits.dtype).min), axis=-1)
    return jnp.where(mask, softmax, 0)


def apply_weights(
    weights: Float[Array, "b h q n"], value: Float[Array, "b n h e"]
) -> Float[Array, "b q h e"]:
    """Computes the weighted sum of the values, per head, in the type of `value`."""
    return jnp.einsum("bhqn,bnhe->bqhe", weights.astype(value.dtype), value)


def saliency(weights: Float[Array, "b h n n"], mask: Bool[Array, "b n"]) -> Float[Array, "b n-1"]:
    """Computes the attention that each token after CLS receives (Ding et al. 2021, section 3.2).

    The saliency is `s_j = mean_i w[i, j]` over the real queries `i >= 1`, where `w` are the
    weights averaged over the heads. The first token, CLS, is neither a query nor a key here. The
    saliencies are not renormalised, so they sum to less than 1.

    Args:
      weights: Attention weights of a sequence over itself, CLS first.
      mask: False marks padding, whose saliency is 0.

    Returns:
      The saliency of the tokens after CLS.
    """
    queries = mask[:, 1:].astype(weights.dtype)
    received = jnp.einsum("bhqn,bq->bn", weights[:, :, 1:, 1:], queries)
    count = jnp.maximum(queries.sum(axis=-1, keepdims=True), 1)
    return jnp.where(mask[:, 1:], received / (count * weights.shape[1]), 0)


def cls_attention(
    query: Float[Array, "b 1 h e"],
    key: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    sizes: Float[Array, "b n"] | None = None,
) -> Float[Array, "b n-1"]:
    """Computes the attention of CLS to each token after it (Liang et al. 2022, arXiv 2202.07800).

    The saliency is `s_j = w[0, j]`, where `w` are the weights averaged over the heads. The weight
    of CLS itself is left out, so the saliencies sum to less than 1. CLS sees every real key, also
    where a pattern hides some from it. The cost is that of one query.

    Args:
      query: Query of CLS, the first token.
      key: Keys of the sequence, CLS first.
      mask: False marks padding, whose saliency is 0.
      sizes: Sizes of the keys; None for 1 everywhere.

    Returns:
      The saliency of the tokens after CLS; 0 in an example without any real key.
    """
    return attention_weights(query, key, mask, sizes)[:, :, 0, 1:].mean(axis=1)
