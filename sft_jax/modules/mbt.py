"""The Multimodal Bottleneck Transformer (Nagrani et al. 2021, arXiv 2107.00135)."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sft_jax.modules.multimodal import MultimodalClassifier, presence
from sft_jax.ops.mixup import Mixup
from sft_jax.ops.modalities import join, mean_over_present
from sft_jax.ops.noise import example_keys
from sft_jax.structs import Tokens


class BottleneckTransformer(MultimodalClassifier):
    """Transformer whose modalities exchange information only through a few bottleneck tokens.

    Each modality `m` has `n_pre + n_post` blocks of its own. In the last `n_post` blocks it
    attends to its tokens `z_m` and the bottleneck `f` (equations 8 and 9 of the paper):

        [z_m, f_m] <- Block_m([z_m, f])
        f <- mean_m f_m

    where the mean is over the modalities that an example has. One shared head classifies the CLS
    of each modality, and the logits are averaged over the same modalities.

    Padding has no effect. Masking a modality throughout an example and leaving it out of `inputs`
    give the same logits. Without any modality, the logits are 0.

    Attributes:
      num_bottlenecks: Number of bottleneck tokens. They are learned, and initially drawn from
        N(0, 0.02²) as in the paper.
      faithful: Whether to reproduce the code of Ding et al. 2021. The bottleneck starts at 0
        without parameters, so that its tokens stay equal. Fusion starts one layer late. The
        modalities take turns in the order of their names; each gets the bottleneck that the
        previous modality returned.
      layer_drop: Rate of dropped blocks in training. Each block of each modality is dropped by
        itself, for each example. Its tokens, and its bottleneck, are those before the block. The
        model can then be evaluated with fewer blocks (`sft_jax.modules.depth.with_depth`). See
        LayerDrop (Fan et al. 2020, arXiv 1909.11556) and, for several modalities, ADMN (Wu et al.
        2025, arXiv 2502.07862).
      layers: Numbers of the blocks that are computed, in ascending order by modality; None for
        all. Others act as if dropped, and cost nothing. Initialisation needs all.

    See `MultimodalClassifier` for the other attributes.
    """

    num_bottlenecks: int = 4
    faithful: bool = False
    layer_drop: float = 0.0
    layers: Mapping[str, tuple[int, ...]] | None = None

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.num_bottlenecks < 1:
            problems.append(f"num_bottlenecks={self.num_bottlenecks} must be at least 1")
        if not 0 <= self.layer_drop < 1:
            problems.append(f"layer_drop={self.layer_drop} must be at least 0 and below 1")
        if self.faithful and (self.layer_drop or self.layers):
            problems.append("faithful=True with layer_drop or layers: the authors drop no block")
        if self.layers is not None and set(self.layers) != set(self.modalities):
            problems.append(
                f"layers names {sorted(self.layers)}, the modalities are {sorted(self.modalities)}"
            )
        return problems

    def compute_logits(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits; see `MultimodalClassifier`."""
        like = next(iter(streams.values())).values
        first_fused = self.n_pre + 1 if self.faithful else self.n_pre
        bottleneck = None
        for i in range(self.n_pre + self.n_post):
            computed = self._computed(i, streams)
            if i < first_fused:
                updated = self.unimodal_blocks(i, computed, train=train)
                streams = {
                    name: self._dropped(tokens, updated.get(name, tokens), train=train)
                    for name, tokens in streams.items()
                }
            elif computed:
                if bottleneck is None:
                    bottleneck = self._bottleneck(like)
                # The name separates the costs of these blocks from the blocks before fusion.
                with jax.named_scope("fused"):
                    streams, bottleneck = self._fused_layer(i, streams, bottleneck, train=train)
            if mixup is not None:
                streams = mixup.streams(i, streams)
                if bottleneck is not None and not self.faithful:
                    real = jnp.ones(bottleneck.shape[:2], bool)
                    bottleneck = mixup.fused(i, Tokens(bottleneck, real)).values
        return mean_over_present(self._classify_each(streams), presence(streams))

    def _computed(self, i: int, streams: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Tokens of the modalities whose block `i` is computed."""
        layers = self.layers
        return {name: own for name, own in streams.items() if layers is None or i in layers[name]}

    def _dropped(self, before: Tokens, after: Tokens, *, train: bool) -> Tokens:
        """Drops a block for some examples: their tokens are those before it."""
        if not train or not self.layer_drop or after is before:
            return after
        keys = example_keys(self.make_rng("dropout"), before.mask.shape[0])
        drops = jax.vmap(lambda key: jax.random.bernoulli(key, self.layer_drop))(keys)
        values = jnp.where(drops[:, None, None], before.values, after.values)
        return after.replace(values=values)

    def _bottleneck(self, like: Float[Array, "b n d"]) -> Float[Array, "b f d"]:
        """Makes the initial bottleneck, in the type of `like`."""
        shape = (like.shape[0], self.num_bottlenecks, self.width)
        if self.faithful:
            return jnp.zeros(shape, like.dtype)
        learned = self.param(
            "bottleneck", nn.initializers.normal(0.02), (1, *shape[1:]), jnp.float32
        )
        return jnp.broadcast_to(learned, shape).astype(like.dtype)

    def _fused_layer(
        self,
        i: int,
        streams: Mapping[str, Tokens],
        bottleneck: Float[Array, "b f d"],
        *,
        train: bool,
    ) -> tuple[dict[str, Tokens], Float[Array, "b f d"]]:
        """Applies block `i` of every modality and the bottleneck; returns both."""
        real = jnp.ones(bottleneck.shape[:2], bool)
        computed = self._computed(i, streams)
        updated, updates = {}, []
        for name, tokens in streams.items():
            joined = join(tokens, Tokens(bottleneck, real))
            if name in computed:
                after = self.make_block(f"unimodal_{name}_{i}")(joined, train=train)
                joined = self._dropped(joined, after, train=train)
            length = tokens.mask.shape[1]
            updated[name] = tokens.replace(values=joined.values[:, :length])
            updates.append(joined.values[:, length:])
            if self.faithful:
                has = tokens.mask[:, 0]
                bottleneck = jnp.where(has[:, None, None], updates[-1], bottleneck)
        if not self.faithful:
            bottleneck = mean_over_present(updates, presence(streams))
        return updated, bottleneck
