"""Pickles of arrays, text and containers, read without running anything that is in them.

A pickle can name any function to be called: whoever loads one with `pickle` trusts its author.
Here every name is looked up in a table of stand-ins, which make containers and numpy arrays from
checked arguments, and any other name is refused.
"""

from __future__ import annotations

import os
import pathlib
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from sft_jax.data.records import DataFileError

_DTYPE = re.compile(r"[<>=|]?([?biufcSUO])(\d*)")


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle of any protocol, written by Python 2 or 3 with numpy 1 or 2.

    Strings of Python 2 are decoded as latin-1. OrderedDict and defaultdict become dict.

    Args:
      path: of the file.

    Returns:
      What was pickled: numbers, strings, bytes, containers, numpy scalars, and arrays of
      booleans, numbers, text or objects.

    Raises:
      DataFileError: if the pickle asks for anything else, or is no pickle, or is incomplete.
      OSError: if the file cannot be read.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            return _plain(_Unpickler(file, encoding="latin1").load())
    except _RefusedError as error:
        raise DataFileError(
            f"{path} is refused: {error}; only arrays, numbers, text and containers are read,"
            " and nothing of it was run"
        ) from None
    except MemoryError:
        raise DataFileError(f"{path} asks for more memory than there is") from None
    except (pickle.UnpicklingError, EOFError, ArithmeticError, AttributeError, ImportError,
            LookupError, TypeError, ValueError, RecursionError) as error:  # fmt: skip
        raise DataFileError(
            f"{path} is not a whole pickle of arrays ({os.path.getsize(path)} bytes):"
            f" {error or type(error).__name__}"
        ) from None


class _RefusedError(Exception):
    """What a pickle asks for is not data."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an admitted name."""
        full = f"{module}.{name}".replace("numpy.core.", "numpy._core.")
        if full not in _ADMITTED:
            raise _RefusedError(f"it asks for {module}.{name}")
        return _ADMITTED[full]


class _StandIn:
    """What a pickle is given in place of a function or class: it can be called, and no more."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("it changes a function")


class _Dtype:
    """A type of elements that a pickle describes: simple ones only."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise _RefusedError(f"it asks for arrays of {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, then what structured types have)
        if not isinstance(state, tuple) or len(state) < 5 or any(state[2:5]):
            raise _RefusedError("it asks for arrays of structures")
        if state[1] not in ("<", ">", "=", "|"):
            raise _RefusedError(f"it asks for the byte order {state[1]!r}")
        if self.dtype.kind in "SU" and len(state) > 5 and not self.dtype.itemsize:
            raise _RefusedError("it asks for text of no fixed size")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose state is checked before it is taken over."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise ValueError("an array without its shape or content")
        shape, described, fortran, content = state[-4:]
        dtype, size = _checked(shape, described)
        if dtype.hasobject:
            if not isinstance(content, list) or len(content) != size:
                raise ValueError(f"an array of {size} objects without so many")
        else:
            if isinstance(content, str):  # Of Python 2.
                content = content.encode("latin1")
            if not isinstance(content, bytes) or len(content) != size * dtype.itemsize:
                raise ValueError(f"an array of shape {shape} and {dtype} of other size")
            if dtype.kind == "U":
                codes = np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder))
                if codes.max(initial=0) > sys.maxunicode:
                    raise ValueError("an array of text with what is no character")
        super().__setstate__((1, shape, dtype, bool(fortran), content))


def _checked(shape: Any, described: Any) -> tuple[np.dtype[Any], int]:
    """The type and number of the elements of an array."""
    if not isinstance(described, _Dtype):
        raise ValueError("an array without a type of its elements")
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"an array of shape {shape!r}")
    size = 1
    for n in shape:
        size *= n
    return described.dtype, size


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not _ADMITTED["numpy.ndarray"]:
        raise _RefusedError("it asks for a kind of array that is not known")
    return _Array.__new__(_Array, (0,), np.uint8)


def _from_buffer(content: Any, described: Any, shape: Any, order: Any) -> np.ndarray:
    dtype, size = _checked(shape, described)
    if dtype.hasobject or order not in ("C", "F"):
        raise _RefusedError("it asks for an array of objects in a buffer")
    if not isinstance(content, bytes | bytearray) or len(content) != size * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} and {dtype} of other size")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _scalar(described: Any, content: Any = b"") -> Any:
    if isinstance(content, str):
        content = content.encode("latin1")
    return _from_buffer(content, described, (1,), "C")[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # How Python 3 writes bytes for Python 2.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"it asks for text in the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(kind: type) -> Callable[..., Any]:
    def make(content: Any = b"", encoding: Any = None) -> Any:
        if isinstance(content, str):
            content = _encode(content, encoding)
        if not isinstance(content, bytes | bytearray | list):
            raise _RefusedError(f"it makes {kind.__name__} of {type(content).__name__}")
        return kind(content)

    return make


def _of_items(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | dict | set | frozenset):
            raise _RefusedError(f"it makes a {kind.__name__} of {type(items).__name__}")
        return kind(items)

    return make


def _numbers(kind: type) -> Callable[..., Any]:
    def make(*values: Any) -> Any:
        if len(values) > 2 or any(type(value) not in (int, float) for value in values):
            raise _RefusedError(f"it makes a {kind.__name__} of something else than numbers")
        return kind(*values)

    return make


def _refuse(*_: Any) -> None:
    raise _RefusedError("it calls what is only to be named")


def _no_items(factory: Any = None, *_: Any) -> dict[Any, Any]:
    return {}


_ADMITTED: dict[str, _StandIn] = {
    "numpy.ndarray": _StandIn(_refuse),  # An argument of _reconstruct, never called.
    "numpy.dtype": _StandIn(_Dtype),
    "numpy._core.multiarray._reconstruct": _StandIn(_reconstruct),
    "numpy._core.multiarray.scalar": _StandIn(_scalar),
    "numpy._core.numeric._frombuffer": _StandIn(_from_buffer),
    "_codecs.encode": _StandIn(_encode),
    "collections.OrderedDict": _StandIn(_of_items(dict)),
    "collections.defaultdict": _StandIn(_no_items),
    **{
        f"{module}.{kind.__name__}": _StandIn(make(kind))
        for module in ("builtins", "__builtin__")
        for make, kinds in (
            (_bytes, (bytes, bytearray)),
            (_of_items, (list, tuple, dict, set, frozenset)),
            (_numbers, (complex, int, float, bool)),
        )
        for kind in kinds
    },
}


def _plain(value: Any) -> Any:
    """The same with arrays of numpy's own class."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            for i, item in enumerate(value.flat):
                value.flat[i] = _plain(item)
        return value.view(np.ndarray)
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(of) for of in value)
    if isinstance(value, _StandIn | _Dtype):
        raise _RefusedError("it holds a function or type in place of data")
    return value
