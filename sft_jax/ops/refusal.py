"""Placeholders that can be traced anywhere, but raise a specific error when they are computed.

An operation may lack a derivative or support for a platform. JAX's own errors then name neither
the operation nor a remedy, and occur when the program is lowered, far from the call.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

_refuse = Primitive("refuse")


def refuse(array: Array, message: str) -> Array:
    """Returns a placeholder for an array of the same shape and dtype that can't be computed.

    The operation is linear and may be transposed: only a program that needs the result fails.

    Args:
      array: Array of the shape and dtype of the result.
      message: Text of the error.

    Raises:
      NotImplementedError: With `message`, when the placeholder is computed or lowered.
    """
    return _refuse.bind(array, message=message)


def reverse_only(array: Array, message: str) -> Array:
    """Returns the array; its forward-mode derivative raises NotImplementedError with `message`."""

    @jax.custom_jvp
    def same(array: Array) -> Array:
        return array

    @same.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        return primals[0], refuse(tangents[0], message)

    return same(array)


def _raise(*_: Any, message: str) -> Any:
    raise NotImplementedError(message)


_refuse.def_impl(_raise)
_refuse.def_abstract_eval(lambda array, *, message: array)
ad.deflinear(_refuse, lambda cotangent, *, message: [cotangent])
mlir.register_lowering(_refuse, _raise)
batching.primitive_batchers[_refuse] = lambda arrays, axes, *, message: (
    _refuse.bind(*arrays, message=message),
    axes[0],
)
