"""C files, compiled for this machine and called from Python."""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""Options with which every warning is an error."""

_COMPILERS = ("gcc", "clang", "cc")


class CompilerError(OSError):
    """A compiler is missing, or refuses a file."""


class Input(ctypes.Structure):
    """One modality of an example, `sft_input` of `parts/interface.c`."""

    _fields_ = (
        ("values", ctypes.POINTER(ctypes.c_float)),
        ("mask", ctypes.POINTER(ctypes.c_ubyte)),
        ("length", ctypes.c_int),
    )


_ERRORS = {
    1: "a length beyond that of its modality",
    2: "k out of range",
    3: "a value that is not finite",
    4: "no input, every modality is absent or padding alone",
}
"""Results of `sft_predict`; see `parts/interface.c`."""


class Library:
    """A C file as a shared library, compiled when it is first used."""

    def __init__(self, path: pathlib.Path, modalities: Sequence[str], outputs: int) -> None:
        """Compiles nothing yet.

        Args:
          path: C file.
          modalities: Names of the modalities, in the order of the file.
          outputs: Number of outputs.
        """
        self._path = path
        self._modalities = modalities
        self._outputs = outputs

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        masks: Mapping[str, np.ndarray],
        k: Mapping[str, int] | None = None,
        kept: np.ndarray | None = None,
    ) -> np.ndarray:
        """Computes the outputs of a batch, one example after the other.

        Args:
          inputs: `[b, *lengths, features]` values, as measured. Those of a modality that is left
            out are null, so the file computes it or takes it for absent.
          masks: `[b, *lengths]` booleans, False at padding.
          k: Number of tokens kept of each modality; None for the default of the file.
          kept: `[b, tokens]` uint8, which is filled with 1 at each token that is selected.

        Returns:
          `[b, c]` float32: probabilities, or the predicted numbers of a regression.

        Raises:
          ValueError: If the file refuses an example.
          CompilerError: If there is no compiler, or it refuses the file.
        """
        values = {name: np.ascontiguousarray(a, np.float32) for name, a in inputs.items()}
        real = {name: np.ascontiguousarray(masks[name], np.uint8) for name in inputs}
        budget = None
        if k is not None:
            budget = (ctypes.c_int * len(k))(*(k[name] for name in self._modalities))
        count = len(next(iter(values.values())))
        outputs = np.zeros((count, self._outputs), np.float32)
        for i, row in enumerate(outputs):
            structs = (Input * len(self._modalities))()
            for name, struct in zip(self._modalities, structs, strict=True):
                if name in values:
                    struct.values = _pointer(values[name][i], ctypes.c_float)
                    struct.mask = _pointer(real[name][i], ctypes.c_ubyte)
                    struct.length = values[name].shape[1]
            flags = None if kept is None else _pointer(kept[i], ctypes.c_ubyte)
            if code := self._predict(structs, budget, _pointer(row, ctypes.c_float), flags):
                raise ValueError(f"{self._path} refuses example {i}: {_ERRORS[code]}")
        return outputs

    def load(self) -> None:
        """Compiles the file now, which may be removed then.

        Raises:
          CompilerError: See `run`.
        """
        assert self._predict

    @functools.cached_property
    def _predict(self) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            library = os.path.join(folder, "model.so")
            compile_c(self._path, library, "-O2", "-shared", "-fPIC")
            # A library that is loaded stays so when its file is gone.
            function = ctypes.CDLL(library).sft_predict
        function.restype = ctypes.c_int
        return function


def compiler() -> str:
    """Name of the C compiler of this machine; the first that we look for if there is none."""
    return next(filter(shutil.which, _COMPILERS), _COMPILERS[0])


def compile_c(source: pathlib.Path, output: str, *options: str) -> None:
    """Compiles a C99 file, whatever its ending; every warning is an error.

    Args:
      source: C file.
      output: File to write.
      *options: Further options of the compiler.

    Raises:
      CompilerError: If there is no compiler, or it refuses the file.
    """
    run_tool(compiler(), *STRICT, *options, "-o", output, "-x", "c", str(source))


def code_sizes(source: pathlib.Path) -> dict[str, int]:
    """Measures a file as gcc -Os compiles it for this machine.

    Args:
      source: C file.

    Returns:
      `flash_bytes`, the constants and the code, and `ram_bytes`, the static variables; nothing
      without gcc.
    """
    if not (shutil.which("gcc") and shutil.which("size")):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "model.o")
        # Neither position-independent code nor tables to unwind: a microcontroller has none.
        compile_c(source, output, "-Os", "-c", "-fno-pic", "-fno-asynchronous-unwind-tables")
        text, data, bss = map(int, run_tool("size", output).splitlines()[1].split()[:3])
    return {"flash_bytes": text + data, "ram_bytes": data + bss}


def run_tool(name: str, *arguments: str) -> str:
    """Runs a program and returns its output.

    Args:
      name: Name of the program.
      *arguments: Its arguments.

    Raises:
      CompilerError: If it is missing or fails.
    """
    if shutil.which(name) is None:
        raise CompilerError(f"{name} was not found: install it, or add it to the PATH")
    result = subprocess.run([name, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise CompilerError(f"{name} failed: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def _pointer(array: np.ndarray, kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
