"""Dropout with independent draws for each example."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from sft_jax.ops.noise import Keys, dropout, example_keys, fold_in


class Dropout(nn.Dropout):
    """`flax.linen.Dropout` whose draws depend only on the key and position of an example.

    Attributes: see `flax.linen.Dropout`; `broadcast_dims` must be empty.
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self, inputs: Float[Array, "b ..."], keys: Keys | None = None
    ) -> Float[Array, "b ..."]:
        """Sets numbers to 0 at random unless `deterministic`.

        Args:
          inputs: Array with the examples first.
          keys: Key of each example; by default from the stream `rng_collection`.
        """
        if self.rate == 0 or self.deterministic:
            return inputs
        if keys is None:
            keys = example_keys(self.make_rng(self.rng_collection), inputs.shape[0])
        return dropout(inputs, self.rate, keys)


def numbered(keys: Mapping[str, Keys] | None, number: int) -> Keys | None:
    """Derives the keys of call number `number` from those of the stream "dropout", if any."""
    if keys is None or "dropout" not in keys:
        return None
    return fold_in(keys["dropout"], number)
