"""The Sparse Fusion Transformer in two parts, to fuse several budgets of one forward pass.

Both parts have the parameters of the original model. The part before fusion is computed once for
all budgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import flax.linen as nn
from jaxtyping import Array, Float

from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.ops.mixup import Mixup
from sft_jax.structs import AnyArray, Tokens

Part = TypeVar("Part", bound=SparseFusionTransformer)


class Trunk(SparseFusionTransformer):
    """Part before fusion: tokenizers, blocks of each modality, and pooling to each budget.

    Attributes:
      budgets: Numbers of tokens kept of each modality, all different; `k` has no effect.

    See `SparseFusionTransformer` for the other attributes.
    """

    budgets: tuple[int, ...] = ()

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
        mixup: Mixup | None = None,
    ) -> tuple[Tokens, dict[int, dict[str, Tokens]]]:
        """Computes the CLS tokens that enter fusion, and the pooled tokens by budget.

        Args:
          inputs: Inputs by modality, as in `SparseFusionTransformer`.
          masks: Masks by modality.
          train: Whether to apply dropout.
          mixup: Mixup.
        """
        with self._products():
            streams = self._make_streams(inputs, masks)
            entering, pooled = self._pool_streams(streams, train=train, mixup=mixup)
        return entering, {
            k: {name: kept[i] for name, kept in pooled.items()} for i, k in enumerate(self.budgets)
        }

    def _budgets(self, name: str) -> tuple[int, ...]:
        return self.budgets


class Fusion(SparseFusionTransformer):
    """Part from fusion on: fused blocks and head, with `SparseFusionTransformer`'s attributes."""

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        entering: Tokens,
        pooled: Mapping[str, Tokens],
        *,
        train: bool = False,
        mixup: Mixup | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits of one budget.

        Args:
          entering: CLS tokens of `Trunk`.
          pooled: Pooled tokens of one of its budgets, by modality.
          train: Whether to apply dropout.
          mixup: Mixup.
        """
        with self._products():
            return self._classify(entering, pooled, train=train, mixup=mixup)


def part(kind: type[Part], model: SparseFusionTransformer, **attributes: Any) -> Part:
    """Makes a part of a model, with the attributes of the model and further ones.

    Args:
      kind: Class of the part, `Trunk` or `Fusion`.
      model: Original model.
      **attributes: Further attributes of the part.
    """
    fields = [field.name for field in dataclasses.fields(SparseFusionTransformer) if field.init]
    shared = {name: getattr(model, name) for name in fields if name not in ("parent", "name")}
    return kind(**shared, **attributes)
