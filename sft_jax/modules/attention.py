"""Multi-head attention: of tokens to each other, and to those of a source."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float

from sft_jax.modules.linear import bounded_uniform
from sft_jax.ops.attention import apply_weights, attention_weights
from sft_jax.ops.block_sparse import (
    BlockSparsePattern,
    BlockSparseWeights,
    block_sparse_attention,
)
from sft_jax.structs import Tokens


class SelfAttention(nn.Module):
    """Each real token attends to the real tokens of its example (Vaswani et al. 2017).

    Attributes:
      num_heads: heads; must divide the width of the tokens.
      dtype: of the computation; None for that of inputs and parameters.
      qkv_bias_init: of the biases of query, key and value.
      out_kernel_init: of the output projection; by default U(±1/sqrt(width)).
      pattern: which tokens each attends to; None for all.

    Raises (on `init` and `apply`):
      ValueError: for tokens with sizes, which count only where there is no pattern.
    """

    num_heads: int
    dtype: Dtype | None = None
    qkv_bias_init: Initializer = nn.initializers.zeros
    out_kernel_init: Initializer | None = None
    pattern: BlockSparsePattern | None = None

    @nn.compact
    def __call__(
        self, tokens: Tokens
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b h n n"] | BlockSparseWeights]:
        """Returns the attended values and the attention weights.

        Under `jit` the weights cost nothing beyond the attention where they are not used.
        """
        width = tokens.values.shape[-1]
        # One Xavier-uniform matrix for all three, as in PyTorch: U(±sqrt(6 / (4 width))).
        qkv = nn.Dense(
            3 * width,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=self.qkv_bias_init,
            name="qkv",
        )(tokens.values)
        heads = qkv.reshape(*qkv.shape[:-1], 3, self.num_heads, width // self.num_heads)
        query, key, value = jnp.moveaxis(heads, -3, 0)
        weights: Float[Array, "b h n n"] | BlockSparseWeights
        if self.pattern is None:
            weights = attention_weights(query, key, tokens.mask, tokens.sizes)
            attended = apply_weights(weights, value)
        elif tokens.sizes is None:
            attended, weights = block_sparse_attention(query, key, value, tokens.mask, self.pattern)
        else:
            raise ValueError("tokens.sizes must be None where attention has a pattern")
        out = nn.Dense(
            width,
            dtype=self.dtype,
            kernel_init=self.out_kernel_init or bounded_uniform(width**-0.5),
            name="out",
        )(attended.reshape(*attended.shape[:-2], width))
        return out, weights


def cross_attention(
    values: Float[Array, "b q d"],
    source: Tokens,
    num_heads: int,
    dtype: Dtype | None,
    drop: Callable[[Array], Array] = lambda weights: weights,
) -> Float[Array, "b q d"]:
    """Each of `values` attends to the real tokens of its example's `source`.

    Called within a compact module, whose parameters "query", "key", "value" and "out", in
    PyTorch's initialisation, it then uses.

    Args:
      values: what attends.
      source: what is attended to, of the same width.
      num_heads: heads; must divide the width.
      dtype: of the computation; None for that of inputs and parameters.
      drop: applied to the attention weights.

    Returns:
      The attended values; the bias of "out" alone in an example whose source is masked
      throughout.
    """
    width = values.shape[-1]
    # As if the three were one Xavier-uniform matrix: U(±sqrt(6 / (4 width))).
    init = bounded_uniform((1.5 / width) ** 0.5)

    def project(name: str, values: Float[Array, "b n d"]) -> Float[Array, "b n h e"]:
        projected = nn.Dense(width, dtype=dtype, kernel_init=init, name=name)(values)
        return projected.reshape(*values.shape[:-1], num_heads, width // num_heads)

    query = project("query", values)
    key, value = project("key", source.values), project("value", source.values)
    weights = drop(attention_weights(query, key, source.mask, source.sizes))
    attended = apply_weights(weights, value).reshape(values.shape)
    init = nn.initializers.xavier_uniform()
    return nn.Dense(width, dtype=dtype, kernel_init=init, name="out")(attended)
