"""Random draws that are independent for each example.

The draw of an example depends only on a key and its position in the batch. It does not depend on
the devices, on the groups that the batch is cut into, or on the padding of its sequences.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Keys = Array
"""One random key for each example, typed or as raw integers."""


def example_keys(key: Array, batch_size: int) -> Keys:
    """Derives a key for each example of a batch from a single key."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch_size))


def fold_in(keys: Keys, number: int) -> Keys:
    """Derives new keys for the same examples, for draw number `number`."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def dropout(values: Float[Array, "b ..."], rate: float, keys: Keys) -> Float[Array, "b ..."]:
    """Sets numbers to 0 with probability `rate`, and divides the others by `1 - rate`.

    Args:
      values: Array with the examples first.
      rate: Probability, at least 0 and below 1.
      keys: Key of each example.

    Returns:
      An array of the same shape and dtype.
    """
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, values.shape[1:]))(keys)
    return jnp.where(keep, values / (1 - rate), 0).astype(values.dtype)


def gumbel(keys: Keys, length: int) -> Float[Array, "b n"]:
    """Draws `length` numbers for each example from the standard Gumbel distribution, in float32."""
    return jax.vmap(lambda key: jax.random.gumbel(key, (length,), jnp.float32))(keys)


def fixed_gumbel(length: int) -> Float[Array, "1 n"]:
    """Draws the numbers that all examples share in evaluation: the same on every call."""
    return gumbel(jax.random.key(0, impl="threefry2x32")[None], length)
