"""The pooling step of sparse pooling, chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import flax.linen as nn
from jaxtyping import Array, Float

from sft_jax.ops import pooling
from sft_jax.ops.windows import ReferenceWindows, adaptive_windows
from sft_jax.structs import Pool, Tokens

POOLS: Sequence[str] = get_args(Pool)


class Reducer(nn.Module):
    """Cuts the tokens of each example down to `k`.

    | pool | the `k` tokens |
    | --- | --- |
    | `max` | the maximum of each feature over each of `k` windows |
    | `avg` | the mean over each of `k` windows |
    | `attn` | the mean over each of `k` windows, weighted by saliency |
    | `attn_topk` | the `k` tokens of largest saliency, unchanged |
    | `none` | all tokens |

    Attributes:
      pool: one of the above.
      k: tokens kept.
      reference_windows: take the authors' fixed windows, divisors and epsilon in place of
        `k` adaptive windows.
    """

    pool: Pool
    k: int
    reference_windows: ReferenceWindows | None = None

    @nn.compact
    def __call__(self, tokens: Tokens, saliency: Float[Array, "b n"]) -> Tokens:
        """Returns `[b, k, d]` tokens; a slot that an example has no token for is masked."""
        if self.pool == "none":
            return tokens
        if self.pool == "attn_topk":
            selected, index = pooling.select_top_k(tokens, saliency, self.k)
            self.sow("intermediates", "index", index)
            return selected
        reference = self.reference_windows
        windows = reference(tokens.mask) if reference else adaptive_windows(tokens.mask, self.k)
        if self.pool == "max":
            return pooling.window_max(tokens, windows)
        if self.pool == "avg":
            return pooling.window_mean(tokens, windows, reference.kernel if reference else None)
        epsilon = 1e-5 * reference.kernel if reference else None
        return pooling.window_weighted_mean(tokens, saliency, windows, epsilon)
