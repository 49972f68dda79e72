"""From the positions of a modality, steps or pixels, to tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from sft_jax.modules.linear import linear
from sft_jax.structs import ModalitySpec, Tokens


def patchify(
    values: Float[Array, "b *lengths f"],
    mask: Bool[Array, " b *lengths"],
    patch_sizes: Sequence[int],
) -> Tokens:
    """Cuts each example into patches, each of which becomes one token.

    Masked positions become 0, so that nothing of them, NaN included, is seen again. A token
    is real if any of its positions is. The last patch along an axis is filled with zeros.

    Args:
      values: of the batch.
      mask: False marks padding.
      patch_sizes: positions of a patch along each of the axes `lengths`.

    Returns:
      `prod(ceil(lengths / patch_sizes))` tokens of `prod(patch_sizes) * f` features: the
      patches, and the positions of each, in row-major order.
    """
    batch, *lengths, features = values.shape
    counts = [-(-n // size) for n, size in zip(lengths, patch_sizes, strict=True)]
    fill = [(0, c * s - n) for n, c, s in zip(lengths, counts, patch_sizes, strict=True)]
    values = jnp.pad(jnp.where(mask[..., None], values, 0), [(0, 0), *fill, (0, 0)])
    mask = jnp.pad(mask, [(0, 0), *fill])
    # The axes alternate between which patch and where in it: the former are put first.
    split = [n for pair in zip(counts, patch_sizes, strict=True) for n in pair]
    order = [0, *range(1, len(split) + 1, 2), *range(2, len(split) + 1, 2)]
    count, size = math.prod(counts), math.prod(patch_sizes)
    values = values.reshape(batch, *split, features).transpose(*order, len(order))
    mask = mask.reshape(batch, *split).transpose(order)
    return Tokens(
        values.reshape(batch, count, size * features),
        mask.reshape(batch, count, size).any(axis=2),
    )


class Tokenizer(nn.Module):
    """Projects patches to tokens, puts CLS first and adds learned positions.

    Attributes:
      spec: of the modality.
      width: features of a token.
      embedding_std: standard deviation that CLS and positions are drawn with.
      dtype: of the computation; None for that of inputs and parameters.
    """

    spec: ModalitySpec
    width: int
    embedding_std: float = 1.0
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, values: Float[Array, "b *lengths f"], mask: Bool[Array, " b *lengths"]
    ) -> Tokens:
        """Returns `[b, n + 1, width]` tokens; CLS is real in every example."""
        patches = patchify(values, mask, self.spec.patch_sizes)
        batch, count, features = patches.values.shape
        projected = linear(features, self.width, self.dtype, "projection")(patches.values)
        normal = nn.initializers.normal(self.embedding_std)
        cls = self.param("cls", normal, (1, 1, self.width), jnp.float32)
        position = self.param(
            "position", normal, (1, self.spec.num_tokens + 1, self.width), jnp.float32
        )
        tokens = jnp.concatenate(
            [jnp.broadcast_to(cls, (batch, 1, self.width)).astype(projected.dtype), projected],
            axis=1,
        )
        return Tokens(
            tokens + position[:, : count + 1].astype(tokens.dtype),
            jnp.pad(patches.mask, ((0, 0), (1, 0)), constant_values=True),
        )
