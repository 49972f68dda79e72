"""Exponential function that takes up much of the time of attention kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Taylor coefficients of 2 ** x, log(2) ** i / i!: seven give an error of 2e-7 on [-0.5, 0.5].
_COEFFICIENTS = np.cumprod([1.0, *(np.log(2) / np.arange(1, 7))])


@jax.custom_jvp
def polynomial_exp2(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Computes `2 ** x` for float32 `x` below 128, to a relative error of 3e-7.

    On a CPU it takes half as long as `jnp.exp2`, which also handles infinities, NaN and subnormal
    results. Here any `x` below -126 gives `2 ** -126`.
    """
    x = jnp.maximum(x, -126)
    whole = jnp.round(x)
    fraction = x - whole
    power = jnp.full_like(x, _COEFFICIENTS[-1])
    for coefficient in _COEFFICIENTS[-2::-1]:
        power = power * fraction + np.float32(coefficient)
    # The exponent of a float32 starts at bit 23.
    shifted = jax.lax.bitcast_convert_type(power, jnp.int32) + (whole.astype(jnp.int32) << 23)
    return jax.lax.bitcast_convert_type(shifted, jnp.float32)


@polynomial_exp2.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    power = polynomial_exp2(*primals)
    return power, power * (np.log(2).astype(power.dtype) * tangents[0])
