"""Sparse pooling: self-attention over a modality, then pooling of its tokens to a few."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from sft_jax.modules.attention import AttentionPattern, SelfAttention
from sft_jax.modules.dropout import Dropout, numbered
from sft_jax.modules.linear import bounded_uniform, layer_norm
from sft_jax.modules.reducer import Reducer, checked
from sft_jax.modules.scorer import Scorer
from sft_jax.ops.attention import kernels
from sft_jax.ops.attention.kernels import Kernel
from sft_jax.ops.modalities import first_tokens, join
from sft_jax.ops.noise import Keys
from sft_jax.ops.pool import Pool, find_pool
from sft_jax.ops.pool.select import weigh_tokens
from sft_jax.ops.pool.windows import ReferenceWindows
from sft_jax.structs import Saliency, Tokens


@dataclasses.dataclass(frozen=True)
class NoAttention:
    """Absence of the attention before pooling: tokens enter the pool as the blocks leave them."""


class Candidates(NamedTuple):
    """Tokens of one modality that a joint pool selects from.

    Attributes:
      tokens: Tokens without CLS.
      saliency: `[b, n]` saliency of each token; None if the pool does not need it.
    """

    tokens: Tokens
    saliency: Float[Array, "b n"] | None


class SparsePooling(nn.Module):
    """Self-attention over one modality, then pooling of its tokens to a few.

    | `saliency` | of a token |
    | --- | --- |
    | `received` | the attention that it receives from the other tokens (Ding et al. 2021) |
    | `from_cls` | the attention that CLS pays to it (EViT, Liang et al. 2022) |
    | `learned` | a softmax of learned scores (`sft_jax.modules.scorer.Scorer`) |

    A gradient reaches learned scores through the weights of a mean, as in the pools `attn` and
    `evit`. With pools that return the positions of their tokens, it passes through the share that
    these tokens have in later attention (`sft_jax.ops.pool.select.weigh_tokens`).

    Attributes:
      num_heads: Number of attention heads.
      pool: See `Reducer`.
      k: Number of tokens kept; 0 for CLS alone. A tuple of several pools once for each.
      reference_windows: See `Reducer`.
      dropout: Rate of dropout of the residual branch.
      dtype: Type of the computation.
      pattern: Keys that each query sees; None for all. With `NoAttention()` none is computed, and
        a pool can't take the saliency of attention.
      kernel: Attention kernel; see `SelfAttention`.
      saliency: One of the saliencies above.
    """

    num_heads: int
    pool: str | Pool
    k: int | tuple[int, ...]
    reference_windows: ReferenceWindows | None = None
    dropout: float = 0.0
    dtype: Dtype | None = None
    pattern: AttentionPattern | NoAttention | None = None
    kernel: str | Kernel = kernels.AUTO
    saliency: Saliency = "received"

    @nn.compact
    def __call__(
        self, tokens: Tokens, *, train: bool = False, keys: Mapping[str, Keys] | None = None
    ) -> tuple[Float[Array, "b d"], Any]:
        """Takes tokens with CLS first; returns CLS and the pooled others, a tuple for several `k`.

        With a joint pool, the others are returned as `Candidates`.

        Args:
          tokens: Tokens of the batch, CLS first.
          train: Whether to apply dropout, and to draw tokens in the random pools.
          keys: Key of each example by stream; by default from "dropout" and "pool".
        """
        pool = find_pool(self.pool)
        captured = self.is_mutable_collection("intermediates")
        budgets = self.k if isinstance(self.k, tuple) else (self.k,)
        needed = max(budgets) > 0 and "saliency" in pool.needs
        own = self.saliency if self.saliency != "learned" and (needed or captured) else None
        values, salient = self._attend(tokens, own, train=train, keys=keys)
        self.sow("intermediates", "attended", values)
        others = Tokens(values[:, 1:], tokens.mask[:, 1:])
        if self.saliency == "learned":
            # A pool with noise of its own explores by itself.
            noisy = train and "noise" not in pool.needs
            salient = Scorer(self.dtype, name="scorer")(others, noisy=noisy, keys=keys)
        self.sow("intermediates", "saliency", salient)
        cls = values[:, 0]
        if pool.joint:
            return cls, Candidates(others, salient)

        def reduce(k: int, name: str) -> Tokens:
            if k == 0 and pool.uses_k:
                return first_tokens(others, 0)
            return self._reducer(k, name)(others, salient, train=train, keys=keys)

        return cls, _at_budgets(self.k, pool, reduce)

    def _attend(
        self,
        tokens: Tokens,
        saliency: Literal["received", "from_cls"] | None,
        *,
        train: bool,
        keys: Mapping[str, Keys] | None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b k"] | None]:
        """Returns the tokens after attention, and the saliency of those after CLS, if any."""
        if isinstance(self.pattern, NoAttention):
            return tokens.values, jnp.zeros(tokens.mask[:, 1:].shape) if saliency else None
        normed = layer_norm(self.dtype, "attention_norm", affine=False)(tokens.values)
        attended, salient = SelfAttention(
            self.num_heads,
            self.dtype,
            # The authors initialise this attention in another way than that of their blocks.
            qkv_bias_init=bounded_uniform(tokens.values.shape[-1] ** -0.5),
            out_kernel_init=nn.initializers.xavier_uniform(),
            pattern=self.pattern,
            kernel=self.kernel,
            saliency=saliency,
            name="attention",
        )(tokens.replace(values=normed))
        drop = Dropout(self.dropout, deterministic=not train)
        return tokens.values + drop(attended, numbered(keys, 0)), salient

    def _reducer(self, k: int, name: str) -> Reducer:
        return Reducer(
            self.pool,
            k,
            self.num_heads,
            self.reference_windows,
            weighted=self.saliency == "learned",
            dtype=self.dtype,
            name=name,
        )


class JointPooling(nn.Module):
    """Pooling of the tokens of all modalities together, by a joint pool.

    Positions of the kept tokens in the concatenation, `[b, k]`, are sown as "index" among the
    intermediates if the pool returns them.

    Attributes:
      pool: Pool whose `joint` is True, or its name.
      k: Number of tokens kept of all modalities together. A tuple of several pools once for each.
      weighted: See `Reducer`.
    """

    pool: str | Pool
    k: int | tuple[int, ...]
    weighted: bool = False

    @nn.compact
    def __call__(
        self, candidates: Sequence[Candidates], cls: Tokens
    ) -> Tokens | tuple[Tokens, ...]:
        """Returns the pooled tokens, a tuple for several `k`.

        Args:
          candidates: Tokens of each modality with their saliency.
          cls: CLS tokens `[b, m, d]` of the modalities.
        """
        pool = find_pool(self.pool)
        tokens = [own.tokens for own in candidates]
        saliency: Any = [own.saliency for own in candidates]
        needs = {"saliency": saliency} if pool.needs else {}

        def reduce(k: int, name: str) -> Tokens:
            if k == 0:
                return first_tokens(join(*tokens), 0)
            assert pool.function is not None
            kept = pool.function(tokens, k, cls=cls, **needs)
            if isinstance(kept, tuple):
                kept, index = kept
                self.sow("intermediates", "index", index)
                if self.weighted:
                    kept = weigh_tokens(checked(self.pool, kept), index, tokens, saliency)
            return checked(self.pool, kept)

        return _at_budgets(self.k, pool, reduce)


def _at_budgets(
    k: int | tuple[int, ...], pool: Pool, reduce: Callable[[int, str], Tokens]
) -> Tokens | tuple[Tokens, ...]:
    """Pools once for each budget, or takes parts of the largest if the pool is nested.

    Args:
      k: Number of kept tokens, or several.
      pool: Pool.
      reduce: Function from a number of kept tokens, and a name for its module, to the tokens.
    """
    budgets = k if isinstance(k, tuple) else (k,)
    kept: dict[int, Tokens] = {}
    # The largest first, as the others may be parts of it.
    for own in sorted(budgets, reverse=True):
        if kept and pool.nested:
            kept[own] = first_tokens(kept[max(kept)], own)
        else:
            kept[own] = reduce(own, f"reducer_{own}" if kept else "reducer")
    in_order = tuple(kept[own] for own in budgets)
    return in_order if isinstance(k, tuple) else in_order[0]
