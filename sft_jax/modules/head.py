"""From a token to logits."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from sft_jax.modules.linear import layer_norm, linear


class ClassifierHead(nn.Module):
    """Layer norm and a linear layer, from a token to logits.

    Attributes:
      num_classes: classes.
      dtype: of the computation.
    """

    num_classes: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, token: Float[Array, "b d"]) -> Float[Array, "b c"]:
        """Returns logits, in float32 at least."""
        normed = layer_norm(self.dtype, "norm")(token)
        logits = linear(token.shape[-1], self.num_classes, self.dtype, "classifier")(normed)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
