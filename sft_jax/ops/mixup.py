"""Multimodal manifold mixup, which mixes the hidden states of pairs of examples.

It is manifold mixup (Verma et al. 2019, arXiv 1806.05236) with a share for each modality (Ding et
al. 2021, arXiv 2111.11992, section 3.4). The output of one block becomes

    share x + (1 - share) x_partner

and the loss becomes `label_share loss(label) + (1 - label_share) loss(label_partner)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from sft_jax.structs import Tokens


class Mixup(flax.struct.PyTreeNode):
    """Partners, shares and the layer of one draw of mixup.

    If two examples differ in their modalities or lengths, the one with the larger share decides
    (at equal shares, the example itself). The result has the tokens and modalities of the deciding
    example. Tokens that the other example lacks are not mixed, and its additional tokens are
    dropped. A share of 1 thus leaves an example unchanged, and 0 turns it into its partner.

    Attributes:
      partner: `[b]` positions in the batch of the partners.
      shares: `[b]` shares of the example itself, from 0 to 1, by modality.
      layer: Block whose output is mixed, counted from 0 in each modality; -1 for none.
      shared_from: First layer where every example has the token that is classified, whatever its
        modalities; None if there is no such layer.
      group: Number of neighbouring examples among which partners are drawn; None for the batch.
        Small groups stay on one device, however a batch is divided over devices.
    """

    partner: Int[Array, " b"]
    shares: Mapping[str, Float[Array, " b"]]
    layer: Int[Array, ""]
    shared_from: int | None = flax.struct.field(pytree_node=False, default=None)
    group: int | None = flax.struct.field(pytree_node=False, default=None)

    def streams(self, layer: int, streams: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Mixes the output of block `layer` of every modality if that layer was drawn.

        Args:
          layer: Number of the block.
          streams: Tokens by modality, CLS first. The mask of CLS is True where an example has the
            modality.

        Returns:
          Tokens after mixing, with the masks of the deciding examples.
        """

        def mix(streams: Any) -> Any:
            return {
                name: mix_tokens(tokens, self.shares[name], self.from_partner)
                for name, tokens in streams.items()
            }

        return self._if_drawn(layer, mix, dict(streams))

    def fused(self, layer: int | Int[Array, ""], tokens: Tokens) -> Tokens:
        """Mixes the output of fused block `layer` if that layer was drawn.

        The share of the first modality by name applies.
        """
        mixed: Tokens = self._if_drawn(
            layer, lambda tokens: mix_tokens(tokens, self._first_share, self.from_partner), tokens
        )
        return mixed

    def from_partner(self, array: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
        """Gathers the rows of the partners from an array with the examples first."""
        if self.group is None:
            return array[self.partner]
        shape = (array.shape[0] // self.group, self.group)
        grouped = array.reshape(*shape, *array.shape[1:])
        within = (self.partner % self.group).reshape(shape)
        index = jnp.expand_dims(within, range(2, grouped.ndim))
        return jnp.take_along_axis(grouped, index, axis=1).reshape(array.shape)

    @property
    def _first_share(self) -> Float[Array, " b"]:
        return self.shares[min(self.shares)]

    def label_share(self, present: Mapping[str, Bool[Array, " b"]]) -> Float[Array, " b"]:
        """Computes the share of each example's own label in its loss; 1 if no layer is mixed.

        From `shared_from` on it is the share of the fused tokens. Before, it is a mean over the
        modalities of the mixed example. A modality that both examples have counts with its share.
        A modality that only the deciding example has counts with 1 if that is the example itself,
        and with 0 if it is the partner.

        Args:
          present: Examples that have the modality before mixing, for all modalities of `shares`.
        """
        total = count = jnp.zeros(self.partner.shape, jnp.float32)
        for name, share in self.shares.items():
            own = share >= 0.5
            own_has, partner_has = present[name], self.from_partner(present[name])
            has = jnp.where(own, own_has, partner_has)
            total += jnp.where(has, jnp.where(own_has & partner_has, share, own), 0)
            count += has
        plain = sum(self.shares.values()) / len(self.shares)
        mean = jnp.where(count > 0, total / jnp.maximum(count, 1), plain)
        if self.shared_from is not None:
            mean = jnp.where(self.layer >= self.shared_from, self._first_share, mean)
        return jnp.where(self.layer >= 0, mean, 1)

    def _if_drawn(self, layer: int | Array, mix: Callable[[Any], Any], unmixed: Any) -> Any:
        return jax.lax.cond(self.layer == layer, mix, lambda same: same, unmixed)


def mix_tokens(
    tokens: Tokens, share: Float[Array, " b"], from_partner: Callable[[Array], Array]
) -> Tokens:
    """Mixes the tokens of each example with those of its partner; see `Mixup`.

    Args:
      tokens: Tokens of the batch.
      share: Share of each example itself.
      from_partner: Function from an array with the examples first to the rows of their partners.
    """
    both = tokens.mask & from_partner(tokens.mask)
    own = (share >= 0.5)[:, None]
    # The partner's share is computed in the type of the share, as in the authors' code.
    own_share = jnp.where(both, share[:, None], own.astype(share.dtype))
    other_share = jnp.where(both, 1 - share[:, None], 1 - own.astype(share.dtype))

    def mixed(values: Array) -> Array:
        shape = (*own_share.shape, *[1] * (values.ndim - 2))
        a, b = (part.reshape(shape).astype(values.dtype) for part in (own_share, other_share))
        return a * values + b * from_partner(values)

    return Tokens(
        mixed(jnp.where(tokens.mask[..., None], tokens.values, 0)),
        jnp.where(own, tokens.mask, from_partner(tokens.mask)),
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
    shared_from: int | None = None,
    per_modality: bool = True,
    consistent: bool = True,
) -> Mixup:
    """Draws partners, shares and the layer for a batch.

    The partner of an example is another member of its group of neighbours (`group_size`), each
    with equal probability. Neighbours are random too, since batches are in random order.

    Args:
      key: Random key.
      batch_size: Number of examples.
      modalities: Names of the modalities that are mixed.
      alpha: Parameter of Beta(alpha, alpha), the distribution of the shares.
      layers: First layer that may be drawn, and the layer after the last.
      joint_from: First layer whose tokens are not of a single modality.
      shared_from: First layer with one token for all, as in `Mixup`.
      per_modality: Whether each modality has a share of its own.
      consistent: Whether, from `joint_from` on, all modalities have the share of the first, so
        that features and labels are mixed alike. With False, as in the authors' code, that share
        mixes the fused features and the mean of all shares mixes the labels.
    """
    partner_key, layer_key, share_key = jax.random.split(key, 3)
    layer = jax.random.randint(layer_key, (), *layers)
    group = group_size(batch_size)
    names = sorted(modalities)
    drawn = jax.random.beta(share_key, alpha, alpha, (len(names), batch_size), jnp.float32)
    one = jnp.asarray(not per_modality) | (consistent & (layer >= joint_from))
    return Mixup(
        partner=_draw_partners(partner_key, batch_size, group),
        shares={
            name: jnp.where(one, drawn[0], own) for name, own in zip(names, drawn, strict=True)
        },
        layer=layer,
        shared_from=shared_from if consistent else None,
        group=group,
    )


def group_size(batch_size: int) -> int:
    """Returns the number of neighbours that mix: the least divisor of the batch size above 2.

    A batch without such a divisor is one group.
    """
    return next((n for n in range(3, batch_size) if batch_size % n == 0), batch_size)


def _draw_partners(key: Key[Array, ""], batch_size: int, group: int) -> Int[Array, " b"]:
    """Draws the positions of the partners by rotating every group by a random number of places."""
    if group == 1:
        return jnp.arange(batch_size)
    turn = jax.random.randint(key, (batch_size // group, 1), 1, group)
    within = (jnp.arange(group)[None] + turn) % group
    return (jnp.arange(0, batch_size, group)[:, None] + within).reshape(-1)
