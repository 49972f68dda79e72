"""SIGTERM, by which a machine is taken back: training saves what it has done and ends."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 128 + signal.SIGTERM
"""As a shell tells of a process that the signal ended."""


class PreemptedError(Exception):
    """Training was told to end; what it has done is saved, and says how to go on."""


class GivenUpError(Exception):
    """Something was given up half-way, as the process is to end."""


class Notice:
    """Whether the process has been told to end.

    Attributes:
      received: whether SIGTERM has been.
    """

    def __init__(self) -> None:
        self.received = False

    def reached(self) -> bool:
        """Whether to end after the step just taken.

        With several processes all must ask at every step, of all runs that they make one after
        the other. If one of them is told to end, all get True at the same step, the first that
        none of them has passed; JAX agrees on it, which also knows the notices of clouds.
        """
        if jax.process_count() > 1:
            # Not the step of a run, which is small again in the next one.
            return multihost_utils.reached_preemption_sync_point(next(_asked))
        return self.received

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Handles the signal, for all who watch. Another one ends the process at once."""
        del frame
        for notice in _watching:
            notice.received = True
        signal.signal(signum, signal.SIG_DFL)


_watching: list[Notice] = []
_asked = itertools.count(1)


@contextlib.contextmanager
def watch() -> Iterator[Notice]:
    """Within, the first SIGTERM is noted in place of ending the process.

    The signal is left to others outside the main thread, where Python can't handle it, and with
    several processes, where JAX handles it. A watch within another knows what the outer one knows.
    """
    notice = Notice()
    _watching.append(notice)
    if any(watching.received for watching in _watching):
        notice.received = True
    handles = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    before = signal.signal(signal.SIGTERM, notice.receive) if handles else None
    try:
        yield notice
    finally:
        _watching.remove(notice)
        if handles:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def interruption_point() -> None:
    """Raises GivenUpError if this process alone is told to end; for use in what takes long.

    With several processes, which could not end at the same place, it does nothing.
    """
    if any(notice.received for notice in _watching):
        raise GivenUpError
