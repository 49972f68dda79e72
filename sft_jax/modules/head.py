"""Heads, which map a token to the outputs of a task."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from sft_jax.modules.linear import bounded_uniform, layer_norm, linear
from sft_jax.ops.ordinal import ordinal_log_probabilities, uniform_thresholds


class ClassifierHead(nn.Module):
    """Layer norm and a linear layer, from a token to logits or predicted numbers.

    Attributes:
      num_classes: Number of classes, labels or targets.
      dtype: Type of the computation.
    """

    num_classes: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, token: Float[Array, "b d"]) -> Float[Array, "b c"]:
        """Returns the outputs, in float32 at least."""
        normed = layer_norm(self.dtype, "norm")(token)
        logits = linear(token.shape[-1], self.num_classes, self.dtype, "classifier")(normed)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


class OrdinalHead(nn.Module):
    """Proportional odds (McCullagh 1980), from a token to log-probabilities of ordered classes.

    Layer norm and a linear layer without bias give a score `s`. With learned thresholds
    `t_0 < t_1 < ...`, the example is at most of class `j` with probability
    `sigmoid(t_j - s)`. Initially a score of 0 makes all classes equally likely.

    Attributes:
      num_classes: Number of classes, at least 2.
      dtype: Type of the score; the probabilities are computed in float32 at least.
    """

    num_classes: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, token: Float[Array, "b d"]) -> Float[Array, "b c"]:
        """Returns log-probabilities, which are logits: their softmax is the probabilities."""
        normed = layer_norm(self.dtype, "norm")(token)
        init = bounded_uniform(token.shape[-1] ** -0.5)
        dense = nn.Dense(1, use_bias=False, dtype=self.dtype, kernel_init=init, name="score")
        score = dense(normed)[:, 0]
        score = score.astype(jnp.promote_types(score.dtype, jnp.float32))
        return ordinal_log_probabilities(score, self.param("thresholds", self._thresholds))

    def _thresholds(self, _: Array) -> Float[Array, " t"]:
        return jnp.asarray(uniform_thresholds(self.num_classes))
