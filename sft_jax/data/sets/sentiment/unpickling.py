"""Reader for pickles of arrays, text and containers that runs no code from the file.

A pickle is a program for a stack machine, and can name any function to call: loading one with
`pickle` means trusting its author. This module executes the instructions in a restricted machine.
It builds numbers, text, containers and numpy arrays, and can do nothing else. Names in a pickle
are looked up in the table of `pickled_values` and never imported. The number of bytes of an array
is checked before the array is made.

The published files are larger than the memory of most machines, so the file is memory-mapped.
An array of 1 MiB or more is a view of the file, which takes memory only while it is read.
"""

from __future__ import annotations

import codecs
import mmap
import os
import pathlib
import pickletools
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.sentiment.pickled_values import (
    ADMITTED,
    Global,
    Pending,
    RefusedError,
    admitted,
    checked_dict,
    checked_keys,
)

_LARGE = 1 << 20  # Least number of bytes of a value that stays in the file.


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle of any protocol, written by Python 2 or 3 with numpy 1 or 2.

    Strings of Python 2 are decoded as latin-1. OrderedDict and defaultdict become dict.

    Args:
      path: Path of a file that must not change while the result is in use.

    Returns:
      Pickled data: numbers, str, bytes, bytearray, containers, numpy scalars, and arrays of
      booleans, numbers, text or objects. Arrays are read-only, and arrays of 1 MiB or more read
      the file on access. Bytes of 1 MiB or more outside of an array are a memoryview.

    Raises:
      DataFileError: If the pickle contains anything else, or the file is not a whole pickle.
      OSError: If the file cannot be read.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise DataFileError(f"{path} is empty, expected a pickle")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _Machine(content).run()
    except RefusedError as error:
        raise DataFileError(
            f"{path} is refused: {error}, but only arrays, numbers, text and containers are"
            " read; nothing in it was run"
        ) from error
    except MemoryError as error:
        raise DataFileError(
            f"{path} does not fit in memory: out of it at byte {content.tell()} of {len(content)}"
        ) from error
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise DataFileError(
            f"{path} is not a whole pickle of data: at byte {content.tell()} of {len(content)}:"
            f" {error}"
        ) from error


