"""The pooling step of sparse pooling, chosen by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from sft_jax.modules.learned_pools import PerceiverPool, TokenLearner
from sft_jax.ops.noise import Keys, example_keys, gumbel
from sft_jax.ops.pool import cluster, merge, reduce, select
from sft_jax.ops.pool.windows import ReferenceWindows, Windows, adaptive_windows
from sft_jax.structs import Pool, Tokens

POOLS: Sequence[str] = get_args(Pool)
WINDOWED_POOLS = ("max", "avg", "attn", "strided_random")
"""The pools that give one token per window."""
LEARNED_POOLS = ("token_learner", "perceiver")
"""The pools that have parameters."""
SALIENT_POOLS = ("attn", "attn_topk", "attn_wkmedoids", "attn_random", "evit")
"""The pools that look at the saliency."""


class Reducer(nn.Module):
    """Cuts the tokens of each example down to `k`.

    | pool | the `k` tokens |
    | --- | --- |
    | `max` | the maximum of each feature over each of `k` windows |
    | `avg` | the mean over each of `k` windows |
    | `attn` | the mean over each of `k` windows, weighted by saliency |
    | `attn_topk` | the `k` tokens of largest saliency, unchanged |
    | `attn_wkmedoids` | the centres of `k` clusters of tokens, weighted by saliency |
    | `channel_topk` | the `k` largest values of each feature, in descending order |
    | `random` | `k` tokens drawn at random |
    | `attn_random` | `k` tokens drawn at random, with probability by saliency |
    | `strided_random` | one token drawn at random from each of `k` windows |
    | `tome` | `k` means of tokens that are alike, merged step by step, with their sizes |
    | `token_learner` | `k` means of all tokens, weighted by an MLP |
    | `perceiver` | `k` learned queries that attended to the tokens |
    | `evit` | the `k - 1` tokens of largest saliency, and the weighted mean of the rest |
    | `none` | all tokens |

    An example with fewer than `k` real tokens keeps them all; slots left over are masked. The
    learned pools, `token_learner` and `perceiver`, fill every slot of an example that has any
    real token. They alone have parameters, and each modality has its own.

    The pools that select whole tokens sow their positions, `[b, k]`, as "index" among the
    intermediates. The random ones draw from the stream "pool" in training. In evaluation
    they use one fixed draw for every example, so that neither a key nor the rest of the
    batch has any effect, unless they are given that stream there too.

    Attributes:
      pool: one of the above.
      k: tokens kept.
      num_heads: attention heads, of the pools that attend.
      reference_windows: take the authors' fixed windows, divisors and epsilon in place of
        `k` adaptive windows.
      iterations: how often `attn_wkmedoids` moves its centres.
      dtype: of the computation, of the pools that have parameters.
    """

    pool: Pool
    k: int
    num_heads: int = 1
    reference_windows: ReferenceWindows | None = None
    iterations: int = 5
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
        """Returns `[b, k, d]` tokens; a slot that an example has no token for is masked.

        Args:
          tokens: to choose from.
          saliency: of each; without effect, and not needed, but for `SALIENT_POOLS`.
          train: see above.
          keys: Key of each example by stream; by default from the stream "pool".

        Raises:
          ValueError: if a pool that looks at the saliency has none.
        """
        if saliency is None:
            if self.pool in SALIENT_POOLS:
                raise ValueError(f"pool={self.pool!r} needs the saliency of the tokens")
            dtype = jnp.promote_types(tokens.values.dtype, jnp.float32)
            saliency = jnp.ones(tokens.mask.shape, dtype)
        reference = self.reference_windows
        match self.pool:
            case "none":
                return tokens
            case "max":
                return reduce.window_max(tokens, self._windows(tokens.mask))
            case "avg":
                divisor = reference.kernel if reference else None
                return reduce.window_mean(tokens, self._windows(tokens.mask), divisor)
            case "attn":
                epsilon = 1e-5 * reference.kernel if reference else None
                windows = self._windows(tokens.mask)
                return reduce.window_weighted_mean(tokens, saliency, windows, epsilon)
            case "channel_topk":
                return select.channel_top_k(tokens, self.k)
            case "tome":
                return merge.merge_tokens(tokens, self.k)
            case "token_learner":
                return TokenLearner(self.k, self.dtype, name="token_learner")(tokens)
            case "perceiver":
                return PerceiverPool(self.k, self.num_heads, self.dtype, name="perceiver")(tokens)
            case "evit":
                return select.top_k_and_rest(tokens, saliency, self.k)
            case "attn_topk":
                kept, index = select.select_top_k(tokens, saliency, self.k)
            case "attn_wkmedoids":
                kept, index = cluster.weighted_k_medoids(tokens, saliency, self.k, self.iterations)
            case "random":
                noise = self._noise(tokens, saliency.dtype, train, keys)
                kept, index = select.draw_tokens(tokens, jnp.ones_like(saliency), noise, self.k)
            case "attn_random":
                noise = self._noise(tokens, saliency.dtype, train, keys)
                kept, index = select.draw_tokens(tokens, saliency, noise, self.k)
            case "strided_random":
                noise = self._noise(tokens, saliency.dtype, train, keys)
                kept, index = select.draw_from_windows(tokens, self._windows(tokens.mask), noise)
        self.sow("intermediates", "index", index)
        return kept

    @nn.nowrap
    def _windows(self, mask: Bool[Array, "b n"]) -> Windows:
        reference = self.reference_windows
        return reference(mask) if reference else adaptive_windows(mask, self.k)

    @nn.nowrap
    def _noise(
        self, tokens: Tokens, dtype: Dtype, train: bool, keys: Mapping[str, Keys] | None
    ) -> Float[Array, "b n"]:
        """Gumbel noise: of each example in training, one for all in evaluation."""
        batch, length = tokens.mask.shape
        # Drawn in float32 whatever the precision, so that the draw does not depend on it.
        if keys is not None and "pool" in keys:
            noise = gumbel(keys["pool"], length)
        elif train or self.has_rng("pool"):
            noise = gumbel(example_keys(self.make_rng("pool"), batch), length)
        else:
            fixed = jax.random.key(0, impl="threefry2x32")
            noise = jnp.broadcast_to(gumbel(fixed[None], length), (batch, length))
        return noise.astype(dtype)
