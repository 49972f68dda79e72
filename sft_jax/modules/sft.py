"""The Sparse Fusion Transformer (Ding et al. 2021, arXiv 2111.11992)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sft_jax.modules.attention import AttentionPattern, pattern_for
from sft_jax.modules.block import Block
from sft_jax.modules.learned_pools import PerceiverPool
from sft_jax.modules.multimodal import MultimodalClassifier, presence
from sft_jax.modules.sparse_pooling import JointPooling, NoAttention, SparsePooling
from sft_jax.ops.mixup import Mixup
from sft_jax.ops.modalities import join, sum_over_present
from sft_jax.ops.pool import Pool, attention_problem, find_pool, saliency_problem
from sft_jax.ops.pool.reduce import masked_mean
from sft_jax.ops.pool.select import channel_top_k
from sft_jax.ops.pool.windows import ReferenceWindows
from sft_jax.structs import Readout, Saliency, Tokens

READOUTS: Sequence[str] = get_args(Readout)
SALIENCIES: Sequence[str] = get_args(Saliency)

_MIN_BLOCKS_TO_SCAN = 4
"""Least number of equal blocks that are compiled as a loop."""


class SparseFusionTransformer(MultimodalClassifier):
    """Transformer that fuses a few tokens of each modality.

    Each modality is tokenized and passes through `n_pre` blocks of its own and one more
    self-attention; its tokens are then pooled to `k`. The sum of the modalities' CLS tokens
    and all pooled tokens pass through `n_post` shared blocks, and the CLS is classified.
    `readout` offers alternatives to the sum:

    | readout | tokens that enter fusion with the pooled ones | token that is classified |
    | --- | --- | --- |
    | `sum_cls` | the sum of the modalities' CLS tokens | that token |
    | `fresh_cls` | one learned token | that token |
    | `modality_cls` | the CLS of each modality | the mean of those tokens |
    | `mean` | as `sum_cls` | the mean of all fused tokens |
    | `attention` | as `sum_cls` | the result of a learned query that attends to them |

    Padding has no effect. A modality that is masked throughout an example adds nothing to the
    sum of CLS tokens, and no pooled token. Leaving it out of `inputs` gives the same logits.

    The parameters of all fused blocks except the last are stacked along a first axis under the
    name `fused`; the last block is `fused_last`.

    Attributes:
      pool: Name or import path of a pool of `sft_jax.ops.pool`, or a `Pool`.
      k: Number of tokens kept of each modality, for all or by name; no effect with pool `none`.
        With 0 no token is kept, and the CLS tokens alone represent the modality. With
        `joint_topk` their sum is one budget for all modalities together. A trained model
        takes another `k` with the same parameters (`sft_jax.modules.budget.with_budget`).
      readout: One of the readouts above.
      reference_windows: The authors' fixed windows in place of adaptive ones, by name.
      reference_fusion_layer: Number of tokens of the authors' optional fusion layer; None for no
        such layer. Their code never uses its parameters. The CLS sum is tripled and, with
        `channel_topk`, each modality is pooled again to this number of tokens. It requires the
        pool `max`, `avg` or `channel_topk`; the authors' code fails with others.
      unimodal_pattern: Keys that each query sees in the blocks of a modality; None for all. A
        `WindowPattern` makes their cost linear in the number of tokens. A modality whose full
        length is so short that the pattern would save nothing stays dense.
      pre_pooling_pattern: Keys that each query sees in the self-attention before pooling; None for
        all. The authors describe a sparse attention here, `BlockSparsePattern()`, and configure
        the one of fairseq. Their code never applies the pattern and computes dense attention. Up
        to 33 tokens, CLS included, the pattern is dense too. `NoAttention()` leaves this attention
        out (`sft_jax.modules.sparse_pooling`); then a pool can take no saliency except learned.
      saliency: Saliency that the pool ranks or weighs tokens by: received, from_cls or learned
        (`sft_jax.modules.sparse_pooling.SparsePooling`). Only a pool that needs it takes another
        than received. In training learned draws from the stream "pool".

    See `MultimodalClassifier` for the other attributes.
    """

    pool: str | Pool = "attn_topk"
    k: int | Mapping[str, int] = 4
    readout: Readout = "sum_cls"
    reference_windows: Mapping[str, ReferenceWindows] | None = None
    reference_fusion_layer: int | None = None
    unimodal_pattern: AttentionPattern | None = None
    pre_pooling_pattern: AttentionPattern | NoAttention | None = None
    saliency: Saliency = "received"

    @property
    def shared_from(self) -> int | None:
        """First fused layer; None if the CLS of each modality is classified."""
        return None if self.readout == "modality_cls" else self.n_pre

    def compute_logits(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits; see `MultimodalClassifier`."""
        entering, pooled = self._pool_streams(streams, train=train, mixup=mixup)
        return self._classify(entering, pooled, train=train, mixup=mixup)

    def _pool_streams(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> tuple[Tokens, dict[str, Any]]:
        """Computes all before fusion: its CLS tokens, and the pooled tokens by modality.

        Those of a joint pool have the name "all".
        """
        for i in range(self.n_pre):
            streams = self.unimodal_blocks(i, streams, train=train)
            if mixup is not None:
                streams = mixup.streams(i, streams)
        cls, pooled = [], {}
        for name, tokens in streams.items():
            if name in (self.reference_windows or {}):
                tokens = self._fill(name, tokens)
            token, pooled[name] = self._in_groups(self._sparse_pooling(name), tokens, train=train)
            cls.append(token)
        present = presence(streams)
        if find_pool(self.pool).joint:
            together = Tokens(jnp.stack(cls, axis=1), jnp.stack(present, axis=1))
            weighted = self.saliency == "learned"
            joint = JointPooling(self.pool, self._joint_budgets(), weighted, name="joint_pooling")
            pooled = {"all": joint([*pooled.values()], together)}
        return self._entering(cls, present), pooled

    def _classify(
        self, entering: Tokens, pooled: Mapping[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits from the results of `_pool_streams`."""
        kept = [self._reference_pooled_again(name, tokens) for name, tokens in pooled.items()]
        tokens = join(entering, *kept)
        self.sow("intermediates", "fused_input", tokens)
        count = entering.mask.shape[1]
        tokens = self._fuse(tokens, count, train=train, mixup=mixup)
        token = self._read_out(tokens, count)
        self.sow("intermediates", "cls", token)
        return self.make_head()(token)

    def _sparse_pooling(self, name: str) -> SparsePooling:
        return SparsePooling(
            pool=self.pool,
            # A modality without a share of its own may give tokens to a joint pool.
            k=self._joint_budgets() if find_pool(self.pool).joint else self._budgets(name),
            reference_windows=(self.reference_windows or {}).get(name),
            num_heads=self.num_heads,
            dropout=self.dropout,
            dtype=self.dtype,
            pattern=pattern_for(self.pre_pooling_pattern, self.modalities[name].num_tokens),
            kernel=self.attention_kernel,
            saliency=self.saliency,
            name=f"pooling_{name}",
        )

    def _budgets(self, name: str) -> int | tuple[int, ...]:
        """Number of tokens kept of a modality; a tuple of several pools once for each."""
        return self.kept_tokens()[name]

    def _joint_budgets(self) -> int | tuple[int, ...]:
        """Number of tokens kept of all modalities together, also those that are missing."""
        each: list[Any] = [self._budgets(name) for name in self.modalities]
        if isinstance(each[0], tuple):
            return tuple(map(sum, zip(*each, strict=True)))
        return sum(each)

    def _unimodal_block(self, modality: str, i: int) -> Block:
        pattern = pattern_for(self.unimodal_pattern, self.modalities[modality].num_tokens)
        return self.make_block(f"unimodal_{modality}_{i}", pattern=pattern)

    def _fuse(
        self, tokens: Tokens, num_entering: int, *, train: bool, mixup: Mixup | None
    ) -> Tokens:
        """Applies the fused blocks; the last block computes only the tokens that are read out.

        If intermediates are captured, the last block computes every token.
        """
        if not self.n_post:
            return tokens
        before_last = self.n_post - 1
        if before_last:
            tokens = self._fuse_stack(before_last, tokens, train=train, mixup=mixup)
        every = self.readout in ("mean", "attention")
        captured = self.is_mutable_collection("intermediates")
        read = None if captured or every else num_entering
        tokens = self.make_block("fused_last")(tokens, read, train=train)
        return self._mixed(before_last, tokens, mixup)

    def _fuse_stack(
        self, count: int, tokens: Tokens, *, train: bool, mixup: Mixup | None
    ) -> Tokens:
        """Applies equal blocks, whose parameters are stacked along a first axis."""
        rngs: Any = {"params": True, "dropout": True}
        block = self.make_block("fused")
        if self.is_initializing():
            # Initialisation needs no result, so `vmap` draws the parameters of all blocks at once.
            nn.vmap(
                lambda block, tokens: block(tokens, train=train),
                variable_axes={"params": 0},
                split_rngs=rngs,
                in_axes=None,
                axis_size=count,
            )(block, tokens)
            return tokens
        stack = nn.scan(
            lambda block, tokens, i: (self._mixed(i, block(tokens, train=train), mixup), None),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs=rngs,
            unroll=count if count < _MIN_BLOCKS_TO_SCAN else 1,
        )
        return stack(block, tokens, jnp.arange(count))[0]

    def _mixed(self, i: int | Array, tokens: Tokens, mixup: Mixup | None) -> Tokens:
        return tokens if mixup is None else mixup.fused(self.n_pre + i, tokens)

    def _reference_pooled_again(self, name: str, kept: Tokens) -> Tokens:
        """Applies the authors' fusion layer to pooled tokens, if there is one."""
        if self.reference_fusion_layer is None:
            return kept
        if self.pool == "channel_topk":
            kept = channel_top_k(kept, self.reference_fusion_layer)
        self.sow("intermediates", f"pooled_again_{name}", kept)
        return kept

    def _entering(
        self, values: Sequence[Float[Array, "b d"]], present: Sequence[Bool[Array, " b"]]
    ) -> Tokens:
        """Makes the CLS tokens that enter fusion from the CLS tokens of the modalities."""
        if self.readout == "modality_cls":
            return Tokens(jnp.stack(values, axis=1), jnp.stack(present, axis=1))
        real = jnp.ones((values[0].shape[0], 1), bool)
        if self.readout == "fresh_cls":
            normal = nn.initializers.normal(self.embedding_std)
            learned = self.param("cls", normal, (1, 1, self.width), jnp.float32).astype(
                values[0].dtype
            )
            return Tokens(jnp.broadcast_to(learned, (*real.shape, self.width)), real)
        summed = sum_over_present(values, present)
        if self.reference_fusion_layer is not None:
            summed = len(self.modalities) * summed
        return Tokens(summed[:, None], real)

    def _read_out(self, tokens: Tokens, num_entering: int) -> Float[Array, "b d"]:
        """Returns the token that is classified."""
        match self.readout:
            case "modality_cls":
                first = Tokens(tokens.values[:, :num_entering], tokens.mask[:, :num_entering])
                return masked_mean(first)
            case "mean":
                return masked_mean(tokens)
            case "attention":
                pool = PerceiverPool(1, self.num_heads, self.dtype, name="readout")
                return pool(tokens).values[:, 0]
            case _:
                return tokens.values[:, 0]

    def kept_tokens(self) -> Mapping[str, int]:
        """Number of tokens kept, by modality."""
        return (
            self.k if isinstance(self.k, Mapping) else dict.fromkeys(self.modalities, int(self.k))
        )

    def _problems(self) -> list[str]:
        problems = super()._problems()
        modalities = sorted(self.modalities)
        if self.readout not in READOUTS:
            problems.append(f"readout={self.readout!r} is not one of {', '.join(READOUTS)}")
        again = self.reference_fusion_layer
        if again is not None and (again < 1 or self.pool not in ("max", "avg", "channel_topk")):
            problems.append(
                f"reference_fusion_layer={again} with pool={self.pool!r}: it must be at least 1,"
                " and the pool max, avg or channel_topk"
            )
        if self.saliency not in SALIENCIES:
            problems.append(f"saliency={self.saliency!r} is not one of {', '.join(SALIENCIES)}")
        if unknown := sorted(set(self.reference_windows or {}) - set(modalities)):
            problems.append(f"reference_windows names {unknown}, the modalities are {modalities}")
        if set(kept := self.kept_tokens()) != set(modalities):
            return [*problems, f"k names {sorted(kept)}, the modalities are {modalities}"]
        try:
            pool = find_pool(self.pool)
        except ValueError as error:
            return [*problems, str(error)]
        problems += saliency_problem(self.saliency, self.pool)
        if isinstance(self.pre_pooling_pattern, NoAttention):
            problems += attention_problem(self.saliency, self.pool)
        return problems + self._problems_of_k(pool, kept)

    def _problems_of_k(self, pool: Pool, kept: Mapping[str, int]) -> list[str]:
        if not pool.uses_k:
            return []
        # The number of tokens of fixed windows does not depend on `k`.
        fixed = self.reference_windows if "windows" in pool.needs else None
        problems = [
            f"k={kept[name]} for modality {name!r}, which has {spec.num_tokens} tokens"
            f" to choose from: k must be from 0 to {spec.num_tokens}"
            for name, spec in self.modalities.items()
            if name not in (fixed or {}) and not 0 <= kept[name] <= spec.num_tokens
        ]
        if self.readout == "fresh_cls" and not any(kept.values()):
            problems.append("k=0 with readout='fresh_cls': nothing would reach the fusion")
        return problems
