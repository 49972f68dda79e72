"""Multi-head attention: self-attention, and cross-attention to the tokens of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float

from sft_jax.modules.linear import bounded_uniform, dense, flat_dot
from sft_jax.ops.attention import kernels
from sft_jax.ops.attention.block_sparse import BlockSparsePattern, block_sparse_attention, received
from sft_jax.ops.attention.kernels import Kernel
from sft_jax.ops.attention.plain import apply_weights, attention_weights, cls_attention
from sft_jax.ops.attention.windowed import WindowPattern, windowed_attention
from sft_jax.structs import Tokens

AttentionPattern = BlockSparsePattern | WindowPattern


P = TypeVar("P")


def pattern_for(pattern: P, num_tokens: int) -> P | None:
    """Returns the pattern, or None where dense attention costs no more for a modality.

    The choice depends on the full length of the modality, never on the length of an array:
    otherwise padding would change the output of a model.

    Args:
      pattern: Pattern of the keys that each query sees; None for all keys.
      num_tokens: Number of tokens in an example of full length, without CLS.
    """
    if isinstance(pattern, WindowPattern) and pattern.is_dense(num_tokens + 1):
        return None
    return pattern


class SelfAttention(nn.Module):
    """Self-attention (Vaswani et al. 2017) among the real tokens of each example.

    Attributes:
      num_heads: Number of heads; must divide the width of the tokens.
      dtype: Type of the computation; None for the type of inputs and parameters.
      qkv_bias_init: Initialiser of the biases of query, key and value.
      out_kernel_init: Initialiser of the output projection; by default U(±1/sqrt(width)).
      pattern: Keys that each query sees; None for all. A pattern replaces the kernel.
      kernel: Name of a kernel of `sft_jax.ops.attention.kernels`, or a kernel, for attention
        without a pattern. It changes only the cost.
      saliency: Saliency to return, of the tokens after the first, which must be CLS: the attention
        that each receives, or that of CLS alone (`sft_jax.ops.attention.plain`); None for none.

    Raises (on `init` and `apply`):
      ValueError: For tokens with sizes and a pattern, since only dense attention supports sizes.
        Also for an unknown kernel, or one that returns the wrong shapes.
    """

    num_heads: int
    dtype: Dtype | None = None
    qkv_bias_init: Initializer = nn.initializers.zeros
    out_kernel_init: Initializer | None = None
    pattern: AttentionPattern | None = None
    kernel: str | Kernel = kernels.AUTO
    saliency: Literal["received", "from_cls"] | None = None

    @nn.compact
    def __call__(
        self, tokens: Tokens, first: int | None = None
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b k"] | None]:
        """Returns the attended values, and the saliency of all tokens after CLS or None.

        If the whole matrix of weights is computed, it is sown as "weights" among the
        intermediates.

        Args:
          tokens: Tokens that attend and are attended to.
          first: Number of leading tokens that attend; None for all. It must be None with a
            pattern or with saliency.
        """
        width = tokens.values.shape[-1]
        query, key, value = _QueryKeyValue(
            self.num_heads, self.dtype, self.qkv_bias_init, name="qkv"
        )(tokens.values, first)
        attended, salient = self._attend(query, key, value, tokens)
        if self.saliency == "from_cls":
            salient = cls_attention(query[:, :1], key, tokens.mask, tokens.sizes)
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
        with_saliency = self.saliency == "received"
        if self.pattern is not None and sizes is not None:
            raise ValueError("tokens.sizes must be None where attention has a pattern")
        if isinstance(self.pattern, BlockSparsePattern):
            attended, sparse = block_sparse_attention(query, key, value, mask, self.pattern)
            self.sow("intermediates", "weights", sparse)
            return attended, received(sparse, mask) if with_saliency else None
        if isinstance(self.pattern, WindowPattern):
            attended, salient = windowed_attention(query, key, value, mask, self.pattern)
            return attended, salient if with_saliency else None
        stores_weights = kernels.choose_kernel(self.kernel, query, key) is kernels.plain
        if stores_weights and self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(query, key, mask, sizes))
        return kernels.attend(
            self.kernel, query, key, value, mask, sizes, with_saliency=with_saliency
        )


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
        # As in PyTorch, all three share one Xavier-uniform matrix: U(±sqrt(6 / (4 width))). Its
        # last axis holds whole heads in sequence, so that devices can divide it.
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
        """Yields one array of heads for each index of the middle axis of the kernel."""
        projected = flat_dot(values, kernel)
        projected += jnp.expand_dims(bias, range(values.ndim - 1))
        heads = (self.num_heads, projected.shape[-1] // self.num_heads)
        for i in range(len(bias)):
            yield projected[..., i, :].reshape(*values.shape[:-1], *heads)


def cross_attention(
    values: Float[Array, "b q d"],
    source: Tokens,
    num_heads: int,
    dtype: Dtype | None,
    kernel: str | Kernel = kernels.AUTO,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "b q d"]:
    """Cross-attention: queries attend to the real tokens of a source in the same example.

    It must be called within a compact module. It creates the parameters "query", "key", "value"
    and "out" of that module, with PyTorch's initialisation.

    Args:
      values: Tokens that attend.
      source: Tokens that are attended to, of the same width.
      num_heads: Number of heads; must divide the width.
      dtype: Type of the computation; None for the type of inputs and parameters.
      kernel: Attention kernel, as in `SelfAttention`; ignored with `drop`, which needs `plain`.
      drop: Function applied to the attention weights.

    Returns:
      The attended values; only the bias of "out" in an example whose source is fully masked.
    """
    width = values.shape[-1]
    # The bound is that of one Xavier-uniform matrix for all three: U(±sqrt(6 / (4 width))).
    init = bounded_uniform((1.5 / width) ** 0.5)

    def project(name: str, values: Float[Array, "b n d"]) -> Float[Array, "b n h e"]:
        projected = dense(width, dtype, name, kernel_init=init)(values)
        return projected.reshape(*values.shape[:-1], num_heads, width // num_heads)

    query = project("query", values)
    key, value = project("key", source.values), project("value", source.values)
    if drop is None:
        attended, _ = kernels.attend(kernel, query, key, value, source.mask, source.sizes)
    else:
        weights = drop(attention_weights(query, key, source.mask, source.sizes))
        attended = apply_weights(weights, value)
    init = nn.initializers.xavier_uniform()
    return dense(width, dtype, "out", kernel_init=init)(attended.reshape(values.shape))
