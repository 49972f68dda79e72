"""Batches that are on the devices before the step that takes them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import grain
from jax.sharding import Mesh

from sft_jax.parallel import sharding
from sft_jax.structs import BatchAndIds


class BatchIterator(Protocol):
    """Endless iterator of batches and the ids of their examples, whose state can be saved."""

    def __next__(self) -> BatchAndIds:
        """Returns the next batch."""

    def get_state(self) -> Any:
        """Returns the position in the batches, as JSON values."""

    def set_state(self, state: Any) -> None:
        """Moves to a position from `get_state`."""


class _Placed:
    """Iterator of batches that are placed on the devices as they are taken."""

    def __init__(self, batches: BatchIterator, mesh: Mesh) -> None:
        self._batches, self._mesh = batches, mesh
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self) -> BatchAndIds:
        try:
            batch, ids = next(self._batches)
        except Exception:
            raise
        except BaseException as error:
            if threading.current_thread() is threading.main_thread():
                raise
            # Grain passes on no other errors from its thread, and training would wait for ever.
            raise RuntimeError(f"the code that reads the data raised {error!r}") from error
        return sharding.put_batch(batch, self._mesh), ids


@contextlib.contextmanager
def placed_ahead(batches: BatchIterator, mesh: Mesh, count: int) -> Iterator[BatchIterator]:
    """Context with the batches that a thread places on the devices before they are taken.

    Their state is that of `batches` after the last one that was taken, as if none were ahead.

    Args:
      batches: Batches in the memory of the host.
      mesh: Devices that the examples are divided over.
      count: Number of batches that are ready at most; 0 to place each as it is taken.
    """
    placed = _Placed(batches, mesh)
    ready = grain.experimental.ThreadPrefetchDatasetIterator(placed, count)
    with contextlib.closing(ready):
        yield ready
