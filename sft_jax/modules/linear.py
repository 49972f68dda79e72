"""Linear layers and layer norms with the initialisation and epsilon of the authors' code."""

from __future__ import annotations

import flax.linen as nn
import jax
from flax.typing import Dtype, Initializer


def bounded_uniform(bound: float) -> Initializer:
    """Draws from U(-bound, bound)."""

    def init(key, shape, dtype=float):  # type: ignore[no-untyped-def]
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(fan_in: int, features: int, dtype: Dtype | None, name: str) -> nn.Dense:
    """A dense layer with weights and biases from U(±1/sqrt(fan_in)), PyTorch's default."""
    init = bounded_uniform(fan_in**-0.5)
    return nn.Dense(features, dtype=dtype, kernel_init=init, bias_init=init, name=name)


def layer_norm(dtype: Dtype | None, name: str, *, affine: bool = True) -> nn.LayerNorm:
    """Layer norm with epsilon 1e-5, with or without a learned scale and bias."""
    return nn.LayerNorm(
        epsilon=1e-5,
        dtype=dtype,
        use_bias=affine,
        use_scale=affine,
        use_fast_variance=False,
        name=name,
    )
