"""Transformer block of all models except MulT."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
from flax.typing import Dtype

from sft_jax.modules.attention import AttentionPattern, SelfAttention
from sft_jax.modules.dropout import Dropout, numbered
from sft_jax.modules.linear import layer_norm, linear
from sft_jax.modules.remat import rematerialize
from sft_jax.ops.attention import kernels
from sft_jax.ops.attention.kernels import Kernel
from sft_jax.ops.noise import Keys
from sft_jax.structs import Tokens


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, then an MLP.

    As in the authors' code, the norm before the attention has no parameters, and dropout comes
    before the ReLU of the MLP.

    Attributes:
      num_heads: Number of attention heads.
      dropout: Rate of dropout, in both residual branches and inside the MLP.
      dtype: Type of the computation; None for the type of inputs and parameters.
      kernel: Attention kernel; see `SelfAttention`.
      pattern: Keys that each query sees; None for all.
      mlp_ratio: Width of the hidden layer of the MLP, in widths of a token; 1 in the authors' code.
      remat: Whether the gradient computes the block once more, so that training stores less
        (`sft_jax.modules.remat`).
    """

    num_heads: int
    dropout: float = 0.0
    dtype: Dtype | None = None
    kernel: str | Kernel = kernels.AUTO
    pattern: AttentionPattern | None = None
    mlp_ratio: int = 1
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        tokens: Tokens,
        first: int | None = None,
        *,
        train: bool = False,
        keys: Mapping[str, Keys] | None = None,
    ) -> Tokens:
        """Maps tokens to tokens of the same shape and mask.

        Args:
          tokens: Tokens of the batch.
          first: Number of leading tokens to compute; None for all.
          train: Whether to apply dropout.
          keys: Key of each example by stream; by default from the stream "dropout".
        """

        def compute(block: Block, tokens: Tokens, keys: Mapping[str, Keys] | None) -> Tokens:
            return block._compute(tokens, first, train=train, keys=keys)

        mapped: Tokens = rematerialize(compute, chosen=self.remat)(self, tokens, keys)
        return mapped

    def _compute(
        self,
        tokens: Tokens,
        first: int | None,
        *,
        train: bool,
        keys: Mapping[str, Keys] | None,
    ) -> Tokens:
        drop = Dropout(self.dropout, deterministic=not train)
        width = tokens.values.shape[-1]
        normed = layer_norm(self.dtype, "attention_norm", affine=False)(tokens.values)
        attended, _ = SelfAttention(
            self.num_heads,
            self.dtype,
            pattern=self.pattern,
            kernel=self.kernel,
            name="attention",
        )(tokens.replace(values=normed), first)
        if first is not None:
            tokens = jax.tree.map(lambda array: array[:, :first], tokens)
        values = tokens.values + drop(attended, numbered(keys, 0))
        hidden = layer_norm(self.dtype, "mlp_norm")(values)
        hidden = linear(width, self.mlp_ratio * width, self.dtype, "mlp_in")(hidden)
        hidden = nn.relu(drop(hidden, numbered(keys, 1)))
        hidden = linear(self.mlp_ratio * width, width, self.dtype, "mlp_out")(hidden)
        return tokens.replace(values=values + drop(hidden, numbered(keys, 2)))
