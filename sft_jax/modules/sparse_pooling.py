"""Sparse pooling: self-attention over a modality, then pooling of its tokens to a few."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from sft_jax.modules.attention import AttentionPattern, SelfAttention
from sft_jax.modules.dropout import Dropout, numbered
from sft_jax.modules.linear import bounded_uniform, layer_norm
from sft_jax.modules.reducer import Reducer
from sft_jax.ops.attention import kernels
from sft_jax.ops.attention.kernels import Kernel
from sft_jax.ops.modalities import first_tokens
from sft_jax.ops.noise import Keys
from sft_jax.ops.pool import Pool, find_pool
from sft_jax.ops.pool.windows import ReferenceWindows
from sft_jax.structs import Tokens


class SparsePooling(nn.Module):
    """Self-attention over one modality, then pooling of its tokens to a few.

    Attributes:
      num_heads: Number of attention heads.
      pool: See `Reducer`.
      k: Number of tokens kept; 0 for CLS alone. A tuple of several pools once for each.
      reference_windows: See `Reducer`.
      dropout: Rate of dropout of the residual branch.
      dtype: Type of the computation.
      pattern: Keys that each query sees; None for all.
      kernel: Attention kernel; see `SelfAttention`.
    """

    num_heads: int
    pool: str | Pool
    k: int | tuple[int, ...]
    reference_windows: ReferenceWindows | None = None
    dropout: float = 0.0
    dtype: Dtype | None = None
    pattern: AttentionPattern | None = None
    kernel: str | Kernel = kernels.AUTO

    @nn.compact
    def __call__(
        self, tokens: Tokens, *, train: bool = False, keys: Mapping[str, Keys] | None = None
    ) -> tuple[Float[Array, "b d"], Tokens | tuple[Tokens, ...]]:
        """Takes tokens with CLS first; returns CLS and the pooled others, a tuple for several `k`.

        Args:
          tokens: Tokens of the batch, CLS first.
          train: Whether to apply dropout, and to draw tokens in the random pools.
          keys: Key of each example by stream; by default from "dropout" and "pool".
        """
        width = tokens.values.shape[-1]
        pool = find_pool(self.pool)
        captured = self.is_mutable_collection("intermediates")
        budgets = self.k if isinstance(self.k, tuple) else (self.k,)
        needed = max(budgets) > 0 and "saliency" in pool.needs
        normed = layer_norm(self.dtype, "attention_norm", affine=False)(tokens.values)
        attended, salient = SelfAttention(
            self.num_heads,
            self.dtype,
            # The authors initialise this attention in another way than that of their blocks.
            qkv_bias_init=bounded_uniform(width**-0.5),
            out_kernel_init=nn.initializers.xavier_uniform(),
            pattern=self.pattern,
            kernel=self.kernel,
            with_saliency=needed or captured,
            name="attention",
        )(tokens.replace(values=normed))
        drop = Dropout(self.dropout, deterministic=not train)
        values = tokens.values + drop(attended, numbered(keys, 0))
        self.sow("intermediates", "attended", values)
        self.sow("intermediates", "saliency", salient)
        others = Tokens(values[:, 1:], tokens.mask[:, 1:])
        cls = values[:, 0]
        kept: dict[int, Tokens] = {}
        # The largest first, as the others may be parts of it.
        for k in sorted(budgets, reverse=True):
            if k == 0 and pool.uses_k:
                kept[k] = first_tokens(others, 0)
            elif kept and pool.nested:
                kept[k] = first_tokens(kept[max(kept)], k)
            else:
                name = f"reducer_{k}" if kept else "reducer"
                kept[k] = self._reducer(k, name)(others, salient, train=train, keys=keys)
        in_order = tuple(kept[k] for k in budgets)
        return cls, in_order if isinstance(self.k, tuple) else in_order[0]

    def _reducer(self, k: int, name: str) -> Reducer:
        return Reducer(
            self.pool, k, self.num_heads, self.reference_windows, dtype=self.dtype, name=name
        )
