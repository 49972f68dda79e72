"""Reduction of tokens by a pool, the second step of sparse pooling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from sft_jax import plugins
from sft_jax.ops.noise import Keys, example_keys, fixed_gumbel, gumbel
from sft_jax.ops.pool import POOLS, Pool, find_pool
from sft_jax.ops.pool.select import weigh_tokens
from sft_jax.ops.pool.windows import ReferenceWindows, Windows, adaptive_windows
from sft_jax.structs import Tokens


class Reducer(nn.Module):
    """Reduces the tokens of each example to `k` by one of the pools of `sft_jax.ops.pool`.

    An example with fewer than `k` real tokens keeps them all; the remaining slots are masked. The
    learned pools, `token_learner` and `perceiver`, fill every slot of an example with any real
    token. Only these pools have parameters, separate for each modality.

    Pools that select whole tokens sow their positions, `[b, k]`, as "index" among the
    intermediates. Random pools draw from the stream "pool" in training. In evaluation they use
    one fixed draw for every example, so that neither a key nor the rest of the batch has any
    effect. If the stream "pool" is given in evaluation, they draw from it.

    Attributes:
      pool: Name or import path of a pool, or a `sft_jax.ops.pool.Pool`.
      k: Number of tokens kept.
      num_heads: Number of attention heads, for pools that attend.
      reference_windows: The authors' fixed windows, with the divisors and epsilon of their code,
        in place of `k` adaptive windows.
      iterations: Number of times that `attn_wkmedoids` moves its centres.
      weighted: Whether selected tokens count as their saliency in later attention
        (`sft_jax.ops.pool.select.weigh_tokens`).
      dtype: Type of the computation, for pools with parameters.
    """

    pool: str | Pool
    k: int
    num_heads: int = 1
    reference_windows: ReferenceWindows | None = None
    iterations: int = 5
    weighted: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        tokens: Tokens,
        saliency: Float[Array, "b n"] | None = None,
        *,
        train: bool = False,
        keys: Mapping[str, Keys] | None = None,
    ) -> Tokens:
        """Returns `[b, k, d]` tokens; unfilled slots are masked.

        Args:
          tokens: Tokens to reduce.
          saliency: Saliency of each token, ignored by pools that do not need it.
          train: Whether the random pools draw from the stream "pool".
          keys: Key of each example by stream; by default from the stream "pool".

        Raises:
          ValueError: If the pool is unknown or joint, lacks a saliency that it needs, or does not
            return tokens.
        """
        pool = find_pool(self.pool)
        if pool.joint:
            raise ValueError(
                f"pool={self.pool!r} reduces the tokens of all modalities together, and a Reducer"
                " those of one; allowed are pools that are not joint"
            )
        if pool.module is not None:
            return checked(self.pool, self._learned(pool)(tokens))
        assert pool.function is not None
        needs: dict[str, Any] = {}
        if "saliency" in pool.needs:
            if saliency is None:
                raise ValueError(f"pool={self.pool!r} needs the saliency of the tokens")
            needs["saliency"] = saliency
        if "windows" in pool.needs:
            needs["windows"] = self._windows(tokens.mask)
        if "noise" in pool.needs:
            needs["noise"] = self._noise(tokens, train, keys)
        if "iterations" in pool.needs:
            needs["iterations"] = self.iterations
        kept = pool.function(tokens, self.k, **needs)
        if isinstance(kept, tuple):
            kept, index = kept
            self.sow("intermediates", "index", index)
            if self.weighted and saliency is not None:
                kept = weigh_tokens(checked(self.pool, kept), index, [tokens], [saliency])
        return checked(self.pool, kept)

    @nn.nowrap
    def _learned(self, pool: Pool) -> nn.Module:
        """Makes the module of a pool with parameters."""
        kind = plugins.load(pool.module, "module") if isinstance(pool.module, str) else pool.module
        accepted = {field.name for field in dataclasses.fields(kind)}
        attributes = {"k": self.k, "num_heads": self.num_heads, "dtype": self.dtype}
        attributes = {name: value for name, value in attributes.items() if name in accepted}
        known = isinstance(self.pool, str) and self.pool in POOLS
        module: nn.Module = kind(**attributes, name=self.pool if known else "learned")
        return module

    @nn.nowrap
    def _windows(self, mask: Bool[Array, "b n"]) -> Windows:
        reference = self.reference_windows
        return reference(mask) if reference else adaptive_windows(mask, self.k)

    @nn.nowrap
    def _noise(
        self, tokens: Tokens, train: bool, keys: Mapping[str, Keys] | None
    ) -> Float[Array, "b n"]:
        """Draws Gumbel noise: independent per example in training, one fixed draw in evaluation."""
        batch, length = tokens.mask.shape
        # Noise is always drawn in float32, so that the draw does not depend on the precision.
        if keys is not None and "pool" in keys:
            noise = gumbel(keys["pool"], length)
        elif train or self.has_rng("pool"):
            noise = gumbel(example_keys(self.make_rng("pool"), batch), length)
        else:
            noise = jnp.broadcast_to(fixed_gumbel(length), (batch, length))
        return noise.astype(jnp.promote_types(tokens.values.dtype, jnp.float32))


def checked(pool: str | Pool, kept: Any) -> Tokens:
    """Returns the result of a pool; raises ValueError unless it is tokens."""
    if not isinstance(kept, Tokens):
        raise ValueError(
            f"pool={pool!r} must return sft_jax.Tokens, or Tokens and their positions,"
            f" got {type(kept).__name__}"
        )
    return kept
