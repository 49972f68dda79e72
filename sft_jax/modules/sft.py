"""The Sparse Fusion Transformer (Ding et al. 2021, arXiv 2111.11992)."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sft_jax.modules.multimodal import MultimodalClassifier, join, sum_over_present
from sft_jax.modules.reducer import POOLS, WINDOWED_POOLS
from sft_jax.modules.sparse_pooling import SparsePooling
from sft_jax.ops.block_sparse import BlockSparsePattern
from sft_jax.ops.windows import ReferenceWindows
from sft_jax.structs import AnyArray, Pool, Tokens


class SparseFusionTransformer(MultimodalClassifier):
    """Classifies examples of one or more modalities from a few tokens of each.

    Each modality is tokenized and passes through `n_pre` blocks of its own and one more
    self-attention; its tokens are then pooled to `k`. The sum of the modalities' CLS tokens
    and all pooled tokens pass through `n_post` shared blocks, and the CLS is classified.

    Nothing that a mask marks as padding has any effect. A modality that is masked
    throughout an example, or that is left out of `inputs`, adds nothing to its CLS sum and
    no pooled token: the two give the same logits.

    Attributes:
      pool: how tokens are cut down; see `Reducer`.
      k: tokens kept of each modality, in all or by name; no effect with pool `none`.
      reference_windows: by name, the authors' fixed windows in place of adaptive ones.
      pre_pooling_pattern: which tokens each attends to in the self-attention before pooling;
        None, the default, for all. The authors announce a sparse attention there and set up
        that of fairseq, but the pattern, which is `BlockSparsePattern()`, is never applied:
        what their code computes is dense. Up to 33 tokens, CLS included, the pattern is
        dense too.

    See `MultimodalClassifier` for the others.
    """

    pool: Pool = "attn_topk"
    k: int | Mapping[str, int] = 4
    reference_windows: Mapping[str, ReferenceWindows] | None = None
    pre_pooling_pattern: BlockSparsePattern | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b c"]:
        """Computes the logits.

        Args:
          inputs: modality name to `[b, length, features]` floats; `length` may be less
            than the modality's, never more.
          masks: modality name to `[b, length]` booleans, False for padding; a modality
            without an entry has no padding.
          train: applies dropout, drawn from the random stream "dropout", and has the
            random pools draw from the stream "pool" rather than always the same tokens.

        Returns:
          `[b, num_classes]` logits. Applied with `mutable=["intermediates"]` and
          `capture_intermediates=True`, every tensor on the way can be had as well.
        """
        masks = self._check(inputs, masks)
        cls, pooled = [], []
        for name, tokens in self._tokenize_all(inputs, masks).items():
            for i in range(self.n_pre):
                tokens = self._block(f"unimodal_{name}_{i}")(tokens, train=train)
            of_modality, kept = SparsePooling(
                pool=self.pool,
                k=self._kept_tokens()[name],
                reference_windows=(self.reference_windows or {}).get(name),
                num_heads=self.num_heads,
                dropout=self.dropout,
                dtype=self.dtype,
                pattern=self.pre_pooling_pattern,
                name=f"pooling_{name}",
            )(tokens, train=train)
            cls.append(of_modality)
            pooled.append(kept)
        summed = sum_over_present(cls, [masks[name].any(axis=1) for name in sorted(inputs)])
        real = jnp.ones((summed.shape[0], 1), bool)
        tokens = join(Tokens(summed[:, None], real), *pooled)
        self.sow("intermediates", "fused_input", tokens)
        for i in range(self.n_post):
            tokens = self._block(f"fused_{i}")(tokens, train=train)
        self.sow("intermediates", "cls", tokens.values[:, 0])
        return self._head()(tokens.values[:, 0])

    def _kept_tokens(self) -> Mapping[str, int]:
        return dict.fromkeys(self.modalities, self.k) if isinstance(self.k, int) else self.k

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.pool not in POOLS:
            problems.append(f"pool={self.pool!r} is not one of {', '.join(POOLS)}")
        if unknown := sorted(set(fixed := self.reference_windows or {}) - set(self.modalities)):
            problems.append(
                f"reference_windows names {unknown}, the modalities are {sorted(self.modalities)}"
            )
        if set(kept := self._kept_tokens()) != set(self.modalities):
            problems.append(f"k names {sorted(kept)}, the modalities are {sorted(self.modalities)}")
        elif self.pool != "none":
            problems += [
                f"k={kept[name]} for modality {name!r}, which has {spec.num_tokens} tokens"
                f" to choose from: k must be from 1 to {spec.num_tokens}"
                for name, spec in self.modalities.items()
                if (name not in fixed or self.pool not in WINDOWED_POOLS)
                and not 1 <= kept[name] <= spec.num_tokens
            ]
        return problems
