"""Application of a module to a batch in groups of examples, to save memory."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax

from sft_jax.modules.remat import rematerialize
from sft_jax.ops.noise import example_keys
from sft_jax.structs import Tokens

_MIN_TOKENS_TO_SPLIT = 129
"""Least number of tokens of a sequence, CLS included, for which a batch is cut into groups."""


def apply_in_groups(
    parent: nn.Module, module: nn.Module, tokens: Tokens, parts: int, *, train: bool
) -> Any:
    """Computes `module(tokens)` for one group of examples at a time.

    If sequences have more than 128 tokens, everything except attention is recomputed for the
    gradient. The results do not depend on the groups.

    Args:
      parent: Module that provides the random streams.
      module: Module from tokens to any PyTree of arrays with the examples first.
      tokens: Tokens of the batch.
      parts: Number of groups. If it does not divide the batch size, the greatest common divisor
        of both is used.
      train: Whether to train; passed to `module`.
    """
    if parent.is_initializing():
        return module(tokens, train=train)
    batch, length = tokens.mask.shape
    keys = {
        name: example_keys(parent.make_rng(name), batch)
        for name in ("dropout", "pool")
        if parent.has_rng(name)
    }
    cut = parts > 1 and length >= _MIN_TOKENS_TO_SPLIT
    # A symbolic batch size has no known divisor.
    parts = math.gcd(batch, parts) if cut and isinstance(batch, int) else 1
    if parts == 1 or parent.is_mutable_collection("intermediates"):
        return module(tokens, train=train, keys=keys or None)
    # A group takes every parts-th example, so that it stays spread over the devices.
    split = jax.tree.map(
        lambda a: a.reshape(batch // parts, parts, *a.shape[1:]).swapaxes(0, 1), (tokens, keys)
    )

    def one_group(module: nn.Module, carry: tuple[()], group: Any) -> tuple[tuple[()], Any]:
        tokens, keys = group
        return carry, module(tokens, train=train, keys=keys or None)

    scan = nn.scan(
        rematerialize(one_group, prevent_cse=False),
        variable_broadcast="params",
        split_rngs={"dropout": False, "pool": False},
    )
    _, stacked = scan(module, (), split)
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(batch, *a.shape[2:]), stacked)
