"""Batches of examples, by Grain: shuffled without end for training, in order for evaluation.

Grain shuffles, shares out and batches positions. Several threads read examples that are not in
memory.

Several processes share each batch. All follow the same order of examples, and process `i` of `n`
takes every n-th example, starting with the i-th. The shares are disjoint and together equal the
batch of a single process, and `n` need not divide the number of examples. (Cutting the examples
into `n` fixed shares first would give epochs of unequal length.)
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import grain
import numpy as np

from sft_jax.data.dataset import Example
from sft_jax.data.sampling import BalancedDraws
from sft_jax.structs import Batch, BatchAndIds

# One thread makes the next batches while a training step runs.
_READ_AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)

_MOST_THREADS = 16


def train_iterator(
    source: Sequence[Example],
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    balance: Sequence[int] | None = None,
    threads: int = 0,
) -> grain.DatasetIterator[BatchAndIds]:
    """Makes an endless stream of batches, with every example once per epoch in a new order.

    With `balance` the stream draws every class equally often instead (`BalancedDraws`).

    An epoch may end within a batch, and the next epoch fills the rest of that batch. The state of
    the iterator (Grain's `get_state` and `set_state`, or its checkpoint handler) is the number of
    batches taken. Batches that were read ahead do not count, so a restored iterator continues
    exactly where the saved one stopped.

    Args:
      source: Examples, at least one.
      batch_size: Number of examples per batch, over all processes.
      seed: Seed of the order, the same on every process.
      process_index: Index of this process.
      process_count: Number of processes that share a batch.
      balance: Class of each example, to draw every class equally often.
      threads: Number of threads that read the examples of a batch; 0 for one for each core, up
        to 16, or a single one if the examples are in memory.

    Returns:
      An iterator of `(batch, ids)`: `batch` holds numpy arrays for
      `batch_size / process_count` examples, all of weight 1, and `ids` their ids.

    Raises:
      ValueError: If `source` is empty, or `process_count` does not divide `batch_size`.
    """
    share = _share(source, batch_size, process_index, process_count)
    # Grain numbers the seeds of epochs upwards from the seed of `shuffle`. If that were the seed
    # itself, seed 1 would begin with the second epoch of seed 0; `seed` scrambles it first.
    positions = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    if balance is not None:
        positions = positions.map_with_index(BalancedDraws(balance, seed))
    return iter(
        positions[process_index::process_count]
        .batch(share, drop_remainder=True, batch_fn=_collate(source, threads))
        .to_iter_dataset(_READ_AHEAD)
    )


def eval_batches(
    source: Sequence[Example],
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterable[BatchAndIds]:
    """Makes batches of equal size that hold every example once, in order.

    Copies of the first example, with weight 0 and id "", fill the last batch, since they are as
    finite as real ones. Every process gets the same number of batches.

    Args:
      source: Examples, at least one.
      batch_size: Number of examples per batch, over all processes.
      process_index: Index of this process.
      process_count: Number of processes that share a batch.

    Returns:
      An iterable of `(batch, ids)`, as in `train_iterator`, that can be used any number of
      times.

    Raises:
      ValueError: If `source` is empty, or `process_count` does not divide `batch_size`.
    """
    share = _share(source, batch_size, process_index, process_count)
    padded = -(-len(source) // batch_size) * batch_size
    return (
        grain.MapDataset.range(padded)[process_index::process_count]
        .batch(share, batch_fn=_collate(source, 0))
        .to_iter_dataset(_READ_AHEAD)
    )


def stack_labels(examples: Sequence[Example]) -> np.ndarray:
    """Stacks labels for a batch: `[n]` int32 classes, or `[n, c]` float32."""
    labels = np.asarray([example["label"] for example in examples])
    return labels.astype(np.int32 if labels.ndim == 1 else np.float32)


def _share(
    source: Sequence[Example], batch_size: int, process_index: int, process_count: int
) -> int:
    """Checks the arguments; returns the number of examples of a batch for this process."""
    if not len(source):
        raise ValueError("there are no examples to make batches of")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} is not one of {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of the number of "
            f"processes, {process_count}"
        )
    return batch_size // process_count


def _collate(source: Sequence[Example], threads: int) -> Callable[[Sequence[int]], BatchAndIds]:
    """Makes the function from positions to a batch; see `train_iterator` for `threads`."""
    if not threads and not isinstance(source, tuple):
        threads = min(os.cpu_count() or 1, _MOST_THREADS)
    pool = ThreadPoolExecutor(threads, "read") if threads > 1 else None
    return functools.partial(_stack, source, pool)


def _stack(
    source: Sequence[Example], pool: Executor | None, positions: Sequence[int]
) -> BatchAndIds:
    """Stacks the examples at `positions`; a position beyond the end gives a copy of weight 0."""
    real = np.asarray(positions) < len(source)
    chosen = np.where(real, positions, 0).tolist()
    examples = [*(pool.map if pool else map)(source.__getitem__, chosen)]
    first = examples[0]
    batch = Batch(
        inputs={name: np.stack([e["inputs"][name] for e in examples]) for name in first["inputs"]},
        masks={name: np.stack([e["masks"][name] for e in examples]) for name in first["masks"]},
        labels=stack_labels(examples),
        weights=real.astype(np.float32),
    )
    return batch, np.where(real, [e["id"] for e in examples], "")
