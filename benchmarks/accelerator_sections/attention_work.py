"""Attention over a whole sequence by each kernel, as operations of the roofline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator_sections.work import Work
from sft_jax.ops.attention import cudnn, plain, tiled

_HEADS, _FEATURES = 5, 8


def attention(size: int, tokens: int, dtype: Any, names: list[str] | None) -> dict[str, Work]:
    """Makes forward and backward passes of attention over CLS and tokens.

    Args:
      size: Batch size.
      tokens: Length of the sequence.
      dtype: Type of query, key and value.
      names: Names of kernels; None for all that support the type.
    """
    shape = (size, tokens, _HEADS, _FEATURES)
    keys = jax.random.split(jax.random.key(0), 3)
    query, key, value = (jax.random.normal(k, shape).astype(dtype) for k in keys)
    mask = jnp.ones((size, tokens), bool)
    pairs, numbers = size * _HEADS * tokens**2, query.size * query.dtype.itemsize
    kernels = _kernels(mask)
    kernels = {name: kernels[name] for name in names or kernels}
    if dtype != jnp.bfloat16 or jax.default_backend() != "gpu":
        kernels = {name: attend for name, attend in kernels.items() if "cudnn" not in name}
    works = {}
    for name, attend in kernels.items():
        label = f"attention, {dtype}, batch {size}, {name}"
        works[f"{label}, forward"] = Work(
            _forward(attend),
            (query, key, value),
            2 * 2 * pairs * _FEATURES,
            pairs,
            4 * numbers,
        )
        # The backward pass has five products more, one to compute the weights again. It reads
        # the sums and their gradient beside the inputs, and writes three gradients.
        works[f"{label}, forward and backward"] = Work(
            _backward(attend),
            (query, key, value),
            7 * 2 * pairs * _FEATURES,
            2 * pairs,
            12 * numbers,
        )
    return works


def _kernels(mask: jax.Array) -> dict[str, Callable[..., Any]]:
    """Functions from query, key and value to the sums, some with the saliency, by name."""

    def attend_plainly(query: Any, key: Any, value: Any) -> Any:
        return plain.apply_weights(plain.attention_weights(query, key, mask), value)

    def with_saliency(query: Any, key: Any, value: Any) -> Any:
        weights = plain.attention_weights(query, key, mask)
        return plain.apply_weights(weights, value), plain.saliency(weights, mask)

    def by_jax_nn(query: Any, key: Any, value: Any) -> Any:
        return jax.nn.dot_product_attention(query, key, value, implementation="xla")

    def by_jax_nn_cudnn(query: Any, key: Any, value: Any) -> Any:
        # cuDNN has no gradient for an odd length.
        length = query.shape[1]
        even = ((0, 0), (0, length % 2), (0, 0), (0, 0))
        lengths = jnp.full(len(query), length, jnp.int32)
        return jax.nn.dot_product_attention(
            *(jnp.pad(array, even) for array in (query, key, value)),
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )[:, :length]

    return {
        "plain": attend_plainly,
        "tiled": lambda q, k, v: tiled.tiled_attention(q, k, v, mask),
        "flash": lambda q, k, v: tiled.tiled_attention(q, k, v, mask, chip=True),
        "cudnn": lambda q, k, v: cudnn.cudnn_attention(q, k, v, mask),
        "plain, with saliency": with_saliency,
        "tiled, with saliency": lambda q, k, v: tiled.tiled_self_attention(q, k, v, mask),
        "flash, with saliency": lambda q, k, v: tiled.tiled_self_attention(
            q, k, v, mask, chip=True
        ),
        "jax.nn, xla": by_jax_nn,
        "jax.nn, cudnn": by_jax_nn_cudnn,
    }


def _forward(attend: Callable[..., Any]) -> Callable[..., Any]:
    def step(inputs: Any) -> Any:
        query, key, value = inputs
        attended, salient = _pair(attend(query, key, value))
        if salient is not None:
            # An unused saliency would not be computed.
            attended += (1e-3 * salient.mean()).astype(attended.dtype)
        return attended, key, value

    return step


def _backward(attend: Callable[..., Any]) -> Callable[..., Any]:
    def loss(query: Any, key: Any, value: Any) -> Any:
        attended, salient = _pair(attend(query, key, value))
        # Squared, so that the gradient needs the sums as those of a network do.
        total = jnp.square(attended).sum(dtype=jnp.float32)
        return total if salient is None else total + jnp.square(salient).sum()

    def step(inputs: Any) -> Any:
        gradients = jax.grad(loss, argnums=(0, 1, 2))(*inputs)
        # The sum keeps the size of the numbers; it reads and writes each once more.
        return tuple(
            array + (1e-3 * gradient).astype(array.dtype)
            for array, gradient in zip(inputs, gradients, strict=True)
        )

    return step


def _pair(attended: Any) -> tuple[Any, Any]:
    return attended if isinstance(attended, tuple) else (attended, None)
