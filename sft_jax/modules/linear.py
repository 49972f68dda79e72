"""Linear layers and layer norms with the initialisation and epsilon of the authors' code."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float


def bounded_uniform(bound: float) -> Initializer:
    """Makes an initialiser that draws from U(-bound, bound)."""

    def init(key, shape, dtype=float):  # type: ignore[no-untyped-def]
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def flat_dot(
    values: Float[Array, "*b d"],
    kernel: Float[Array, "d f *g"],
    dimension_numbers: Any = None,
    precision: jax.lax.PrecisionLike = None,
    **keywords: Any,
) -> Float[Array, "*b f *g"]:
    """Computes `values kernel` with all leading axes merged.

    Use it as `nn.Dense(dot_general=flat_dot)`. On a CPU the gradient of the kernel is then one
    matrix product, not one for each example. This is 1.5 to 3 times as fast.

    Args:
      values: Values with any number of leading axes.
      kernel: Kernel of a dense layer, with any number of axes for the features.
      dimension_numbers: Ignored; a dense layer contracts the last axis.
      precision: See `jax.lax.dot`.
      **keywords: See `jax.lax.dot`.
    """
    flat = values.reshape(-1, values.shape[-1])
    product = jax.lax.dot(
        flat, kernel, dimension_numbers=(((1,), (0,)), ((), ())), precision=precision, **keywords
    )
    return product.reshape(*values.shape[:-1], *kernel.shape[1:])


def linear(fan_in: int, features: int, dtype: Dtype | None, name: str) -> nn.Dense:
    """Makes a dense layer with weights and biases from U(±1/sqrt(fan_in)), PyTorch's default."""
    init = bounded_uniform(fan_in**-0.5)
    return dense(features, dtype, name, kernel_init=init, bias_init=init)


def dense(
    features: int,
    dtype: Dtype | None,
    name: str,
    *,
    kernel_init: Initializer,
    bias_init: Initializer = nn.initializers.zeros,
) -> nn.Dense:
    """Makes a dense layer that uses `flat_dot`."""
    return nn.Dense(
        features,
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dot_general=flat_dot,
        name=name,
    )


def layer_norm(dtype: Dtype | None, name: str, *, affine: bool = True) -> nn.LayerNorm:
    """Makes a layer norm with epsilon 1e-5, with or without a learned scale and bias."""
    return nn.LayerNorm(
        epsilon=1e-5,
        dtype=dtype,
        use_bias=affine,
        use_scale=affine,
        use_fast_variance=False,
        name=name,
    )
