"""Random numbers: named streams folded with the step, so that nothing about them is saved."""

from __future__ import annotations

import zlib

import jax
from jaxtyping import Array, Int, Key


def stream(seed: int | Int[Array, ""], name: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """The key of the stream `name` at `step`, the same whenever and wherever it is asked for."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)
