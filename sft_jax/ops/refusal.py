"""Operations that can be traced anywhere, and refuse to be computed with an error of their own.

An operation may lack a derivative or a platform. JAX's own errors about that name neither the
operation nor a way out, and come when the program is lowered, far from the call.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

_refuse = Primitive("refuse")


def refuse(array: Array, message: str) -> Array:
    """Stands for an array of the same shape and dtype that can't be computed.

    It is linear and may be transposed: a program is refused only if it needs the result itself.

    Args:
      array: Array of the shape and dtype of the result.
      message: Text of the error.

    Raises:
      NotImplementedError: With `message`, when it is computed or lowered.
    """
    return _refuse.bind(array, message=message)


def reverse_only(array: Array, message: str) -> Array:
    """Returns the array, and refuses its forward-mode derivative with `message`."""

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
