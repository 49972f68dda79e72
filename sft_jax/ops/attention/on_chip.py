"""Attention by kernels that keep the weights of a tile on the chip, on TPUs and NVIDIA GPUs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sft_jax.ops.attention import mosaic, triton
from sft_jax.ops.attention.tiles import MASKED, Inputs, base_2
from sft_jax.ops.platform_program import platform_program

_SHARED = "b h q e, b h n e, b h n e, b n"
"""Axes of queries, keys, values and the terms added to the logits of the keys."""


class Kernels(Protocol):
    """Kernels of a platform, for any number of examples and heads.

    Queries are scaled by `base_2`. A masked key has `MASKED` added to its logits; what is computed
    for it, and for an example without a real key, is finite and has no meaning.
    """

    def takes(self, size: int, num_keys: int) -> bool:
        """Returns whether the kernels take heads of a size, and a number of keys."""

    def forward(self, *arrays: Array) -> list[Array]:
        """Computes the weighted sums, the log-sum-exp, and what each key receives, if asked.

        Args:
          *arrays: Arrays of `_SHARED`; and the weights of queries `[b, q]`, if keys receive any.
        """

    def backward(self, *arrays: Array, with_terms: bool) -> list[Array]:
        """Computes gradients of queries, keys, values and terms, those of logits to base 2.

        Args:
          *arrays: Arrays of `_SHARED`; log-sum-exp `[b, h, q]`; products of the sums and their
            gradients `[b, h, q]`; gradients of the sums `[b, h, q, e]`; if keys receive any, the
            weights of queries `[b, q]` and gradients of the received weights `[b, n]`.
          with_terms: Whether to compute the gradients of the terms.
        """


KERNELS: Mapping[str, Any] = {"tpu": mosaic, "cuda": triton}
"""`Kernels` of each platform."""


def platforms(query: Float[Array, "b q h e"], key: Float[Array, "b n h e"]) -> tuple[str, ...]:
    """Returns the platforms that have kernels for arrays of this type and these sizes."""
    sizes = (*query.shape, *key.shape)
    if query.dtype not in (jnp.bfloat16, jnp.float32):
        return ()
    if not all(isinstance(size, int) for size in sizes):
        return ()
    return tuple(
        name for name, kernels in KERNELS.items() if kernels.takes(query.shape[-1], key.shape[1])
    )


def forward(platform: str, num_heads: int, heads: Inputs) -> tuple[Array, Array, Array | None]:
    """Computes what `sft_jax.ops.attention.tiles.forward` does.

    Args:
      platform: One of `platforms`.
      num_heads: Number of heads of an example.
      heads: Input arrays, whose first axis is that of the heads of all examples.
    """
    query, key, value, *per_example = _arrays(num_heads, heads)
    per_query = jax.ShapeDtypeStruct(query.shape[:3], np.float32)
    outputs = [jax.ShapeDtypeStruct(query.shape, value.dtype), per_query]
    axes = (_SHARED, "b h q e, b h q")
    if heads.query_weight is not None:
        outputs.append(jax.ShapeDtypeStruct(key.shape[:3], np.float32))
        axes = (f"{axes[0]}, b q", f"{axes[1]}, b h n")
    out, lse, *received = platform_program(
        KERNELS[platform].forward,
        platform,
        [query, key, value, *per_example],
        outputs,
        " -> ".join(axes),
    )
    any_real = heads.real.any(axis=1)[:, None, None]
    return (
        jnp.where(any_real, _merge(out), 0),
        _merge(lse),
        _merge(received[0]) * heads.real if received else None,
    )


def backward(platform: str, num_heads: int, heads: tuple[Any, ...]) -> tuple[Any, ...]:
    """Computes what `sft_jax.ops.attention.tiles.backward` does.

    Args:
      platform: One of `platforms`.
      num_heads: Number of heads of an example.
      heads: See there.
    """
    inputs, out, lse, d_out, d_received = heads
    inner = (out.astype(np.float32) * d_out.astype(np.float32)).sum(axis=-1)
    query, key, value, addend, *query_weight = _arrays(num_heads, inputs)
    arrays = [query, key, value, addend]
    arrays += [_split(array, num_heads) for array in (lse, inner, d_out)]
    axes = f"{_SHARED}, b h q, b h q, b h q e"
    if d_received is not None:
        arrays += [*query_weight, _split(d_received * inputs.real, num_heads)[:, 0]]
        axes += ", b q, b n"
    outputs = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (query, key, value)]
    axes += " -> b h q e, b h n e, b h n e"
    with_terms = inputs.bias is not None
    if with_terms:
        outputs.append(jax.ShapeDtypeStruct(key.shape[:3], np.float32))
        axes += ", b h n"
    kernel = _backward_kernel(platform, with_terms)
    by_head = platform_program(kernel, platform, arrays, outputs, axes)
    d_query, d_key, d_value, *d_terms = map(_merge, by_head)
    scale = jnp.asarray(inputs.query.shape[-1] ** -0.5, d_query.dtype)
    real = inputs.real[..., None].astype(d_key.dtype)
    # Queries are scaled for logits to base 2.
    log_2 = jnp.asarray(math.log(2), d_key.dtype)
    d_bias = d_terms[0] * inputs.real * math.log(2) if with_terms else None
    return d_query * scale, d_key * (real * log_2), d_value * real, d_bias


@functools.cache
def _backward_kernel(platform: str, with_terms: bool) -> Callable[..., list[Array]]:
    """Backward pass of a platform, the same object in each call."""
    return functools.partial(KERNELS[platform].backward, with_terms=with_terms)


def _arrays(num_heads: int, heads: Inputs) -> list[Array]:
    """Returns queries, keys, values, terms added to the logits and weights of queries, if any."""
    bias = 0.0 if heads.bias is None else heads.bias
    addend = jnp.where(heads.real > 0, bias, MASKED)
    per_example = [addend] if heads.query_weight is None else [addend, heads.query_weight]
    return [
        *(_split(array, num_heads) for array in (base_2(heads.query), heads.key, heads.value)),
        *(_split(array, num_heads)[:, 0] for array in per_example),
    ]


def _split(array: Float[Array, "g ..."], num_heads: int) -> Float[Array, "b h ..."]:
    return array.reshape(-1, num_heads, *array.shape[1:])


def _merge(array: Float[Array, "b h ..."]) -> Float[Array, "g ..."]:
    return array.reshape(-1, *array.shape[2:])
