"""Pools with parameters of their own: TokenLearner, and learned queries as in Perceiver.

Both fill all `k` slots of an example that has any real token. Those of an example that has
none hold 0 and are masked. A slot depends on its own parameters alone, so with parameters of
more than `k` slots the first `k` are computed.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float

from sft_jax.modules.attention import cross_attention
from sft_jax.modules.linear import bounded_uniform, flat_dot, layer_norm, linear
from sft_jax.ops.attention.plain import apply_weights, masked_softmax
from sft_jax.structs import AnyArray, Tokens


class TokenLearner(nn.Module):
    """Pool of `k` weighted means of the tokens (Ryoo et al. 2021, arXiv 2106.11297, version 1.1).

    An MLP gives each token `k` logits, `W2 gelu(W1 LN(x))`. A softmax over the real tokens turns
    each of the `k` maps into weights. The hidden layer is as wide as the tokens, as in `Block`;
    in the authors' code it has 64 features for any width.

    Attributes:
      k: Number of slots.
      dtype: Type of the computation; None for the type of inputs and parameters.
    """

    k: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, tokens: Tokens) -> Tokens:
        """Returns `[b, k, d]` tokens."""
        values = _without_padding(tokens)
        width = values.shape[-1]
        hidden = linear(width, width, self.dtype, "mlp_in")(layer_norm(self.dtype, "norm")(values))
        logits = _SlotLogits(self.k, self.dtype, name="mlp_out")(nn.gelu(hidden)).swapaxes(1, 2)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        weights = masked_softmax(logits, tokens.mask[:, None])
        # The k maps act like the attention weights of k queries of one head.
        means = apply_weights(weights[:, None], values[:, :, None])[:, :, 0]
        return _all_slots(means, tokens)


class PerceiverPool(nn.Module):
    """Pool of `k` learned queries that attend to the tokens once.

    The result is `q + Attention(LN_q(q), LN_x(x), LN_x(x))` for learned queries `q` and tokens
    `x`. This is the cross-attention of Perceiver (Jaegle et al. 2021, arXiv 2103.03206) and of
    Flamingo's resampler (Alayrac et al. 2022, arXiv 2204.14198), without the MLP that follows
    there. Here the pooled tokens pass to the fused blocks, which have MLPs.

    Attributes:
      k: Number of slots.
      num_heads: Number of attention heads; must divide the width of the tokens.
      dtype: Type of the computation; None for the type of inputs and parameters.
    """

    k: int
    num_heads: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, tokens: Tokens) -> Tokens:
        """Returns `[b, k, d]` tokens."""
        values = _without_padding(tokens)
        batch, _, width = values.shape
        normal = nn.initializers.normal(0.02)
        queries = jnp.asarray(slots_param(self, "queries", normal, (self.k, width), axis=0))
        normed = layer_norm(self.dtype, "query_norm")(queries)
        attended = cross_attention(
            jnp.broadcast_to(normed, (batch, self.k, width)),
            tokens.replace(values=layer_norm(self.dtype, "token_norm")(values)),
            self.num_heads,
            self.dtype,
            "plain",  # There are only a few queries.
        )
        return _all_slots(queries.astype(attended.dtype)[None] + attended, tokens)


class _SlotLogits(nn.Module):
    """Dense layer from a token to a logit of each slot, initialised as `linear` does."""

    k: int
    dtype: Dtype | None

    @nn.compact
    def __call__(self, values: Float[Array, "b n d"]) -> Float[Array, "b n k"]:
        width = values.shape[-1]
        init = bounded_uniform(width**-0.5)
        kernel = slots_param(self, "kernel", init, (width, self.k), axis=1)
        bias = slots_param(self, "bias", init, (self.k,), axis=0)
        values, kernel, bias = promote_dtype(values, kernel, bias, dtype=self.dtype)
        return flat_dot(values, kernel) + bias.reshape(1, 1, -1)


def slots_param(
    module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...], axis: int
) -> Float[AnyArray, "_ ..."]:
    """Parameter of a module; the first slots of it if it has more.

    Args:
      module: Module that it belongs to.
      name: Name of the parameter.
      init: Initialiser.
      shape: Shape that is initialised and returned.
      axis: Axis of the slots.

    Raises:
      ValueError: If there is a parameter of fewer slots.
    """
    stored: Any = module.get_variable("params", name)
    slots, k = (shape if stored is None else stored.shape)[axis], shape[axis]
    if slots < k:
        raise ValueError(f"k={k}: the parameter {name!r} has {slots} slots; k must be at most that")
    if slots > k:
        return jax.lax.slice_in_dim(stored, 0, k, axis=axis)
    param: AnyArray = module.param(name, init, shape, jnp.float32)
    return param


def _without_padding(tokens: Tokens) -> Float[Array, "b n d"]:
    # NaN at padding would reach the gradients of parameters even with weight 0.
    return jnp.where(tokens.mask[..., None], tokens.values, 0)


def _all_slots(values: Float[Array, "b k d"], tokens: Tokens) -> Tokens:
    present = tokens.mask.any(axis=1)[:, None]
    filled = jnp.broadcast_to(present, values.shape[:2])
    return Tokens(jnp.where(filled[..., None], values, 0), filled)
