"""Attention by NVIDIA's library cuDNN, which does not store the weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.cudnn import fused_attention_stablehlo as fused
from jaxtyping import Array, Bool, Float

from sft_jax.ops.platform_program import platform_program
from sft_jax.ops.refusal import refuse, reverse_only

_DTYPES = ("bfloat16", "float16")
_MULTIPLE, _LARGEST = 8, 128
"""Required divisor of the number of features of a head, and its largest value."""

_ELSEWHERE = "attention_kernel='cudnn' needs an NVIDIA GPU; 'auto' works everywhere"
_NO_FORWARD_MODE = (
    "forward-mode differentiation (jax.jvp, jax.jacfwd, jax.linearize) of attention by cuDNN is"
    " not implemented; with attention_kernel='plain' it is"
)


def is_supported(dtype: np.dtype, head_size: int) -> bool:
    """Returns whether `cudnn_attention` supports heads of this type and size."""
    return jnp.dtype(dtype).name in _DTYPES and head_size < _LARGEST


def cudnn_attention(
    query: Float[Array, "b q h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    key_mask: Bool[Array, "b n"],
    key_sizes: Float[Array, "b n"] | None = None,
    *,
    elsewhere: Callable[..., Array] | None = None,
) -> Float[Array, "b q h e"]:
    """Scaled dot-product attention on an NVIDIA GPU, in bfloat16 or float16.

    It equals `apply_weights` of `attention_weights` (`sft_jax.ops.attention.plain`), up to
    rounding. Mask and sizes enter as one more feature of the keys, which is 1 in every query: no
    array of queries times keys is needed. Sequences are padded to even lengths.

    Args:
      query: Queries of `h` heads of size `e`, at most 127.
      key: Keys.
      value: Values.
      key_mask: False marks a key that gets no weight. Masked keys and values must be finite.
      key_sizes: Number of equal keys that each key counts as, above 0 at real keys; None for 1.
      elsewhere: Function of the same arrays for cases that cuDNN can't handle: other platforms
        and symbolic sizes. With None these cases raise errors.

    Returns:
      The weighted sums of the values, in their type; 0 where an example has no real key.

    Raises:
      ValueError: For heads of another type or size, and for symbolic sizes without `elsewhere`.
      NotImplementedError: When the forward-mode derivative is lowered, or when the function is
        lowered for another platform than cuda without `elsewhere`.
    """
    if not is_supported(query.dtype, query.shape[-1]):
        raise ValueError(
            f"attention_kernel='cudnn' takes {' or '.join(_DTYPES)} and heads of at most"
            f" {_LARGEST - 1} features, got {query.dtype} and {query.shape[-1]}; 'auto' takes any"
        )
    # The programs of cuDNN are compiled for fixed sizes.
    if not all(isinstance(size, int) for size in (*query.shape, *key.shape)):
        if elsewhere is None:
            raise ValueError(
                "attention_kernel='cudnn' takes sizes that are known when it is traced, got queries"
                f" of {query.shape} and keys of {key.shape}; 'auto' takes any"
            )
        return elsewhere(query, key, value, key_mask, key_sizes)
    arrays = tuple(reverse_only(array, _NO_FORWARD_MODE) for array in (query, key, value))
    return jax.lax.platform_dependent(
        *arrays, key_mask, key_sizes, cuda=_padded, default=elsewhere or _refuse
    )


def _refuse(query: Array, *_: Any) -> Array:
    return refuse(query, _ELSEWHERE)


def _padded(
    query: Array, key: Array, value: Array, key_mask: Array, key_sizes: Array | None
) -> Array:
    """Computes attention of arrays padded to shapes that cuDNN supports."""
    _, length, _, size = query.shape
    scale = size**-0.5
    # The fill is far below any logit, and stays finite when multiplied by the scale.
    masked = 0.5 * float(jnp.finfo(key.dtype).min)
    bias = jnp.zeros(key_mask.shape)
    if key_sizes is not None:
        bias = jnp.log(jnp.where(key_mask, key_sizes, 1)) / scale
    bias = _even(jnp.where(key_mask, bias, masked).astype(key.dtype), masked)[:, :, None, None]
    key = _even(key)
    bias = jnp.broadcast_to(bias, (*key.shape[:-1], 1))
    one = jnp.ones_like(query[..., :1])
    attended = _attend(
        _wide(_even(jnp.concatenate([query, one], axis=-1))),
        _wide(jnp.concatenate([key, bias], axis=-1)),
        _wide(_even(jnp.concatenate([value, jnp.zeros_like(value[..., :1])], axis=-1))),
        scale,
    )[:, :length, :, :size]
    # For an example without any real key, cuDNN returns the mean of all values.
    return jnp.where(key_mask.any(axis=-1)[:, None, None, None], attended, 0)


def _even(array: Array, fill: float = 0.0) -> Array:
    """Pads the second axis to an even length, which the gradient needs."""
    widths = [(0, 0), (0, array.shape[1] % 2), *[(0, 0)] * (array.ndim - 2)]
    return jnp.pad(array, widths, constant_values=fill)


def _wide(heads: Array) -> Array:
    """Pads the features with 0 to a multiple that cuDNN supports."""
    return jnp.pad(heads, ((0, 0), (0, 0), (0, 0), (0, -heads.shape[-1] % _MULTIPLE)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(query: Array, key: Array, value: Array, scale: float) -> Array:
    arrays = (query, key, value)
    return platform_program(_program(_infer, scale), "cuda", arrays, [_like(query)])[0]


def _forward(query: Array, key: Array, value: Array, scale: float) -> tuple[Array, Any]:
    arrays = (query, key, value)
    per_query = jax.ShapeDtypeStruct((*query.shape[:-1], 1), np.float32)
    program = _program(_infer_to_train, scale)
    out, log_sum_exp = platform_program(program, "cuda", arrays, [_like(query), per_query])
    return out, (*arrays, log_sum_exp, out)


def _backward(scale: float, residuals: Any, d_out: Array) -> tuple[Array, ...]:
    arrays = (*residuals, d_out)
    program = _program(_gradients, scale)
    return tuple(platform_program(program, "cuda", arrays, [*map(_like, residuals[:3])]))


_attend.defvjp(_forward, _backward)


@functools.cache
def _program(function: Callable[..., list[Array]], scale: float) -> Callable[..., list[Array]]:
    """Function of arrays alone, the same object for the same arguments."""
    return functools.partial(function, scale=scale)


def _like(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


# `jax.nn.dot_product_attention(..., implementation="cudnn")` calls the functions below, but first
# checks the cuDNN of this host. A program for another host does not need that check.
def _settings(scale: float) -> tuple[Any, ...]:
    """Returns scale, seed, dropout, bias, mask, layout, window, cuDNN version and residuals."""
    no_mask, layout = fused.MaskType.NO_MASK, fused.AttentionLayout.BTNH.value
    return (scale, 42, 0.0, (False, False), no_mask, layout, None, 0, False)


def _nothing(like: Array) -> list[Array]:
    """Makes empty arrays in place of bias, lengths, offsets and pages."""
    return [jnp.zeros(0, like.dtype)] * 7


def _infer(query: Array, key: Array, value: Array, *, scale: float) -> list[Array]:
    arrays = (query, key, value)
    return [fused._dot_product_attention(*arrays, *_nothing(query), *_settings(scale))]


def _infer_to_train(query: Array, key: Array, value: Array, *, scale: float) -> list[Array]:
    out, residuals = fused._dot_product_attention_fwd_rule(
        query, key, value, *_nothing(query), *_settings(scale)
    )
    return [out, residuals[-2].swapaxes(1, 2)[..., None]]


def _gradients(*arrays: Array, scale: float) -> list[Array]:
    *inputs, log_sum_exp, out, d_out = arrays
    residuals = (*inputs, *_nothing(out), log_sum_exp[..., 0].swapaxes(1, 2), out)
    arguments: Any = (*_settings(scale), residuals, d_out)
    return list(fused._dot_product_attention_bwd_rule(*arguments))[:3]
