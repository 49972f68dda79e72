"""The part of torch that reads a checkpoint: the tests install no torch."""

import sys
import types

import numpy as np


class Tensor:
    """A tensor on the CPU."""

    def __init__(self, array, dtype="float32"):
        self._array, self.dtype = array, dtype

    def float(self):
        return Tensor(self._array)

    def detach(self):
        return self

    def numpy(self):
        if self.dtype == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.asarray(self._array)


def install(monkeypatch, loaded):
    """Makes `import torch` find a module whose `load` returns `loaded`, or raises it.

    Returns:
      Arguments of the calls of `load`, in their order.
    """
    calls = []

    def load(path, **options):
        calls.append((path, options))
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    torch = types.SimpleNamespace(Tensor=Tensor, bfloat16="bfloat16", load=load)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return calls
