"""Runtimes in processes of their own, which classify windows one by one.

A process answers three requests: `open` names a model and windows; `k` alone asks for the outputs
of all windows; `k` with `calls` asks for the time of so many. `wasm_side.js` answers the same.
Only what a runtime needs is imported, as LiteRT's packages conflict with ours.
"""

from __future__ import annotations

import abc
import functools
import importlib.metadata
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

_UNTIMED = 5  # Calls before those that are timed: other processes had the core's caches.


class Windows:
    """Examples of full length in a folder, which programs in any language can read.

    Attributes:
      facts: `count` of the windows, number of `outputs`, and the shapes of `modalities`.
      values: Raw float32 values of each window, `[1, *lengths, features]` by modality.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Reads what `write` has written."""
        self.facts = json.loads((folder / "windows.json").read_text())
        shapes = self.facts["modalities"]
        flat = np.fromfile(folder / "values.f32", "<f4").reshape(self.facts["count"], -1)
        ends = np.cumsum([np.prod(shape) for shape in shapes.values()])[:-1]
        self.values = [
            {
                name: np.ascontiguousarray(part).reshape(1, *shape)
                for (name, shape), part in zip(shapes.items(), np.split(row, ends), strict=True)
            }
            for row in flat
        ]

    @staticmethod
    def write(folder: pathlib.Path, values: Mapping[str, np.ndarray], outputs: int) -> None:
        """Writes windows.

        Args:
          folder: Folder for the files.
          values: `[count, *lengths, features]` by modality.
          outputs: Number of outputs of the model.
        """
        ordered = dict(sorted(values.items()))
        count = len(next(iter(ordered.values())))
        shapes = {name: array.shape[1:] for name, array in ordered.items()}
        facts = {"count": count, "outputs": outputs, "modalities": shapes}
        (folder / "windows.json").write_text(json.dumps(facts))
        flat = [array.reshape(count, -1) for array in ordered.values()]
        (folder / "values.f32").write_bytes(np.concatenate(flat, axis=1).astype("<f4").tobytes())


class Side(abc.ABC):
    """A runtime in this process.

    Attributes:
      packages: Packages whose versions the answer to `open` has by name.
      windows: Windows that it classifies.
    """

    packages: tuple[str, ...] = ()
    windows: Windows

    def __call__(self, request: Mapping[str, Any]) -> Any:
        """Answers a request."""
        if "open" in request:
            self.windows = Windows(pathlib.Path(request["windows"]))
            self.open(pathlib.Path(request["open"]))
            return {name: importlib.metadata.version(name) for name in self.packages}
        self.keep(request["k"])
        if "calls" in request:
            return self._timed(request["calls"])
        return [np.ravel(self.run(window)).tolist() for window in self.windows.values]

    @abc.abstractmethod
    def open(self, path: pathlib.Path) -> None:
        """Opens the model at a path."""

    def keep(self, k: int) -> None:
        """Sets the number of tokens kept of each modality, where it is chosen at run time."""
        self.k = k

    @abc.abstractmethod
    def run(self, window: Any) -> Any:
        """Computes the outputs of a window of `windows.values`, as numbers in host memory."""

    def _timed(self, calls: int) -> dict[str, float]:
        """Seconds of a call: wall-clock time, and CPU time of all threads of the process."""
        count = len(self.windows.values)
        turns = [self.windows.values[i % count] for i in range(calls)]
        for window in turns[:_UNTIMED]:
            self.run(window)
        wall, cpu = time.perf_counter(), time.process_time()
        for window in turns:
            self.run(window)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"wall": wall / calls, "cpu": cpu / calls}

    def masks(self) -> dict[str, np.ndarray]:
        """Masks of a window of full length."""
        shapes = self.windows.facts["modalities"]
        return {name: np.ones((1, *shape[:-1]), bool) for name, shape in shapes.items()}


class Jax(Side):
    """`jax.jit` of the model on raw values."""

    def open(self, path: pathlib.Path) -> None:
        """Opens a run directory."""
        import jax

        import sft_jax
        from sft_jax.export.program import raw_program
        from sft_jax.export.written import with_k

        classifier, self._masks = sft_jax.load(path), self.masks()
        self._jitted = functools.cache(lambda k: jax.jit(raw_program(with_k(classifier, k))))

    def keep(self, k: int) -> None:
        """Compiles once for each `k`."""
        self._program = self._jitted(k)

    def run(self, window: Any) -> Any:
        """Waits for the outputs."""
        return np.asarray(self._program(window, self._masks))


class Classifier(Side):
    """`sft_jax.load(...).predict_proba`, which checks and standardises on the host."""

    def open(self, path: pathlib.Path) -> None:
        """Opens a run directory."""
        import sft_jax

        self._classifier = sft_jax.load(path)

    def run(self, window: Any) -> Any:
        """Gives one example without a batch axis."""
        inputs = {name: values[0] for name, values in window.items()}
        return self._classifier.predict_proba(inputs, k=self.k)


class Onnx(Side):
    """ONNX Runtime on CPUs."""

    packages = ("onnxruntime",)

    def open(self, path: pathlib.Path) -> None:
        """Opens an ONNX file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._rest: dict[str, Any] = {f"{name}_mask": mask for name, mask in self.masks().items()}

    def keep(self, k: int) -> None:
        """Sets the input of the graph."""
        self._rest["k"] = np.full(len(self.windows.facts["modalities"]), k)

    def run(self, window: Any) -> Any:
        """Runs the graph."""
        return self._session.run(None, window | self._rest)[0]


class C(Side):
    """The C file as a shared library; the call from Python takes less than a microsecond."""

    def open(self, path: pathlib.Path) -> None:
        """Opens the library, and makes the arguments of each window beforehand."""
        import ctypes

        from sft_jax.export.c.library import Input

        self._predict = ctypes.CDLL(str(path)).sft_predict
        count = len(self.windows.facts["modalities"])
        self._outputs = (ctypes.c_float * self.windows.facts["outputs"])()
        self._k = (ctypes.c_int * count)()
        arrays, pointer = self.windows.values, ctypes.POINTER(ctypes.c_float)
        self.windows.values = [
            (Input * count)(*(Input(a.ctypes.data_as(pointer), None, 0) for a in window.values()))
            for window in arrays
        ]
        self._arrays = arrays  # The structures point into them.

    def keep(self, k: int) -> None:
        """Sets the argument of the calls."""
        self._k[:] = [k] * len(self._k)

    def run(self, window: Any) -> Any:
        """Calls the function."""
        if code := self._predict(window, self._k, self._outputs, None):
            raise ValueError(f"sft_predict refuses a window with code {code}")
        return self._outputs


class LiteRT(Side):
    """LiteRT's interpreter, for the `k` that its file was converted for."""

    packages = ("ai-edge-litert", "litert-converter")

    def open(self, path: pathlib.Path) -> None:
        """Opens a `.tflite` file."""
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        # In the order of the arguments of the StableHLO text: values by name, then masks by name.
        inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._output = self._interpreter.get_output_details()[0]["index"]
        masks = self.masks().values()
        self._inputs = inputs[: -len(masks)]
        for index, mask in zip(inputs[-len(masks) :], masks, strict=True):
            self._interpreter.set_tensor(index, mask)

    def run(self, window: Any) -> Any:
        """Copies a window into the interpreter and invokes it."""
        for index, values in zip(self._inputs, window.values(), strict=True):
            self._interpreter.set_tensor(index, values)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)
