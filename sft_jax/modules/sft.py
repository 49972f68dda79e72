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
from sft_jax.modules.multimodal import MultimodalClassifier, join, sum_over_present
from sft_jax.modules.reducer import POOLS, WINDOWED_POOLS
from sft_jax.modules.sparse_pooling import SparsePooling
from sft_jax.ops.mixup import Mixup
from sft_jax.ops.pool.reduce import masked_mean
from sft_jax.ops.pool.select import channel_top_k
from sft_jax.ops.pool.windows import ReferenceWindows
from sft_jax.structs import AnyArray, Pool, Readout, Tokens

READOUTS: Sequence[str] = get_args(Readout)


_SCAN_FROM = 4
"""How many equal blocks it takes to be compiled as a loop over them."""


class SparseFusionTransformer(MultimodalClassifier):
    """Classifies examples of one or more modalities from a few tokens of each.

    Each modality is tokenized and passes through `n_pre` blocks of its own and one more
    self-attention; its tokens are then pooled to `k`. The sum of the modalities' CLS tokens
    and all pooled tokens pass through `n_post` shared blocks, and the CLS is classified.
    `readout` has alternatives to the sum:

    | readout | what enters fusion beside the pooled tokens | what is classified |
    | --- | --- | --- |
    | `sum_cls` | the sum of the modalities' CLS tokens | that token |
    | `fresh_cls` | one learned token | that token |
    | `modality_cls` | the CLS of each modality | the mean of those tokens |
    | `mean` | as `sum_cls` | the mean of all fused tokens |
    | `attention` | as `sum_cls` | what a learned query attends to |

    Nothing that a mask marks as padding has any effect. A modality that is masked
    throughout an example, or that is left out of `inputs`, adds nothing to its CLS sum and
    no pooled token: the two give the same logits.

    All fused blocks but the last are parameters of one name, `fused`, with a first axis for the
    block; the last is `fused_last`.

    Attributes:
      pool: how tokens are cut down; see `Reducer`.
      k: tokens kept of each modality, for all or by name; no effect with pool `none`. With 0
        none is kept, and the CLS tokens alone tell of the modality.
      readout: one of the above.
      reference_windows: by name, the authors' fixed windows in place of adaptive ones.
      reference_fusion_layer: add what is left of the authors' optional fusion layer, whose
        parameters their code never uses: the CLS sum is tripled and, with `channel_topk`,
        each modality is pooled again, to this many tokens. For `max`, `avg` and
        `channel_topk`; with other pools their code fails.
      unimodal_pattern: which tokens each attends to in the blocks of a modality; None, the
        default, for all. A `WindowPattern` makes their cost linear in the number of tokens; a
        modality whose full length is so short that it would save nothing stays dense.
      pre_pooling_pattern: which tokens each attends to in the self-attention before pooling;
        None, the default, for all. The authors announce a sparse attention there and set up
        that of fairseq, but the pattern, which is `BlockSparsePattern()`, is never applied:
        what their code computes is dense. Up to 33 tokens, CLS included, the pattern is
        dense too.

    See `MultimodalClassifier` for the others.
    """

    pool: Pool = "attn_topk"
    k: int | Mapping[str, int] = 4
    readout: Readout = "sum_cls"
    reference_windows: Mapping[str, ReferenceWindows] | None = None
    reference_fusion_layer: int | None = None
    unimodal_pattern: AttentionPattern | None = None
    pre_pooling_pattern: AttentionPattern | None = None

    @property
    def shared_from(self) -> int | None:
        """The fused layers, unless the CLS of each modality that there is is classified."""
        return None if self.readout == "modality_cls" else self.n_pre

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
        mixup: Mixup | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits.

        Args:
          inputs: modality name to `[b, *lengths, features]` floats; the first of the lengths
            may be less than the modality's, never more, and the others are the modality's.
          masks: modality name to `[b, *lengths]` booleans, False for padding; a modality
            without an entry has no padding.
          train: applies dropout, drawn from the random stream "dropout", and has the
            random pools draw from the stream "pool" rather than always the same tokens.
            Without, they do so only if that stream is given.
          mixup: mixes the output of a block between examples. The blocks of a modality are
            layers 0 to `n_pre - 1`, the fused ones those from `n_pre` on.

        Returns:
          `[b, num_classes]` logits. Applied with `mutable=["intermediates"]` and
          `capture_intermediates=True`, every tensor on the way can be had as well.
        """
        masks = self._check(inputs, masks)
        streams, present = self._streams(inputs, masks)
        for i in range(self.n_pre):
            streams = self._unimodal_blocks(i, streams, train=train)
            if mixup is not None:
                streams, present = mixup.streams(i, streams, present)
        cls, pooled = {}, []
        for name, tokens in streams.items():
            if name in (self.reference_windows or {}):
                tokens = self._fill(name, tokens)
            cls[name], kept = self._in_parts(self._sparse_pooling(name), tokens, train=train)
            pooled.append(self._reference_pooled_again(name, kept))
        tokens = join(self._entering(cls, present), *pooled)
        self.sow("intermediates", "fused_input", tokens)
        tokens = self._fuse(tokens, len(cls), train=train, mixup=mixup)
        token = self._read_out(tokens, len(cls))
        self.sow("intermediates", "cls", token)
        return self._head()(token)

    def _sparse_pooling(self, name: str) -> SparsePooling:
        return SparsePooling(
            pool=self.pool,
            k=self._kept_tokens()[name],
            reference_windows=(self.reference_windows or {}).get(name),
            num_heads=self.num_heads,
            dropout=self.dropout,
            dtype=self.dtype,
            pattern=pattern_for(self.pre_pooling_pattern, self.modalities[name].num_tokens),
            kernel=self.attention_kernel,
            name=f"pooling_{name}",
        )

    def _unimodal_block(self, modality: str, i: int) -> Block:
        pattern = pattern_for(self.unimodal_pattern, self.modalities[modality].num_tokens)
        return self._block(f"unimodal_{modality}_{i}", pattern=pattern)

    def _fuse(
        self, tokens: Tokens, num_modalities: int, *, train: bool, mixup: Mixup | None
    ) -> Tokens:
        """The fused blocks; of the last, only the tokens that are read out.

        To those who look at the intermediates every token of it is shown.
        """
        if not self.n_post:
            return tokens
        before_last = self.n_post - 1
        if before_last:
            tokens = self._fuse_stack(before_last, tokens, train=train, mixup=mixup)
        first = {"modality_cls": num_modalities, "mean": None, "attention": None}
        shown = self.is_mutable_collection("intermediates")
        read = None if shown else first.get(self.readout, 1)
        tokens = self._block("fused_last")(tokens, read, train=train)
        return self._mixed(before_last, tokens, mixup)

    def _fuse_stack(
        self, count: int, tokens: Tokens, *, train: bool, mixup: Mixup | None
    ) -> Tokens:
        """Equal blocks as one, with parameters that have a first axis for the block."""
        rngs: Any = {"params": True, "dropout": True}
        block = self._block("fused")
        if self.is_initializing():
            # Beside each other: they are drawn at once, and what they compute is not needed.
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
            unroll=count if count < _SCAN_FROM else 1,
        )
        return stack(block, tokens, jnp.arange(count))[0]

    def _mixed(self, i: int | Array, tokens: Tokens, mixup: Mixup | None) -> Tokens:
        return tokens if mixup is None else mixup.fused(self.n_pre + i, tokens)

    def _reference_pooled_again(self, name: str, kept: Tokens) -> Tokens:
        """What the authors' fusion layer does to pooled tokens, if there is one."""
        if self.reference_fusion_layer is None:
            return kept
        if self.pool == "channel_topk":
            kept = channel_top_k(kept, self.reference_fusion_layer)
        self.sow("intermediates", f"pooled_again_{name}", kept)
        return kept

    def _entering(
        self, cls: Mapping[str, Float[Array, "b d"]], present: Mapping[str, Bool[Array, " b"]]
    ) -> Tokens:
        """The CLS tokens that enter fusion."""
        values, there = list(cls.values()), [present[name] for name in cls]
        if self.readout == "modality_cls":
            return Tokens(jnp.stack(values, axis=1), jnp.stack(there, axis=1))
        real = jnp.ones((values[0].shape[0], 1), bool)
        if self.readout == "fresh_cls":
            normal = nn.initializers.normal(self.embedding_std)
            learned = self.param("cls", normal, (1, 1, self.width), jnp.float32).astype(
                values[0].dtype
            )
            return Tokens(jnp.broadcast_to(learned, (*real.shape, self.width)), real)
        summed = sum_over_present(values, there)
        if self.reference_fusion_layer is not None:
            summed = len(self.modalities) * summed
        return Tokens(summed[:, None], real)

    def _read_out(self, tokens: Tokens, num_modalities: int) -> Float[Array, "b d"]:
        """The token that is classified."""
        match self.readout:
            case "modality_cls":
                first = Tokens(tokens.values[:, :num_modalities], tokens.mask[:, :num_modalities])
                return masked_mean(first)
            case "mean":
                return masked_mean(tokens)
            case "attention":
                pool = PerceiverPool(1, self.num_heads, self.dtype, name="readout")
                return pool(tokens).values[:, 0]
            case _:
                return tokens.values[:, 0]

    def _kept_tokens(self) -> Mapping[str, int]:
        return (
            self.k if isinstance(self.k, Mapping) else dict.fromkeys(self.modalities, int(self.k))
        )

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.pool not in POOLS:
            problems.append(f"pool={self.pool!r} is not one of {', '.join(POOLS)}")
        if self.readout not in READOUTS:
            problems.append(f"readout={self.readout!r} is not one of {', '.join(READOUTS)}")
        again = self.reference_fusion_layer
        if again is not None and (again < 1 or self.pool not in ("max", "avg", "channel_topk")):
            problems.append(
                f"reference_fusion_layer={again} with pool={self.pool!r}: it must be at least 1,"
                " and the pool max, avg or channel_topk"
            )
        if unknown := sorted(set(fixed := self.reference_windows or {}) - set(self.modalities)):
            problems.append(
                f"reference_windows names {unknown}, the modalities are {sorted(self.modalities)}"
            )
        if set(kept := self._kept_tokens()) != set(self.modalities):
            problems.append(f"k names {sorted(kept)}, the modalities are {sorted(self.modalities)}")
        elif self.pool != "none":
            if self.readout == "fresh_cls" and not any(kept.values()):
                problems.append("k=0 with readout='fresh_cls': nothing would reach the fusion")
            problems += [
                f"k={kept[name]} for modality {name!r}, which has {spec.num_tokens} tokens"
                f" to choose from: k must be from 0 to {spec.num_tokens}"
                for name, spec in self.modalities.items()
                if (name not in fixed or self.pool not in WINDOWED_POOLS)
                and not 0 <= kept[name] <= spec.num_tokens
            ]
        return problems
