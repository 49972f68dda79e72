"""Learned saliency: a score for each token, trained by the tokens that a pool keeps."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from sft_jax.modules.linear import layer_norm, linear
from sft_jax.ops.attention.plain import masked_softmax
from sft_jax.ops.noise import Keys, example_keys, fold_in, gumbel
from sft_jax.structs import Tokens


class Scorer(nn.Module):
    """Saliency `softmax_j(w · LN(x_j) + b)` over the real tokens of each example.

    In training Gumbel noise is added to the scores, so that tokens of low score are kept now and
    then. The top-k is then a draw without replacement in proportion to the saliency (Kool et al.
    2019, arXiv 1903.06059), and noisy top-k gating in a mixture of experts is alike (Shazeer et
    al. 2017, arXiv 1701.06538).

    Attributes:
      dtype: Type of the computation; the scores are in float32 at least.
    """

    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, tokens: Tokens, *, noisy: bool = False, keys: Mapping[str, Keys] | None = None
    ) -> Float[Array, "b n"]:
        """Returns the saliency, 0 at padding; it sums to 1 unless an example has no real token.

        Args:
          tokens: Tokens to score.
          noisy: Whether to add noise.
          keys: Key of each example by stream; by default from the stream "pool".
        """
        # NaN at padding would reach the gradients of parameters even with weight 0.
        values = jnp.where(tokens.mask[..., None], tokens.values, 0)
        normed = layer_norm(self.dtype, "norm")(values)
        scores = linear(values.shape[-1], 1, self.dtype, "score")(normed)[..., 0]
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        if noisy:
            if keys is not None and "pool" in keys:
                own = fold_in(keys["pool"], 1)  # Another draw than that of the pool.
            else:
                own = example_keys(self.make_rng("pool"), scores.shape[0])
            scores += gumbel(own, scores.shape[1]).astype(scores.dtype)
        return masked_softmax(scores, tokens.mask)
