"""Sizes of a model as a C file: its buffers, and its multiplications."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from sft_jax.modules.reducer import Reducer
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.ops.pool import find_pool


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that the buffers of the C code are made by.

    Attributes:
      width: Number of features of a token.
      hidden: Number of features of the hidden layer of an MLP.
      heads: Number of attention heads.
      axes: Largest number of axes of a modality.
      blocks: Number of blocks of each modality.
      fused_blocks: Number of blocks from fusion on.
      tokens: Number of tokens of the modality that has most, without CLS.
      fused: Largest number of tokens in fusion.
      patch: Largest number of values of a patch.
      by_token: Number of 4-byte numbers that the pool stores for each token of a modality.
      least_k: Least number of tokens kept of all modalities together.
      from_cls: Whether saliency is the attention of CLS, not that of the other tokens.
      steps: Largest length of a series that the file summarises; 0 if there is none.
      statistics: Largest number of statistics of such a series.
    """

    width: int
    hidden: int
    heads: int
    axes: int
    blocks: int
    fused_blocks: int
    tokens: int
    fused: int
    patch: int
    by_token: int
    least_k: int
    from_cls: bool
    steps: int
    statistics: int

    @classmethod
    def from_model(
        cls, model: SparseFusionTransformer, sources: Mapping[str, str] | None = None
    ) -> Sizes:
        """Computes the sizes of a model.

        Args:
          model: Model.
          sources: Name of each modality that the file computes to its source.
        """
        specs = model.modalities.values()
        read = [model.modalities[source] for source in (sources or {}).values()]
        pool = find_pool(model.pool)
        return cls(
            width=model.width,
            hidden=model.mlp_ratio * model.width,
            heads=model.num_heads,
            axes=max(len(spec.lengths) for spec in specs),
            blocks=model.n_pre,
            fused_blocks=model.n_post,
            tokens=max(spec.num_tokens for spec in specs),
            fused=_entering(model) + sum(spec.num_tokens for spec in specs),
            patch=max(math.prod(spec.patch_sizes) * spec.features for spec in specs),
            # The saliency, and beside it centres and clusters.
            by_token=sum({"saliency": 1, "iterations": 2}.get(n, 0) for n in pool.needs),
            # With a fresh CLS alone nothing of the inputs would reach fusion.
            least_k=int(model.readout == "fresh_cls" and model.pool != "none"),
            from_cls=model.saliency == "from_cls",
            steps=max((spec.lengths[0] for spec in read), default=0),
            statistics=max((model.modalities[n].features for n in sources or {}), default=0),
        )

    @property
    def sequence(self) -> int:
        """Largest number of tokens that attend to each other."""
        return max(self.tokens + 1, self.fused)

    @property
    def ram_bytes(self) -> int:
        """Size of the static buffers of `parts`; each number takes 4 bytes."""
        streams = (self.tokens + 1 + self.fused + 2 * self.sequence) * self.width
        by_token = self.sequence + self.tokens * (1 + self.by_token)
        summary = self.steps + self.statistics
        vectors = 2 * self.width + self.hidden
        return 4 * (streams + by_token + self.patch + vectors + summary)

    def defines(self) -> str:
        """Sizes as C macros."""
        values = {
            "WIDTH": self.width,
            "HIDDEN": self.hidden,
            "HEADS": self.heads,
            "HEAD": "(WIDTH / HEADS)",
            "AXES": self.axes,
            "BLOCKS": self.blocks,
            "FUSED_BLOCKS": self.fused_blocks,
            "MOST_TOKENS": self.tokens,
            "MOST_FUSED": self.fused,
            "MOST_SEQUENCE": self.sequence,
            "MOST_PATCH": self.patch,
            "LEAST_K": self.least_k,
            "FROM_CLS": int(self.from_cls),
            "MEDOID_STEPS": Reducer.iterations,
            "MOST_STEPS": self.steps,
            "MOST_STATISTICS": self.statistics,
        }
        return "".join(f"#define {name} {value}\n" for name, value in values.items()) + "\n"


def multiply_accumulates(model: SparseFusionTransformer, kept: Mapping[str, int]) -> int:
    """Counts the multiplications and additions of matrix products, for an example of full length.

    Args:
      model: Model.
      kept: Number of tokens kept of each modality.
    """
    width, total = model.width, 0
    fused = _entering(model)
    for name, spec in model.modalities.items():
        count = spec.num_tokens
        total += count * math.prod(spec.patch_sizes) * spec.features * width
        total += model.n_pre * _block(count + 1, count + 1, width, model.mlp_ratio)
        total += _attention(count + 1, count + 1, width)
        fused += count if model.pool == "none" else min(count, kept[name])
    read = {"modality_cls": _entering(model), "mean": fused, "attention": fused}
    for i in range(model.n_post):
        last = i == model.n_post - 1
        queries = read.get(model.readout, 1) if last else fused
        total += _block(fused, queries, width, model.mlp_ratio)
    if model.readout == "attention":
        total += 2 * fused * model.num_heads * width + 2 * width * width
    return total + width * (1 if model.task == "ordinal" else model.num_classes)


def _entering(model: SparseFusionTransformer) -> int:
    """Number of tokens that enter fusion beside the pooled ones."""
    return len(model.modalities) if model.readout == "modality_cls" else 1


def _attention(count: int, queries: int, width: int) -> int:
    """Multiplications of attention of the first `queries` of `count` tokens."""
    return 2 * count * width**2 + queries * (2 * width**2 + 2 * count * width)


def _block(count: int, queries: int, width: int, mlp_ratio: int) -> int:
    return _attention(count, queries, width) + 2 * queries * mlp_ratio * width**2
