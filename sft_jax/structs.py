"""The few data structures that every part of the library shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

AnyArray = jax.Array | np.ndarray

Pool = Literal[
    "max",
    "avg",
    "attn",
    "attn_topk",
    "attn_wkmedoids",
    "channel_topk",
    "random",
    "attn_random",
    "strided_random",
    "tome",
    "token_learner",
    "perceiver",
    "evit",
    "none",
]
"""The ways to cut tokens down; `sft_jax.modules.reducer.Reducer` says what each does."""

Readout = Literal["sum_cls", "fresh_cls", "modality_cls", "mean", "attention"]
"""Where the logits are read from; `sft_jax.modules.sft.SparseFusionTransformer` says more."""

Task = Literal["single_label", "multi_label", "ordinal", "regression"]
"""What is predicted: one class; any number of labels; one of ordered classes; numbers."""

MetricFamily = Literal["ranking", "sentiment"]
"""Metrics that some fields report beside those of the task."""


class Tokens(flax.struct.PyTreeNode):
    """A padded batch of token sequences and which of its tokens are real.

    Attributes:
      values: `[b, n, d]` floats. What stands at a padded position carries no meaning.
      mask: `[b, n]` booleans; False marks padding, which no result may depend on.
      sizes: `[b, n]` floats, how many tokens each was merged from; None where none was.
        Attention counts a token as that many (Bolya et al. 2023, section 3).
    """

    values: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    sizes: Float[Array, "b n"] | None = None


class Batch(flax.struct.PyTreeNode):
    """What a training or evaluation step is given.

    Attributes:
      inputs: modality name to `[b, length, features]` floats.
      masks: modality name to `[b, length]` booleans; False marks padding, and a row
        that is False throughout an example without that modality.
      labels: `[b]` class indices; for multi-label classification `[b, c]` floats, 1 where the
        example has the label and 0 where not; for regression the `[b, c]` floats to predict.
      weights: `[b]` floats; 0 marks an example that only fills up the batch.
    """

    inputs: Mapping[str, Float[AnyArray, "b _ _"]]
    masks: Mapping[str, Bool[AnyArray, "b _"]]
    labels: Int[AnyArray, " b"] | Float[AnyArray, "b c"]
    weights: Float[AnyArray, " b"]


@dataclasses.dataclass(frozen=True)
class ModalitySpec:
    """The shape of one modality's examples.

    Attributes:
      length: the most steps that an example has.
      features: numbers per step.
      patch_size: consecutive steps that make one token.

    Raises:
      ValueError: if a number is not positive, or `patch_size` exceeds `length`.
    """

    length: int
    features: int
    patch_size: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"ModalitySpec.{field.name} must be an integer >= 1, got {value!r}"
                )
        if self.patch_size > self.length:
            raise ValueError(
                f"ModalitySpec.patch_size={self.patch_size} exceeds length={self.length}"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens made from `length` steps; a last, incomplete patch counts as one."""
        return -(-self.length // self.patch_size)
