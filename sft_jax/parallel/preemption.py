"""Handling of SIGTERM, which announces a preemption: training saves its state and ends."""

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
"""Exit status that a shell gives a process ended by the signal."""


class PreemptedError(SystemExit):
    """Training was asked to end; its state is saved, and the message says how to resume.

    `except Exception` does not catch it, since a loop over models must not go on to the next
    model. Unless it is caught explicitly, it ends the process with `EXIT_STATUS`.
    """

    def __init__(self, message: str) -> None:
        """Stores a message about the saved state and how to resume."""
        super().__init__(EXIT_STATUS)
        self._message = message

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> tuple[type[PreemptedError], tuple[str]]:
        # By default, unpickling would pass the exit status in place of the message.
        return PreemptedError, (self._message,)


class GivenUpError(Exception):
    """Work that was abandoned because the process must end."""


class Notice:
    """Notice that the process must end.

    Attributes:
      received: True once SIGTERM has been received.
    """

    def __init__(self) -> None:
        self.received = False

    def reached(self) -> bool:
        """Returns True if training must end at this call.

        With several processes all must call it equally often. If one of them receives a notice,
        all get True at the same call, the first that none of them has passed. JAX synchronises
        the call; it also handles the preemption notices of cloud providers.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_calls))
        return self.received

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Handles the signal, for all threads. A second signal ends the process at once."""
        del frame
        self.received = True
        for notice in _watching:
            notice.received = True
        signal.signal(signum, signal.SIG_DFL)


_watching: list[Notice] = []
_calls = itertools.count(1)


@contextlib.contextmanager
def watch() -> Iterator[Notice]:
    """Context in which the first SIGTERM is recorded instead of ending the process.

    Python handles signals in the main thread alone; a context there tells those of other threads.
    With several processes JAX handles the signal. Keep long work outside Python, such as
    compilation, out of the context: a recorded signal does not interrupt it.
    """
    notice = Notice()
    handles = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    before = signal.signal(signal.SIGTERM, notice.receive) if handles else None
    _watching.append(notice)
    notice.received |= is_asked()
    try:
        yield notice
    finally:
        _watching.remove(notice)
        if handles:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def is_asked() -> bool:
    """Returns True once a thread that watches for SIGTERM has received it."""
    return any(notice.received for notice in _watching)


def interruption_point() -> None:
    """Raises GivenUpError if the process must end; long computations call it repeatedly.

    With several processes all must call it equally often, and it raises in all of them.
    """
    if _watching and _watching[-1].reached():
        raise GivenUpError
