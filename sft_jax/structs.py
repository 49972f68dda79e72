"""Data structures that every part of the library shares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

AnyArray = jax.Array | np.ndarray

Readout = Literal["sum_cls", "fresh_cls", "modality_cls", "mean", "attention"]
"""Token that the logits are read from; see `sft_jax.modules.sft.SparseFusionTransformer`."""

Task = Literal["single_label", "multi_label", "ordinal", "regression"]
"""Kind of prediction: one class; any number of labels; one of ordered classes; numbers."""

CLASS_TASKS: tuple[Task, ...] = ("single_label", "ordinal")
"""The tasks whose label is one class."""

NotFinite = Literal["error", "zero", "mean", "drop"]
"""Treatment of NaN, infinite numbers and numbers beyond float32: refuse them; set them to 0; set
them to the mean of the finite numbers of their feature in the training split; or drop their
steps."""


class Tokens(flax.struct.PyTreeNode):
    """Padded batch of token sequences, with a mask of the real tokens.

    Attributes:
      values: `[b, n, d]` floats. Values at padding have no meaning.
      mask: `[b, n]` booleans; False marks padding, which must not affect any result. If CLS
        comes first, its mask is True where the example has the modality.
      sizes: `[b, n]` floats, the number of tokens merged into each token; None without merging.
        Attention counts a token as this many tokens (Bolya et al. 2023, section 3).
    """

    values: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    sizes: Float[Array, "b n"] | None = None


class Batch(flax.struct.PyTreeNode):
    """Inputs and labels of a training or evaluation step.

    Attributes:
      inputs: `[b, *lengths, features]` floats by modality.
      masks: `[b, *lengths]` booleans by modality; False marks padding, and a mask that is False
        throughout an example stands for an example without that modality.
      labels: `[b]` class indices; for multi-label classification `[b, c]` floats, 1 where the
        example has the label and 0 elsewhere; for regression the `[b, c]` floats to predict.
      weights: `[b]` floats; 0 marks an example that only pads the batch.
    """

    inputs: Mapping[str, Float[AnyArray, "b _ ... _"]]
    masks: Mapping[str, Bool[AnyArray, "b _ ..."]]
    labels: Int[AnyArray, " b"] | Float[AnyArray, "b c"]
    weights: Float[AnyArray, " b"]


@dataclasses.dataclass(frozen=True)
class ModalitySpec:
    """Shape of the examples of one modality: sequences, images, videos.

    `ModalitySpec(200, 3, patch_size=10)` is a sequence of up to 200 steps, with ten steps per
    token. `ModalitySpec((28, 28), 1, patch_size=4)` is an image of 28 x 28 grey pixels, whose
    tokens are patches of 4 x 4.

    Attributes:
      length: Largest number of steps of a sequence. For images, videos and other shapes a tuple
        of the sizes along all axes; a list becomes a tuple.
      features: Number of values at each position, such as channels of a pixel.
      patch_size: Number of consecutive positions that make one token: a tuple or list with a
        number for each axis, or one number for every axis. An incomplete last patch counts as one.

    Raises:
      ValueError: If a number is not positive, a tuple is empty, `length` and `patch_size` have
        different numbers of axes, or `patch_size` exceeds `length`.
    """

    length: int | tuple[int, ...]
    features: int
    patch_size: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        for name in ("length", "patch_size"):
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, name, value)  # The dataclass is frozen.
            sizes = value if isinstance(value, tuple) and value else (value,)
            if not all(map(_is_positive_integer, sizes)):
                raise ValueError(
                    f"ModalitySpec.{name} must be an integer >= 1, or a tuple of one for each"
                    f" axis, got {value!r}"
                )
        if not _is_positive_integer(self.features):
            raise ValueError(
                f"ModalitySpec.features must be an integer >= 1, got {self.features!r}"
            )
        if len(self.patch_sizes) != len(self.lengths):
            raise ValueError(
                f"ModalitySpec.patch_size={self.patch_size} has {len(self.patch_sizes)} axes, but"
                f" length={self.length} has {len(self.lengths)}; one number is for every axis"
            )
        if any(patch > size for size, patch in zip(self.lengths, self.patch_sizes, strict=True)):
            raise ValueError(
                f"ModalitySpec.patch_size={self.patch_size} exceeds length={self.length}"
            )

    @classmethod
    def from_shape(
        cls, shape: Sequence[int], patch_size: int | tuple[int, ...] = 1
    ) -> ModalitySpec:
        """Makes the spec of examples of shape `(*lengths, features)`."""
        *lengths, features = shape
        return cls(lengths[0] if len(lengths) == 1 else tuple(lengths), features, patch_size)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Largest number of positions along each axis."""
        return self.length if isinstance(self.length, tuple) else (self.length,)

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        """Number of positions of a patch along each axis."""
        if isinstance(self.patch_size, tuple):
            return self.patch_size
        return (self.patch_size,) * len(self.lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example, `(*lengths, features)`."""
        return (*self.lengths, self.features)

    @property
    def num_tokens(self) -> int:
        """Number of patches in an example of full size."""
        pairs = zip(self.lengths, self.patch_sizes, strict=True)
        return math.prod(-(-length // patch) for length, patch in pairs)


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and value >= 1
