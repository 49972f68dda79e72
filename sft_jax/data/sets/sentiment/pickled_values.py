"""Values that a pickle of data may contain, built without calling the functions it names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np


class RefusedError(Exception):
    """Error for a pickle that requests more than data."""


class Global(NamedTuple):
    """Name of a function or class in a pickle; the object itself is never loaded."""

    module: str
    name: str

    def __str__(self) -> str:
        return _printable(f"{self.module}.{self.name}")


class Pending:
    """A dtype or an array whose state has not been read yet."""

    def __init__(self, finish: Callable[[Any], object]) -> None:
        self.finish = finish
        self.memo_keys: list[int] = []


def _printable(value: Any) -> str:
    """Formats a value for messages; text of unknown origin may be huge, or control the terminal."""
    return repr(value[:80]) if type(value) is str else f"a {type(value).__name__}"


def checked_dict(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Makes a dict, and checks its keys by `checked_keys`."""
    items = list(pairs)
    return dict(
        zip(checked_keys(key for key, _ in items), (value for _, value in items), strict=True)
    )


def checked_keys(items: Iterable[Any]) -> list[Any]:
    """Checks that items are text, numbers, None or tuples of these.

    Nested tuples are refused: a pickle can nest them so deeply that hashing overflows the C stack.

    Raises:
      ValueError: If an item is anything else.
    """
    keys = list(items)
    for key in keys:
        for part in key if type(key) is tuple else (key,):
            if not isinstance(part, str | bytes | int | float | complex | np.generic | None):
                raise ValueError(f"a {type(part).__name__} is no key of a dict or set")
    return keys


def admitted(module: str, name: str) -> Global:
    """Looks up a name that a pickle requests.

    Raises:
      RefusedError: If the name is not on the list of allowed names.
    """
    requested = Global(module, name)
    if requested not in ADMITTED:
        raise RefusedError(f"it asks for {requested}")
    return requested


def _make_encoded(text: Any, encoding: Any = None) -> bytes:
    """Makes bytes from the form in which Python 3 writes them for Python 2."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"it calls _codecs.encode with {_printable(encoding)}")
    return text.encode("latin-1")


def _make_bytes() -> bytes:
    return b""


def _make_bytearray(content: Any = b"", encoding: Any = None) -> bytearray:
    if encoding is not None:
        content = _make_encoded(content, encoding)
    if not isinstance(content, bytes | memoryview):
        raise ValueError(f"a bytearray is made of a {type(content).__name__}")
    return bytearray(content)


def _make_complex(real: Any, imaginary: Any) -> complex:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise ValueError("a complex number is not made of two numbers")
    return complex(real, imaginary)


def _make_set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple):
        raise ValueError(f"a set is made of a {type(items).__name__}")
    return set(checked_keys(items))


def _make_frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_make_set(items))


def _make_ordered_dict(items: Any = ()) -> dict[Any, Any]:
    if type(items) not in (list, tuple):
        raise ValueError(f"an OrderedDict is made of a {type(items).__name__}")
    return checked_dict((key, value) for key, value in items)


def _make_default_dict(factory: Any = None) -> dict[Any, Any]:
    return {}


# Dates are not allowed, as their origin varies, nor are records, whose layout can be anything.
_DTYPE = re.compile(r"b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU][1-9][0-9]{0,8}|O[48]?")


def _make_dtype(code: Any, align: Any = False, copy: Any = True) -> Pending:
    if type(code) is not str or not _DTYPE.fullmatch(code):
        raise RefusedError(f"it asks for arrays of dtype {_printable(code)}")
    return Pending(lambda state: _finish_dtype(code, state))


def _finish_dtype(code: str, state: Any) -> np.dtype[Any]:
    # The state is version, byte order, subarray, names, fields, element size, alignment, flags
    # and metadata.
    if type(state) is not tuple or len(state) not in (8, 9) or state[1] not in tuple("<>=|"):
        raise ValueError(f"the state of dtype {code!r} is not one that is known")
    if state[2:5] != (None, None, None):
        raise RefusedError(f"it asks for dtype {code!r} with fields")
    dtype = np.dtype("O" if code[0] == "O" else code)
    return dtype.newbyteorder(state[1]) if state[1] in "<>" else dtype


def _make_array(kind: Any, shape: Any = None, code: Any = None) -> Pending:
    if type(kind) is not Global or kind != Global("numpy", "ndarray"):
        raise RefusedError("it asks for an array that is not a numpy.ndarray")
    return Pending(_finish_array)


def _finish_array(state: Any) -> np.ndarray:
    if type(state) is not tuple or len(state) != 5:
        raise ValueError("the state of an array is not one that is known")
    _, shape, dtype, fortran, content = state
    return _array(content, dtype, shape, "F" if fortran else "C")


def _make_scalar(dtype: Any, content: Any) -> Any:
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        raise RefusedError("it asks for a numpy scalar that is an object")
    return _array(content, dtype, (), "C")[()]


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise ValueError(f"the dtype of an array is a {type(dtype).__name__}")
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("the shape of an array is not a tuple of sizes")
    if order not in ("C", "F"):
        raise ValueError(f"the order of an array is {_printable(order)}, expected C or F")
    count = math.prod(shape)
    if dtype.kind == "O":
        # The list is in C order even if the array was not.
        array = _objects(content, count).reshape(shape)
    else:
        array = _elements(content, dtype, count).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _objects(content: Any, count: int) -> np.ndarray:
    if type(content) is not list or len(content) != count:
        raise ValueError(f"an array of {count} objects is not made of a list of as many")
    array = np.empty(count, object)
    for index, item in enumerate(content):
        # Freeing deeply nested arrays of objects would overflow the C stack.
        if isinstance(item, np.ndarray) and item.dtype.kind == "O":
            raise ValueError("an array of objects holds an array of objects")
        array[index] = item
    return array


def _elements(content: Any, dtype: np.dtype[Any], count: int) -> np.ndarray:
    if isinstance(content, str):
        content = content.encode("latin-1")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ValueError(f"the content of an array is a {type(content).__name__}")
    if len(content) != count * dtype.itemsize:
        raise ValueError(
            f"{count} elements of {dtype} take {count * dtype.itemsize} bytes, got {len(content)}"
        )
    if not count:
        return np.empty(0, dtype)
    if dtype.kind == "U":
        characters = np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder))
        if characters.max() > 0x10FFFF:
            raise ValueError("an array of text holds what is no character")
    return np.frombuffer(content, dtype)


def _table() -> dict[Global, Callable[..., object] | None]:
    """Maps each allowed name to the function that builds its value; None for a mere reference."""
    builtins = {
        "bytearray": _make_bytearray,
        "bytes": _make_bytes,
        "complex": _make_complex,
        "dict": None,
        "float": None,
        "frozenset": _make_frozenset,
        "int": None,
        "list": None,
        "set": _make_set,
        "str": None,
    }
    table: dict[Global, Callable[..., object] | None] = {
        Global("_codecs", "encode"): _make_encoded,
        Global("collections", "OrderedDict"): _make_ordered_dict,
        Global("collections", "defaultdict"): _make_default_dict,
        Global("numpy", "dtype"): _make_dtype,
        Global("numpy", "ndarray"): None,
    }
    for module in ("builtins", "__builtin__"):
        table |= {Global(module, name): make for name, make in builtins.items()}
    for core in ("numpy.core", "numpy._core"):
        table[Global(f"{core}.multiarray", "_reconstruct")] = _make_array
        table[Global(f"{core}.multiarray", "scalar")] = _make_scalar
        table[Global(f"{core}.numeric", "_frombuffer")] = _array
    return table


ADMITTED = _table()
