"""Table of the runtimes: each makes a file of a trained run, and names the process that runs it."""

from __future__ import annotations

import functools
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from sft_jax import export
from sft_jax.export import html, stablehlo
from sft_jax.export.c import library
from sft_jax.profile import isolated

_HERE = pathlib.Path(__file__).parent
LITERT = (("--no-deps", "litert-converter==0.5.0"), ("ai-edge-litert",))
"""Arguments of `pip install`, one after the other; see docs/export.md."""


class MissingToolError(Exception):
    """A runtime that can't be measured on this machine, with the reason."""


class Job(NamedTuple):
    """A trained run whose runtimes are measured.

    Attributes:
      workdir: Run directory, or another folder that `sft_jax.load` takes.
      classifier: Its model.
      folder: Folder for all files that are made.
      litert_python: Python with LiteRT; None to install one in `folder`.
    """

    workdir: pathlib.Path
    classifier: Any
    folder: pathlib.Path
    litert_python: str | None = None


class Prepared(NamedTuple):
    """A model that a process can open.

    Attributes:
      path: File or folder.
      size: Bytes of the file that is shipped.
      program: See `sft_jax.profile.isolated.IsolatedFunction`; None for this Python.
    """

    path: pathlib.Path
    size: int
    program: tuple[str, ...] | None = None


class Runtime(NamedTuple):
    """A row of the benchmark.

    Attributes:
      title: Name in tables.
      side: Name of the class of `sides.py`.
      prepare: Function that makes the file. It raises MissingToolError or ModuleNotFoundError.
      any_k: Whether `k` is chosen at run time.
    """

    title: str
    side: str
    prepare: Callable[[Job], Prepared]
    any_k: bool = True


def _run(job: Job) -> Prepared:
    """The run itself, whose size is that of the parameters."""
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(job.classifier.params)]
    return Prepared(job.workdir, sum(sizes))


def _onnx(job: Job, quantize: str | None = None) -> Prepared:
    path = job.folder / f"{quantize or 'float'}.onnx"
    export.write(job.classifier, path, "onnx", quantize=quantize)
    return Prepared(path, path.stat().st_size)


def _c_file(job: Job, quantize: str | None) -> pathlib.Path:
    path = job.folder / f"{quantize or 'float'}.c"
    if not path.exists():
        export.write(job.classifier, path, "c", quantize=quantize)
    return path


def _c(job: Job, options: tuple[str, ...], quantize: str | None = None) -> Prepared:
    _require("gcc")
    source = _c_file(job, quantize)
    path = source.with_name(f"{source.stem}{''.join(options)}.so")
    library.compile_c(source, str(path), *options, "-shared", "-fPIC", "-s")
    return Prepared(path, path.stat().st_size)


def _wasm(job: Job, quantize: str | None = None) -> Prepared:
    _require("clang", "wasm-ld", "node")
    path = job.folder / f"{quantize or 'float'}.wasm"
    path.write_bytes(html.compile_wasm(_c_file(job, quantize), job.classifier.model))
    return Prepared(path, path.stat().st_size, ("node", str(_HERE / "wasm_side.js")))


def _litert(job: Job) -> Prepared:
    python = job.litert_python or _install_litert(job.folder / "litert")
    text, path = job.folder / "model.mlir", job.folder / "model.tflite"
    text.write_text(stablehlo.text(job.classifier))
    _call(python, str(_HERE / "litert_convert.py"), str(text), str(path))
    program = (python, "-P", str(pathlib.Path(isolated.__file__).absolute()))
    return Prepared(path, path.stat().st_size, program)


def _install_litert(folder: pathlib.Path) -> str:
    """Makes an environment with LiteRT and returns its Python."""
    _call(sys.executable, "-m", "venv", str(folder))
    python = str(folder / "bin" / "python")
    for packages in LITERT:
        try:
            _call(python, "-m", "pip", "install", "--quiet", *packages)
        except subprocess.CalledProcessError as error:
            raise MissingToolError(f"pip can't install {packages[-1]}: {error.stderr}") from error
    return python


def _require(*programs: str) -> None:
    for name in programs:
        if shutil.which(name) is None:
            raise MissingToolError(f"{name} was not found: install it, or add it to the PATH")


def _call(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        print(result.stderr, file=sys.stderr)
        result.check_returncode()


def _two_widths(
    name: str, title: str, side: str, make: Callable[..., Prepared], **arguments: Any
) -> dict[str, Runtime]:
    """Rows of a runtime with weights in float32 and in 8 bits."""
    return {
        f"{name}_float": Runtime(title, side, functools.partial(make, **arguments)),
        f"{name}_int8": Runtime(
            f"{title}, int8", side, functools.partial(make, **arguments, quantize="int8")
        ),
    }


_NATIVE = ("-O3", "-march=native", "-ffast-math")

RUNTIMES: Mapping[str, Runtime] = {
    "jax": Runtime("`jax.jit`", "Jax", _run),
    "classifier": Runtime("`sft_jax.load`, `predict_proba`", "Classifier", _run),
    **_two_widths("onnx", "ONNX Runtime", "Onnx", _onnx),
    **_two_widths("c_o2", "C, gcc -O2", "C", _c, options=("-O2",)),
    **_two_widths("c_native", f"C, gcc {' '.join(_NATIVE)}", "C", _c, options=_NATIVE),
    **_two_widths("wasm", "WebAssembly in Node", "Wasm", _wasm),
    "litert": Runtime("LiteRT", "LiteRT", _litert, any_k=False),
}
"""Rows by name. All are compared with the first."""


def prepare(job: Job, names: list[str]) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Makes the files of runtimes.

    Args:
      job: Run.
      names: Names of runtimes.

    Returns:
      What was prepared by name, and the reason for each runtime that is skipped.
    """
    prepared, skipped = {}, {}
    for name in names:
        try:
            prepared[name] = RUNTIMES[name].prepare(job)
        except (MissingToolError, ModuleNotFoundError) as error:
            skipped[name] = str(error)
            print(f"{name} is skipped: {error}", file=sys.stderr)
    return prepared, skipped
