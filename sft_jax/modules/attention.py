"""Multi-head attention: of tokens to each other, and to those of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Bool, Float

from sft_jax.modules.linear import bounded_uniform, dense, flat_dot
from sft_jax.ops.attention.block_sparse import BlockSparsePattern, block_sparse_attention, received
from sft_jax.ops.attention.cudnn import cudnn_attention, is_supported
from sft_jax.ops.attention.plain import apply_weights, attention_weights, saliency
from sft_jax.ops.attention.tiled import blocked_attention, blocked_self_attention
from sft_jax.ops.attention.windowed import WindowPattern, windowed_attention
from sft_jax.structs import AttentionKernel, Tokens

AttentionPattern = BlockSparsePattern | WindowPattern


def pattern_for(pattern: AttentionPattern | None, num_tokens: int) -> AttentionPattern | None:
    """Returns the pattern, or None where dense attention costs no more for a modality.

    It depends on the full length of the modality, never on that of an array: otherwise padding
    would change what a model computes.

    Args:
      pattern: Which tokens each attends to.
      num_tokens: Tokens of an example of full length, without CLS.
    """
    if isinstance(pattern, WindowPattern) and pattern.is_dense(num_tokens + 1):
        return None
    return pattern


_PLAIN_UP_TO = 128 * 128
"""Weights of one head that cost less to store than to compute twice."""


class SelfAttention(nn.Module):
    """Each real token attends to the real tokens of its example (Vaswani et al. 2017).

    | kernel | how the same numbers are computed |
    | --- | --- |
    | `auto` | `plain` for short sequences; for longer ones `cudnn` where it can, else `blocked` |
    | `plain` | with the weights of all queries and keys in memory |
    | `blocked` | for a tile of queries at a time (`sft_jax.ops.attention.tiled`) |
    | `cudnn` | by NVIDIA's library on its GPUs, in bfloat16 or float16; else as `blocked` |

    Attributes:
      num_heads: heads; must divide the width of the tokens.
      dtype: of the computation; None for that of inputs and parameters.
      qkv_bias_init: of the biases of query, key and value.
      out_kernel_init: of the output projection; by default U(±1/sqrt(width)).
      pattern: which tokens each attends to; None for all. It decides how that is computed.
      kernel: one of the above, where there is no pattern. The saliency is never by `cudnn`.
      with_saliency: whether to return the saliency; the first token is CLS then.

    Raises (on `init` and `apply`):
      ValueError: for tokens with sizes, which count only where there is no pattern.
    """

    num_heads: int
    dtype: Dtype | None = None
    qkv_bias_init: Initializer = nn.initializers.zeros
    out_kernel_init: Initializer | None = None
    pattern: AttentionPattern | None = None
    kernel: AttentionKernel = "auto"
    with_saliency: bool = False

    @nn.compact
    def __call__(
        self, tokens: Tokens, first: int | None = None
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b k"] | None]:
        """Returns the attended values, and the saliency of all tokens after CLS or None.

        Where the weights are computed as a whole, they are sown as "weights" among the
        intermediates.

        Args:
          tokens: what attends and is attended to.
          first: how many tokens, from the first on, attend; None for all. Only where there is
            neither a pattern nor saliency.
        """
        width = tokens.values.shape[-1]
        query, key, value = _QueryKeyValue(
            self.num_heads, self.dtype, self.qkv_bias_init, name="qkv"
        )(tokens.values, first)
        attended, salient = self._attend(query, key, value, tokens)
        out = dense(
            width,
            self.dtype,
            "out",
            kernel_init=self.out_kernel_init or bounded_uniform(width**-0.5),
        )(attended.reshape(*attended.shape[:-2], width))
        return out, salient

    def _attend(
        self, query: Array, key: Array, value: Array, tokens: Tokens
    ) -> tuple[Array, Array | None]:
        mask, sizes = tokens.mask, tokens.sizes
        if self.pattern is not None and sizes is not None:
            raise ValueError("tokens.sizes must be None where attention has a pattern")
        if isinstance(self.pattern, BlockSparsePattern):
            attended, sparse = block_sparse_attention(query, key, value, mask, self.pattern)
            self.sow("intermediates", "weights", sparse)
            return attended, received(sparse, mask) if self.with_saliency else None
        if isinstance(self.pattern, WindowPattern):
            attended, salient = windowed_attention(query, key, value, mask, self.pattern)
            return attended, salient if self.with_saliency else None
        if _stores_weights(self.kernel, query, key):
            weights = attention_weights(query, key, mask, sizes)
            self.sow("intermediates", "weights", weights)
            attended = apply_weights(weights, value)
            return attended, saliency(weights, mask) if self.with_saliency else None
        if self.with_saliency:
            return blocked_self_attention(query, key, value, mask, sizes)
        return _attend(self.kernel, query, key, value, mask, sizes), None


class _QueryKeyValue(nn.Module):
    """Queries, keys and values of tokens, from one dense layer."""

    num_heads: int
    dtype: Dtype | None
    bias_init: Initializer

    @nn.compact
    def __call__(
        self, values: Float[Array, "b n d"], first: int | None
    ) -> tuple[Float[Array, "b q h e"], Float[Array, "b n h e"], Float[Array, "b n h e"]]:
        width = values.shape[-1]
        # One Xavier-uniform matrix for all three, as in PyTorch: U(±sqrt(6 / (4 width))). Its
        # last axis holds whole heads one after the other, which devices can divide.
        init = nn.initializers.variance_scaling(1, "fan_avg", "uniform", in_axis=0, out_axis=(1, 2))
        kernel = self.param("kernel", init, (width, 3, width), jnp.float32)
        bias = self.param("bias", self.bias_init, (3, width), jnp.float32)
        values, kernel, bias = promote_dtype(values, kernel, bias, dtype=self.dtype)
        if first is None:
            query, key, value = self._project(values, kernel, bias)
        else:
            (query,) = self._project(values[:, :first], kernel[:, :1], bias[:1])
            key, value = self._project(values, kernel[:, 1:], bias[1:])
        return query, key, value

    def _project(self, values: Array, kernel: Array, bias: Array) -> Iterator[Array]:
        """One array of heads for each place in the middle axis of the kernel."""
        projected = flat_dot(values, kernel)
        projected += jnp.expand_dims(bias, range(values.ndim - 1))
        of_heads = (self.num_heads, projected.shape[-1] // self.num_heads)
        for i in range(len(bias)):
            yield projected[..., i, :].reshape(*values.shape[:-1], *of_heads)


def _stores_weights(kernel: AttentionKernel, query: Array, key: Array) -> bool:
    few = query.shape[1] * key.shape[1] <= _PLAIN_UP_TO
    return kernel == "plain" or (kernel == "auto" and few)


def _attend(
    kernel: AttentionKernel,
    query: Float[Array, "b q h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    sizes: Float[Array, "b n"] | None,
) -> Float[Array, "b q h e"]:
    """Attention by one of the kernels of `SelfAttention`."""
    if _stores_weights(kernel, query, key):
        return apply_weights(attention_weights(query, key, mask, sizes), value)
    arrays = (query, key, value, mask, sizes)
    if kernel == "cudnn" or (kernel == "auto" and is_supported(query.dtype, query.shape[-1])):
        return cudnn_attention(*arrays, elsewhere=blocked_attention)
    return blocked_attention(*arrays)


def cross_attention(
    values: Float[Array, "b q d"],
    source: Tokens,
    num_heads: int,
    dtype: Dtype | None,
    kernel: AttentionKernel = "auto",
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "b q d"]:
    """Each of `values` attends to the real tokens of its example's `source`.

    Called within a compact module, whose parameters "query", "key", "value" and "out", in
    PyTorch's initialisation, it then uses.

    Args:
      values: what attends.
      source: what is attended to, of the same width.
      num_heads: heads; must divide the width.
      dtype: of the computation; None for that of inputs and parameters.
      kernel: see `SelfAttention`; with `drop` always plain.
      drop: applied to the attention weights.

    Returns:
      The attended values; the bias of "out" alone in an example whose source is masked
      throughout.
    """
    width = values.shape[-1]
    # As if the three were one Xavier-uniform matrix: U(±sqrt(6 / (4 width))).
    init = bounded_uniform((1.5 / width) ** 0.5)

    def project(name: str, values: Float[Array, "b n d"]) -> Float[Array, "b n h e"]:
        projected = dense(width, dtype, name, kernel_init=init)(values)
        return projected.reshape(*values.shape[:-1], num_heads, width // num_heads)

    query = project("query", values)
    key, value = project("key", source.values), project("value", source.values)
    if drop is None:
        attended = _attend(kernel, query, key, value, source.mask, source.sizes)
    else:
        weights = drop(attention_weights(query, key, source.mask, source.sizes))
        attended = apply_weights(weights, value)
    init = nn.initializers.xavier_uniform()
    return dense(width, dtype, "out", kernel_init=init)(attended.reshape(values.shape))
