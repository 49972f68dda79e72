"""Data structures that every part of the library shares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

AnyArray = jax.Array | np.ndarray

MatmulPrecision = Literal["default", "high", "highest"]
"""Precision of products of float32, as in `jax.lax.Precision`."""

Readout = Literal["sum_cls", "fresh_cls", "modality_cls", "mean", "attention"]
"""Token that the logits are read from; see `sft_jax.modules.sft.SparseFusionTransformer`."""

Saliency = Literal["received", "from_cls", "learned"]
"""Numbers that pools rank or weigh tokens by; see `sft_jax.modules.sparse_pooling`."""

Task = Literal["single_label", "multi_label", "ordinal", "regression"]
"""Kind of prediction: one class; any number of labels; one of ordered classes; numbers."""

CLASS_TASKS: tuple[Task, ...] = ("single_label", "ordinal")
"""The tasks whose label is one class."""

DEFAULT_K = 4
"""Number of tokens kept of each modality by default."""

OTHERS = "others"
"""Key of a mapping of such numbers, for the modalities that it does not name."""

NotFinite = Literal["error", "zero", "mean", "drop"]
"""Treatment of NaN, infinite numbers and numbers beyond float32: refuse them; set them to 0; set
them to the mean of the finite numbers of their feature in the training split; or drop their
steps."""


Kind = Literal[
    "series",
    "image",
    "channels_first",
    "video",
    "vector",
    "embedding",
    "tokens",
    "text",
    "events",
]
"""Kind of the inputs of a modality: steps of a sequence; pixels, channels last or first; any more
axes; a row of unlike columns; vectors of another model; ids; text; rows of time, type and value
(`sft_jax.data.kinds`)."""

PATCHED: tuple[Kind, ...] = ("series", "image", "channels_first", "video", "embedding")
"""The kinds whose tokens are patches of neighbouring positions."""

IDS: tuple[Kind, ...] = ("tokens", "text")
"""The kinds whose tokens are rows of an embedding table."""

COUNTED: tuple[Kind, ...] = (*IDS, "events")
"""The kinds that have ids, of a known number."""

EXAMPLE_AXES = ("data", "fsdp")
"""Axes of a mesh that the examples of a batch are divided over."""

MOST_IDS = 2**24
"""Largest number of ids, up to which float32 tells whole numbers apart."""

_KIND_BY_AXES: Mapping[int, Kind] = {1: "series", 2: "image"}
_AXES: Mapping[Kind, int] = {
    "series": 1, "image": 2, "channels_first": 2, "vector": 1, "embedding": 1, "tokens": 1,
    "text": 1, "events": 1,
}  # fmt: skip


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


BatchAndIds = tuple[Batch, np.ndarray]
"""Batch with the ids of its examples, as strings."""


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
        For a vector, whose length is 1, the number of columns that make one token.
      kind: Kind of the inputs. The default becomes image with two axes, and video with more.
      vocabulary: Number of ids, of the kinds tokens and text, or of types, of events.

    Raises:
      ValueError: If a number is not positive, a tuple is empty, `length` and `patch_size` have
        different numbers of axes, or `patch_size` exceeds `length`. Also if the kind is unknown,
        has another number of axes, or lacks its vocabulary.
    """

    length: int | tuple[int, ...]
    features: int
    patch_size: int | tuple[int, ...] = 1
    kind: Kind = "series"
    vocabulary: int = 0

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
        self._check_kind()
        name = "features" if self.kind == "vector" else "length"
        size = getattr(self, name)
        if len(self.patch_sizes) != len(self.axes):
            raise ValueError(
                f"ModalitySpec.patch_size={self.patch_size} has {len(self.patch_sizes)} axes, but"
                f" {name}={size} has {len(self.axes)}; one number is for every axis"
            )
        if any(patch > size for size, patch in zip(self.axes, self.patch_sizes, strict=True)):
            over = f"exceeds length={size}" if name == "length" else f"exceeds features={size}"
            raise ValueError(f"ModalitySpec.patch_size={self.patch_size} {over}")

    def _check_kind(self) -> None:
        """Names the default by its number of axes, and raises ValueError for any other misfit."""
        axes = len(self.lengths)
        if self.kind == "series":
            object.__setattr__(self, "kind", _KIND_BY_AXES.get(axes, "video"))
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"ModalitySpec.kind={self.kind!r} is not one of {', '.join(get_args(Kind))}"
            )
        expected = _AXES.get(self.kind, max(axes, 3))
        if axes != expected:
            raise ValueError(
                f"ModalitySpec.kind={self.kind!r} has {expected} axes of positions, but"
                f" length={self.length} has {axes}"
            )
        if self.kind == "vector" and self.lengths != (1,):
            raise ValueError(f"ModalitySpec.length={self.length} must be 1 for kind='vector'")
        form = (3 if self.kind == "events" else 1, (1,))
        if self.kind not in COUNTED:
            if self.vocabulary:
                raise ValueError(
                    f"ModalitySpec.vocabulary={self.vocabulary} must be 0 for kind={self.kind!r}"
                )
        elif not 1 <= self.vocabulary <= MOST_IDS or (self.features, self.patch_sizes) != form:
            raise ValueError(
                f"ModalitySpec.kind={self.kind!r} needs a vocabulary from 1 to {MOST_IDS}, with"
                f" features={form[0]} and patch_size=1; got {self.vocabulary}, {self.features} and"
                f" {self.patch_size}"
            )

    @classmethod
    def from_shape(
        cls, shape: Sequence[int], patch_size: int | tuple[int, ...] = 1, **kind: Any
    ) -> ModalitySpec:
        """Makes the spec of examples of shape `(*lengths, features)`."""
        *lengths, features = shape
        length = lengths[0] if len(lengths) == 1 else tuple(lengths)
        return cls(length, features, patch_size, **kind)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values, without those that say nothing."""
        values = dataclasses.asdict(self)
        if self.kind == _KIND_BY_AXES.get(len(self.lengths), "video"):
            del values["kind"]
        if not self.vocabulary:
            del values["vocabulary"]
        return values

    @property
    def lengths(self) -> tuple[int, ...]:
        """Largest number of positions along each axis."""
        return self.length if isinstance(self.length, tuple) else (self.length,)

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        """Number of positions of a patch along each axis."""
        if isinstance(self.patch_size, tuple):
            return self.patch_size
        return (self.patch_size,) * len(self.axes)

    @property
    def axes(self) -> tuple[int, ...]:
        """Sizes of the axes that patches are cut along: columns of a vector, else `lengths`."""
        return (self.features,) if self.kind == "vector" else self.lengths

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example, `(*lengths, features)`."""
        return (*self.lengths, self.features)

    @property
    def num_statistics(self) -> int:
        """Number of means: one for each feature; of events one for the time and for each type."""
        return 1 + self.vocabulary if self.kind == "events" else self.features

    @property
    def num_tokens(self) -> int:
        """Number of patches in an example of full size."""
        pairs = zip(self.axes, self.patch_sizes, strict=True)
        return math.prod(-(-length // patch) for length, patch in pairs)


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and value >= 1
