"""Tokenizers, which turn the positions of a modality, steps, pixels or columns, into tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from sft_jax.modules.linear import bounded_uniform, flat_dot, linear
from sft_jax.ops.modalities import is_present
from sft_jax.ops.patches import axis_strides, reduced_kernel
from sft_jax.structs import COUNTED, ModalitySpec, Tokens

_OCTAVES = 4
"""Number of frequencies of the sines of a time, each twice the one before."""


def patchify(
    values: Float[Array, "b *lengths f"],
    mask: Bool[Array, " b *lengths"],
    patch_sizes: Sequence[int],
) -> Tokens:
    """Cuts each example into patches; each patch becomes one token.

    Masked positions become 0, so that no masked value, NaN included, has an effect. A token
    is real if any of its positions is. The last patch along an axis is padded with zeros.

    Args:
      values: Values of the batch.
      mask: False marks padding.
      patch_sizes: Number of positions of a patch along each of the axes `lengths`.

    Returns:
      `prod(ceil(lengths / patch_sizes))` tokens of `prod(patch_sizes) * f` features. The patches,
      and the positions within each patch, are in row-major order.
    """
    batch, *lengths, features = values.shape
    counts = [-(-n // size) for n, size in zip(lengths, patch_sizes, strict=True)]
    fill = [(0, c * s - n) for n, c, s in zip(lengths, counts, patch_sizes, strict=True)]
    values = jnp.pad(jnp.where(mask[..., None], values, 0), [(0, 0), *fill, (0, 0)])
    mask = jnp.pad(mask, [(0, 0), *fill])
    # The axes alternate between the patch index and the position in the patch; indices go first.
    split = [n for pair in zip(counts, patch_sizes, strict=True) for n in pair]
    order = [0, *range(1, len(split) + 1, 2), *range(2, len(split) + 1, 2)]
    count, size = math.prod(counts), math.prod(patch_sizes)
    values = values.reshape(batch, *split, features).transpose(*order, len(order))
    mask = mask.reshape(batch, *split).transpose(order)
    return Tokens(
        values.reshape(batch, count, size * features),
        mask.reshape(batch, count, size).any(axis=2),
    )


def columns(values: Float[Array, "b 1 f"], mask: Bool[Array, " b 1"], patch_size: int) -> Tokens:
    """Makes one token of each group of columns; the other columns are 0 in it.

    A shared projection of these tokens has weights for each column, as in the feature tokenizer
    of Gorishniy et al. 2021 (arXiv 2106.11959); the learned positions are its biases.

    Args:
      values: Rows of the batch.
      mask: False marks examples without the modality.
      patch_size: Number of columns of a group.

    Returns:
      `ceil(f / patch_size)` tokens of `f` features.
    """
    features = values.shape[-1]
    count = -(-features // patch_size)
    own = jnp.arange(features) // patch_size == jnp.arange(count)[:, None]
    return Tokens(
        jnp.where(own & mask[..., None], values, 0),
        jnp.broadcast_to(mask, (values.shape[0], count)),
    )


class ReducedProjection(nn.Module):
    """Projection of patches by a kernel for larger ones; see `sft_jax.ops.patches`.

    Attributes:
      width: Number of features of a token.
      patch_sizes: Number of positions of a patch along each axis.
      factors: Number of patches along each axis that make a larger one.
      dtype: Type of the computation.
    """

    width: int
    patch_sizes: Sequence[int]
    factors: Sequence[int]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, values: Float[Array, "b n i"]) -> Float[Array, "b n d"]:
        """Projects patches."""
        rows = values.shape[-1] * math.prod(self.factors)
        init = bounded_uniform(rows**-0.5)
        kernel = self.param("kernel", init, (rows, self.width), jnp.float32)
        bias = self.param("bias", init, (self.width,), jnp.float32)
        kernel = reduced_kernel(kernel, self.patch_sizes, self.factors)
        values, kernel, bias = promote_dtype(values, kernel, bias, dtype=self.dtype)
        return flat_dot(values, kernel) + bias


class Tokenizer(nn.Module):
    """Projects patches to tokens, puts CLS first and adds learned positions.

    Ids are rows of a table instead of patches. An event is the sum of a row for its type, its value
    times another row for its type, and a projection of its time.

    A custom module may replace the patches. `embed(values, mask)` maps
    `[b, *lengths, features]` floats and their `[b, *lengths]` mask to `Tokens` without CLS.
    It returns 1 to `spec.num_tokens` tokens with any number of features and without sizes. Values
    at padding are set to 0 before the module, and masked tokens are set to 0 after it.

    Attributes:
      spec: Shape of the modality.
      width: Number of features of a token.
      embedding_std: Standard deviation of the initial CLS and positions.
      dtype: Type of the computation; None for the type of inputs and parameters.
      embed: Module that makes the tokens; None for patches.
      stride: Stride whose larger patches the kernel is for (`ReducedProjection`); no effect with
        `embed`.

    Raises (on `init` and `apply`):
      ValueError: If `embed` does not return such tokens.
    """

    spec: ModalitySpec
    width: int
    embedding_std: float = 1.0
    dtype: Dtype | None = None
    embed: nn.Module | None = None
    stride: int = 1

    @nn.compact
    def __call__(
        self, values: Float[Array, "b *lengths f"], mask: Bool[Array, " b *lengths"]
    ) -> Tokens:
        """Returns `[b, n + 1, width]` tokens; CLS is real where the example has the modality."""
        if self.embed is None and self.spec.kind in COUNTED:
            values = jnp.where(mask[..., None], values, 0)
            looked_up = self._events if self.spec.kind == "events" else self._ids
            return self._with_cls(looked_up(values), mask, is_present(mask))
        if self.embed is not None:
            patches = self._embedded(values, mask)
        elif self.spec.kind == "vector":
            patches = columns(values, mask, *self.spec.patch_sizes)
        else:
            patches = patchify(values, mask, self.spec.patch_sizes)
        features = patches.values.shape[-1]
        # All other features of a token of columns are 0.
        grouped = self.embed is None and self.spec.kind == "vector"
        fan_in = self.spec.patch_sizes[0] if grouped else features
        if self.stride > 1 and self.embed is None and not grouped:
            sizes, strides = self.spec.patch_sizes, axis_strides(self.spec, self.stride)
            projection: nn.Module = ReducedProjection(
                self.width, sizes, strides, self.dtype, name="projection"
            )
        else:
            projection = linear(fan_in, self.width, self.dtype, "projection")
        return self._with_cls(projection(patches.values), patches.mask, is_present(mask))

    def _ids(self, values: Float[Array, "b n 1"]) -> Float[Array, "b n d"]:
        return self._table("table")(values[..., 0].astype(jnp.int32))

    def _events(self, values: Float[Array, "b n 3"]) -> Float[Array, "b n d"]:
        """Sums the embedding of the type, a projection of the value by type, and of the time."""
        time, types, value = values[..., :1], values[..., 1].astype(jnp.int32), values[..., 2:]
        phases = jnp.pi * time * 2.0 ** jnp.arange(_OCTAVES)
        features = jnp.concatenate([time, jnp.sin(phases), jnp.cos(phases)], axis=-1)
        projected = linear(1 + 2 * _OCTAVES, self.width, self.dtype, "time")(features)
        by_type = self._table("table")(types) + self._table("scale")(types) * value
        return by_type.astype(projected.dtype) + projected

    def _table(self, name: str) -> nn.Embed:
        init = nn.initializers.normal(1.0)  # PyTorch's default.
        size = self.spec.vocabulary
        return nn.Embed(size, self.width, dtype=self.dtype, embedding_init=init, name=name)

    def _with_cls(
        self, projected: Float[Array, "b n d"], mask: Bool[Array, "b n"], present: Bool[Array, " b"]
    ) -> Tokens:
        """Puts CLS first, and adds the learned positions."""
        batch, count, _ = projected.shape
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
            jnp.concatenate([present[:, None], mask], axis=1),
        )

    def _embedded(self, values: Array, mask: Array) -> Tokens:
        """Returns the checked tokens of `embed`, set to 0 where they are masked."""
        assert self.embed is not None
        tokens = self.embed(jnp.where(mask[..., None], values, 0), mask)
        most = self.spec.num_tokens
        expected = f"Tokens with values [{mask.shape[0]}, 1 to {most}, features] and their mask"
        name = f"tokenizer {type(self.embed).__name__} of {self.name}"
        if not isinstance(tokens, Tokens):
            raise ValueError(f"{name} must return {expected}, got {type(tokens).__name__}")
        shape = tokens.values.shape
        if len(shape) != 3 or shape[0] != mask.shape[0] or not 1 <= shape[1] <= most:
            raise ValueError(f"{name} must return {expected}, got values {list(shape)}")
        if not jnp.issubdtype(tokens.values.dtype, jnp.floating):
            raise ValueError(f"{name} must return floats, got {tokens.values.dtype}")
        if tokens.mask.dtype != bool or tokens.mask.shape != shape[:2]:
            raise ValueError(
                f"{name} must return a mask of booleans {list(shape[:2])}, got"
                f" {tokens.mask.dtype} {list(tokens.mask.shape)}"
            )
        if tokens.sizes is not None:
            raise ValueError(f"{name} must return tokens with sizes=None")
        real = tokens.mask & is_present(mask)[:, None]
        return Tokens(jnp.where(real[..., None], tokens.values, 0), real)
