"""Rematerialisation: a part of a model is computed once more for the gradient, and not stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from sft_jax.ops.attention.tiled import SAVED


def rematerialize(
    compute: Callable[..., Any], *, chosen: bool = True, prevent_cse: bool = True
) -> Callable[..., Any]:
    """Makes the gradient compute a function of a module and arrays again.

    The results of attention are stored all the same, unless the kernel stores its weights: they
    take little memory and long to compute.

    Args:
      compute: Function of a module, then PyTrees of arrays.
      chosen: False to return the function as it is.
      prevent_cse: See `jax.checkpoint`; False is right only within a scan.
    """
    if not chosen:
        return compute
    policy = jax.checkpoint_policies.save_only_these_names(SAVED)
    wrapped: Callable[..., Any] = nn.remat(compute, policy=policy, prevent_cse=prevent_cse)
    return wrapped
