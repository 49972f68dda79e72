"""Selection of tokens among all modalities together, with one budget."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sft_jax.ops.attention.plain import masked_softmax
from sft_jax.ops.modalities import join, mean_over_present
from sft_jax.ops.pool.select import select_top_k
from sft_jax.structs import Tokens


def joint_top_k(
    tokens: Sequence[Tokens], k: int, saliency: Sequence[Float[Array, "b _"]], cls: Tokens
) -> tuple[Tokens, Int[Array, "b k"]]:
    """Selects the `k` tokens of largest score among all modalities, in descending order of score.

    A modality whose tokens matter more gets more of the budget, and a missing modality leaves its
    share to the others. Scores are those of `joint_scores`. The tokens are unchanged. In the
    gradient, a kept token counts as multiplied by its score plus a constant (the straight-through
    estimator of Bengio et al. 2013, arXiv 1308.3432). The scores learn in this way.

    One budget for all modalities is an idea of EchoingPixels (Gong et al. 2025, arXiv 2512.10324).
    Tokens that matter to another modality are one of CrossGET (Shi et al. 2024, arXiv 2305.17455).

    Args:
      tokens: Tokens of each modality, without CLS.
      k: Number of slots for all modalities together, at least 1.
      saliency: Saliency of the tokens of each modality.
      cls: CLS tokens `[b, m, d]` of the modalities; the mask is True where an example has one.

    Returns:
      The tokens and their positions in the concatenation of all modalities. Positions of unfilled
      slots have no meaning.
    """
    scores = jnp.concatenate(joint_scores(tokens, saliency, cls), axis=1)
    kept, index = select_top_k(join(*tokens), scores, k)
    score = jnp.take_along_axis(scores, index, axis=1)
    # The difference is exactly 0, but its gradient is that of the score.
    factor = 1 + (score - jax.lax.stop_gradient(score))
    return kept.replace(values=kept.values * factor[..., None].astype(kept.values.dtype)), index


def joint_scores(
    tokens: Sequence[Tokens], saliency: Sequence[Float[Array, "b _"]], cls: Tokens
) -> list[Float[Array, "b _"]]:
    """Computes scores that can be compared between modalities.

    The score of token `j` of modality `m` is

        n_m (s_mj + mean_o softmax_j(LN(cls_o) · LN(x_mj) / sqrt(d)))

    `s` is the saliency. The mean is over the other modalities `o` that the example has, and 0
    without any other. It is the attention that their CLS would give to the tokens. The number of
    real tokens `n_m` makes up for the length of a modality, as attention over more tokens is
    thinner.

    Args:
      tokens: Tokens of each modality, without CLS.
      saliency: Saliency of the tokens of each modality.
      cls: CLS tokens of the modalities.

    Returns:
      Scores of each modality, 0 at padding, in float32 at least.
    """
    queries = _normed(cls)
    scores = []
    for i, own in enumerate(tokens):
        products = jnp.einsum("bmd,bnd->bmn", queries, _normed(own), precision="highest")
        attention = masked_softmax(products / queries.shape[-1] ** 0.5, own.mask[:, None])
        score = jnp.where(own.mask, saliency[i], 0).astype(attention.dtype)
        if others := [j for j in range(len(tokens)) if j != i]:
            given = mean_over_present(
                [attention[:, j] for j in others], [cls.mask[:, j] for j in others]
            )
            score += given
        scores.append(score * own.mask.sum(axis=1, keepdims=True).astype(score.dtype))
    return scores


def _normed(tokens: Tokens) -> Float[Array, "b n d"]:
    """Computes a layer norm without parameters, 0 at padding, in float32 at least."""
    dtype = jnp.promote_types(tokens.values.dtype, jnp.float32)
    # NaN at padding would reach the gradients even with weight 0.
    values = jnp.where(tokens.mask[..., None], tokens.values, 0).astype(dtype)
    return jax.nn.standardize(values, axis=-1, epsilon=1e-5)
