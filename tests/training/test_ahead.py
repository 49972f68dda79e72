"""Batches that are placed ahead: their order, their state, and errors in their place."""

import threading

import numpy as np
import pytest

from sft_jax.parallel import sharding
from sft_jax.training.ahead import placed_ahead


class _Numbers:
    """Batches 0, 1, 2, ... whose ids are themselves."""

    def __init__(self, end=10**6, error=ValueError):
        self.next, self._end, self._error, self.threads = 0, end, error, set()

    def __next__(self):
        self.threads.add(threading.current_thread())
        if self.next == self._end:
            raise self._error(f"no batch {self._end}")
        self.next += 1
        return self.next - 1, np.array([str(self.next - 1)])

    def get_state(self):
        return {"next": self.next}

    def set_state(self, state):
        self.next = state["next"]


@pytest.fixture
def plain(monkeypatch):
    """Leaves batches where they are."""
    monkeypatch.setattr(sharding, "put_batch", lambda batch, mesh: batch)


def _take(ready, count):
    return [next(ready) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches_are_placed_in_their_order(monkeypatch, count):
    numbers = _Numbers()
    monkeypatch.setattr(sharding, "put_batch", lambda batch, mesh: mesh * batch)
    with placed_ahead(numbers, -1, count) as ready:
        taken = _take(ready, 5)
    assert [batch for batch, _ in taken] == [0, -1, -2, -3, -4]
    assert [ids.tolist() for _, ids in taken] == [[str(number)] for number in range(5)]
    assert (threading.current_thread() in numbers.threads) == (count == 0)


@pytest.mark.parametrize("count", [0, 2])
def test_the_state_is_that_after_the_last_batch_that_was_taken(plain, count):
    with placed_ahead(_Numbers(), None, count) as ready:
        assert ready.get_state() == {"next": 0}
        _take(ready, 3)
        state = ready.get_state()
        assert state == {"next": 3}
        _take(ready, 2)
        ready.set_state(state)  # What was ahead is dropped.
        assert ready.get_state() == state
        assert [batch for batch, _ in _take(ready, 2)] == [3, 4]


def test_no_more_batches_are_ahead_than_asked_for(monkeypatch):
    placed, full = [], threading.Event()

    def place(batch, mesh):
        placed.append(batch)
        if len(placed) == 4:  # One was taken, two are ready, and one waits for its place.
            full.set()
        return batch

    monkeypatch.setattr(sharding, "put_batch", place)
    with placed_ahead(_Numbers(), None, 2) as ready:
        next(ready)
        assert full.wait(60)
    assert placed == [0, 1, 2, 3]


def test_an_error_comes_where_its_batch_would_be(plain):
    with placed_ahead(_Numbers(end=2), None, 3) as ready:
        assert [batch for batch, _ in _take(ready, 2)] == [0, 1]
        with pytest.raises(ValueError, match="no batch 2"):
            next(ready)


@pytest.mark.parametrize(("count", "expected"), [(0, SystemExit), (2, RuntimeError)])
def test_an_exit_in_the_code_of_the_data_ends_training_too(plain, count, expected):
    with placed_ahead(_Numbers(end=1, error=SystemExit), None, count) as ready:
        next(ready)
        with pytest.raises(expected, match="no batch 1"):
            next(ready)
