"""From the steps of a modality to tokens."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from sft_jax.modules.linear import linear
from sft_jax.structs import ModalitySpec, Tokens


def patchify(
    values: Float[Array, "b length f"], mask: Bool[Array, "b length"], patch_size: int
) -> Tokens:
    """Joins each `patch_size` consecutive steps into one token.

    Masked steps become 0, so that nothing of them, NaN included, is seen again. A token
    is real if any of its steps is.

    Returns:
      `ceil(length / patch_size)` tokens of `patch_size * f` features.
    """
    batch, length, features = values.shape
    count = -(-length // patch_size)
    short = count * patch_size - length
    values = jnp.pad(jnp.where(mask[..., None], values, 0), ((0, 0), (0, short), (0, 0)))
    mask = jnp.pad(mask, ((0, 0), (0, short)))
    return Tokens(
        values.reshape(batch, count, patch_size * features),
        mask.reshape(batch, count, patch_size).any(axis=2),
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
    def __call__(self, values: Float[Array, "b length f"], mask: Bool[Array, "b length"]) -> Tokens:
        """Returns `[b, n + 1, width]` tokens; CLS is real in every example."""
        patches = patchify(values, mask, self.spec.patch_size)
        batch, count, features = patches.values.shape
        projected = linear(features, self.width, self.dtype, "projection")(patches.values)
        normal = nn.initializers.normal(self.embedding_std)
        cls = self.param("cls", normal, (1, 1, self.width))
        position = self.param("position", normal, (1, self.spec.num_tokens + 1, self.width))
        tokens = jnp.concatenate(
            [jnp.broadcast_to(cls, (batch, 1, self.width)).astype(projected.dtype), projected],
            axis=1,
        )
        return Tokens(
            tokens + position[:, : count + 1].astype(tokens.dtype),
            jnp.pad(patches.mask, ((0, 0), (1, 0)), constant_values=True),
        )
