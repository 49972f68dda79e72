"""Multimodal manifold mixup: hidden states of examples mixed with those of others.

Manifold mixup (Verma et al. 2019, arXiv 1806.05236) with a share for each modality (Ding et
al. 2021, arXiv 2111.11992, section 3.4). The output of one block becomes

    share x + (1 - share) x_partner

and the loss `label_share loss(label) + (1 - label_share) loss(label_partner)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sft_jax.structs import Tokens


class Mixup(flax.struct.PyTreeNode):
    """Which examples of a batch are mixed, after which block, and in what shares.

    Where two examples differ in what they have, the one with the larger share decides (the
    example itself where both have half): the result has its tokens and its modalities. What
    the other does not have is not mixed, and what it has beyond them is dropped. So a share
    of 1 leaves an example as it was, and one of 0 turns it into its partner.

    Attributes:
      partner: `[b]` position in the batch of the example that each is mixed with.
      shares: by modality, `[b]` shares from 0 to 1 of the example itself.
      layer: the block whose output is mixed, the first of a modality being 0; -1 for none.
    """

    partner: Int[Array, " b"]
    shares: Mapping[str, Float[Array, " b"]]
    layer: Int[Array, ""]

    def streams(
        self,
        layer: int,
        streams: Mapping[str, Tokens],
        present: Mapping[str, Bool[Array, " b"]],
    ) -> tuple[dict[str, Tokens], dict[str, Bool[Array, " b"]]]:
        """The output of block `layer` of every modality, mixed if this is the layer.

        Args:
          layer: the block.
          streams: tokens by modality, CLS first.
          present: which examples have the modality.

        Returns:
          Tokens and presence after mixing.
        """
        mixed, there = {}, {}
        for name, tokens in streams.items():
            share = self.shares[name]
            mixed[name] = self._if_drawn(
                layer, mix_tokens(tokens, share, self.partner, present[name]), tokens
            )
            decides = jnp.where(share >= 0.5, present[name], present[name][self.partner])
            there[name] = self._if_drawn(layer, decides, present[name])
        return mixed, there

    def fused(self, layer: int | Int[Array, ""], tokens: Tokens) -> Tokens:
        """The output of block `layer` over the tokens of all modalities, mixed if it is the layer.

        The share is that of the first modality by name.
        """
        share = self.shares[min(self.shares)]
        present = jnp.ones(share.shape, bool)
        return self._if_drawn(layer, mix_tokens(tokens, share, self.partner, present), tokens)

    def label_share(self, present: Mapping[str, Bool[Array, " b"]]) -> Float[Array, " b"]:
        """The share of each example's own label in its loss; 1 if no layer is mixed.

        It is the mean over the modalities that the mixed example has. Where both examples
        have a modality, it counts with its share; where the deciding one alone has it, with
        1 if that is the example itself, and with 0 if it is the partner.

        Args:
          present: by modality, which examples have it before mixing; all modalities of
            `shares`.
        """
        total = count = jnp.zeros(self.partner.shape, jnp.float32)
        for name, share in self.shares.items():
            own = share >= 0.5
            here, there = present[name], present[name][self.partner]
            has = jnp.where(own, here, there)
            total += jnp.where(has, jnp.where(here & there, share, own), 0)
            count += has
        plain = sum(self.shares.values()) / len(self.shares)
        mean = jnp.where(count > 0, total / jnp.maximum(count, 1), plain)
        return jnp.where(self.layer >= 0, mean, 1)

    def _if_drawn(self, layer: int | Array, mixed, plain):  # type: ignore[no-untyped-def]
        return jax.tree.map(lambda a, b: jnp.where(self.layer == layer, a, b), mixed, plain)


def mix_tokens(
    tokens: Tokens,
    share: Float[Array, " b"],
    partner: Int[Array, " b"],
    present: Bool[Array, " b"],
) -> Tokens:
    """Mixes the tokens of each example with those of its partner; see `Mixup`.

    Args:
      tokens: of the batch.
      share: of the example itself.
      partner: position of the other.
      present: False where an example has none of these tokens, whatever their mask.
    """
    here = tokens.mask & present[:, None]
    both = here & here[partner]
    own = (share >= 0.5)[:, None]
    # The rest is taken in the type of the share, as the authors' code does.
    of_own = jnp.where(both, share[:, None], own.astype(share.dtype))
    of_other = jnp.where(both, 1 - share[:, None], 1 - own.astype(share.dtype))

    def mixed(values: Array) -> Array:
        shape = (*of_own.shape, *[1] * (values.ndim - 2))
        a, b = (part.reshape(shape).astype(values.dtype) for part in (of_own, of_other))
        return a * values + b * values[partner]

    return Tokens(
        mixed(jnp.where(tokens.mask[..., None], tokens.values, 0)),
        jnp.where(own, tokens.mask, tokens.mask[partner]),
        None if tokens.sizes is None else mixed(jnp.where(tokens.mask, tokens.sizes, 1)),
    )


def draw_mixup(
    key: Key[Array, ""],
    batch_size: int,
    modalities: Sequence[str],
    *,
    alpha: float,
    layers: tuple[int, int],
    joint_from: int,
    per_modality: bool = True,
    consistent: bool = True,
) -> Mixup:
    """Draws partners, shares and the layer for a batch.

    Args:
      key: of the draw.
      batch_size: examples.
      modalities: names of those that are mixed.
      alpha: shares are from Beta(alpha, alpha).
      layers: the first layer that may be drawn, and the one after the last.
      joint_from: the first layer whose tokens are no longer of one modality alone.
      per_modality: draw a share for each modality, not one for all.
      consistent: from `joint_from` on, all modalities have the share of the first, so that
        features and labels are mixed alike. The authors' code mixes fused features by that
        share and labels by the mean of all: False does so too.
    """
    of_partner, of_layer, of_shares = jax.random.split(key, 3)
    layer = jax.random.randint(of_layer, (), *layers)
    names = sorted(modalities)
    drawn = jax.random.beta(of_shares, alpha, alpha, (len(names), batch_size), jnp.float32)
    one = jnp.asarray(not per_modality) | (consistent & (layer >= joint_from))
    return Mixup(
        partner=jax.random.permutation(of_partner, batch_size),
        shares={
            name: jnp.where(one, drawn[0], own) for name, own in zip(names, drawn, strict=True)
        },
        layer=layer,
    )