class _Machine:
    """Executes the instructions of one pickle.

    The method `_do_x` implements opcode X of `pickletools`; opcodes without a method are refused.
    """

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self._content.read(1)
            if not code:
                raise ValueError("the file ends before the pickle does")
            if code not in _OPCODES:
                raise ValueError(f"{code!r} is no instruction of a pickle")
            name, read = _OPCODES[code]
            if name == "STOP":
                return self._result()
            argument: Any = None
            if name in _SIZES:
                argument = self._window(_SIZES[name])
            elif read:
                argument = read(self._content)
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _VALUES:
                self._stack.append(argument)
            else:
                getattr(self, f"_do_{name.lower()}", self._refuse)(argument)

    def _result(self) -> Any:
        result = self._stack.pop()
        if isinstance(result, Global | Pending | np.dtype):
            raise RefusedError("it holds no data")
        return result

    def _refuse(self, argument: object) -> None:
        raise RefusedError("it makes objects of a class or refers to something outside")

    def _window(self, size: struct.Struct) -> bytes | memoryview:
        (length,) = size.unpack(self._content.read(size.size))
        start = self._content.tell()
        if not 0 <= length <= len(self._content) - start:
            raise ValueError(f"{length} bytes promised, {len(self._content) - start} remain")
        self._content.seek(start + length)
        window = memoryview(self._content)[start : start + length]
        return window if length >= _LARGE else bytes(window)

    def _pop_marked(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"{kind.__name__} expected, got {type(self._stack[-1]).__name__}")
        return self._stack[-1]

    def _do_proto(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"protocol {version} is not known, expected at most 5")

    def _do_frame(self, length: int) -> None:
        pass  # The opcode is a hint for readers that stream the file.

    def _do_mark(self, _: None) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _do_pop(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_marked()

    def _do_pop_mark(self, _: None) -> None:
        self._pop_marked()

    def _do_dup(self, _: None) -> None:
        self._stack.append(self._stack[-1])

    def _do_string(self, _: None) -> None:
        line = self._content.readline().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("a string has no quotes around it")
        self._stack.append(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))

    def _do_binstring(self, value: bytes | memoryview) -> None:
        self._stack.append(value.decode("latin-1") if isinstance(value, bytes) else value)

    def _do_bytearray8(self, value: bytes | memoryview) -> None:
        self._stack.append(bytearray(value) if isinstance(value, bytes) else value)

    def _do_tuple(self, _: None) -> None:
        items = self._pop_marked()
        self._stack.append(tuple(items))

    def _do_tuple1(self, _: None) -> None:
        self._tuple(1)

    def _do_tuple2(self, _: None) -> None:
        self._tuple(2)

    def _do_tuple3(self, _: None) -> None:
        self._tuple(3)

    def _tuple(self, length: int) -> None:
        if len(self._stack) < length:
            raise ValueError(f"a tuple of {length} is made of {len(self._stack)} values")
        self._stack[-length:] = [tuple(self._stack[-length:])]

    def _do_list(self, _: None) -> None:
        items = self._pop_marked()
        self._stack.append(items)

    def _do_append(self, _: None) -> None:
        item = self._stack.pop()
        self._top(list).append(item)

    def _do_appends(self, _: None) -> None:
        items = self._pop_marked()
        self._top(list).extend(items)

    def _do_dict(self, _: None) -> None:
        items = self._pop_marked()
        self._stack.append(checked_dict(_pairs(items)))

    def _do_setitem(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._top(dict).update(checked_dict([(key, value)]))

    def _do_setitems(self, _: None) -> None:
        items = self._pop_marked()
        self._top(dict).update(checked_dict(_pairs(items)))

    def _do_additems(self, _: None) -> None:
        items = self._pop_marked()
        self._top(set).update(checked_keys(items))

    def _do_frozenset(self, _: None) -> None:
        items = self._pop_marked()
        self._stack.append(frozenset(checked_keys(items)))

    def _do_memoize(self, _: None) -> None:
        self._do_put(len(self._memo))

    def _do_put(self, key: int) -> None:
        value = self._stack[-1]
        self._memo[key] = value
        if isinstance(value, Pending):
            value.memo_keys.append(key)

    def _do_get(self, key: int) -> None:
        if key not in self._memo:
            raise ValueError(f"value {key} is used before it is there")
        self._stack.append(self._memo[key])

    _do_binput = _do_long_binput = _do_put
    _do_binget = _do_long_binget = _do_get

    def _do_global(self, argument: str) -> None:
        self._stack.append(admitted(*argument.split(" ", 1)))

    def _do_stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("the name of a function is not a string")
        self._stack.append(admitted(module, name))

    def _do_inst(self, argument: str) -> None:
        raise RefusedError(f"it asks for {Global(*argument.split(' ', 1))}")

    def _do_reduce(self, _: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not Global or type(arguments) is not tuple:
            raise ValueError("a call has no function or no arguments")
        make = ADMITTED[function]
        if make is None:
            raise RefusedError(f"it calls {function}")
        self._stack.append(make(*arguments))

    def _do_build(self, _: None) -> None:
        state, pending = self._stack.pop(), self._stack.pop()
        if not isinstance(pending, Pending):
            raise RefusedError(f"it sets the state of a {type(pending).__name__}")
        finished = pending.finish(state)
        self._stack.append(finished)
        for key in pending.memo_keys:
            if self._memo[key] is pending:
                self._memo[key] = finished


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


_OPCODES: dict[bytes, tuple[str, Callable[[Any], Any] | None]] = {
    opcode.code.encode("latin-1"): (opcode.name, opcode.arg.reader if opcode.arg else None)
    for opcode in pickletools.opcodes
}
# The reader of `pickletools` accepts ASCII only, but the strings of Python 2 are bytes.
_OPCODES[b"S"] = ("STRING", None)

# Opcodes followed by a number of bytes and then the bytes, with the format of the number.
_SIZES = {
    "BINBYTES": struct.Struct("<I"),
    "BINBYTES8": struct.Struct("<Q"),
    "BINSTRING": struct.Struct("<i"),
    "BYTEARRAY8": struct.Struct("<Q"),
}

# Opcodes whose argument is itself the value.
_VALUES = {
    "BINBYTES",
    "BINBYTES8",
    "BINFLOAT",
    "BININT",
    "BININT1",
    "BININT2",
    "BINUNICODE",
    "BINUNICODE8",
    "FLOAT",
    "INT",
    "LONG",
    "LONG1",
    "LONG4",
    "SHORT_BINBYTES",
    "SHORT_BINSTRING",
    "SHORT_BINUNICODE",
    "UNICODE",
}

_CONSTANTS: dict[str, Callable[[], object]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "NEWFALSE": lambda: False,
    "NEWTRUE": lambda: True,
    "NONE": lambda: None,
}
