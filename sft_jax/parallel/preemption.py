"""SIGTERM, the signal that takes a machine back: training saves its state and ends."""

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
    """Training was told to end; its state is saved, and the text says how to go on.

    No `except Exception` catches it, as a loop over models must not train the next one. Unless it
    is caught by its name, it ends the process with `EXIT_STATUS`.
    """

    def __init__(self, message: str) -> None:
        """Takes a message about the saved state and how to go on."""
        super().__init__(EXIT_STATUS)
        self._message = message

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> tuple[type[PreemptedError], tuple[str]]:
        # The default would make the copy from the exit status.
        return PreemptedError, (self._message,)


class GivenUpError(Exception):
    """Work that was given up half-way, as the process is to end."""


class Notice:
    """Notice that the process is to end.

    Attributes:
      received: True once SIGTERM has been received.
    """

    def __init__(self) -> None:
        self.received = False

    def reached(self) -> bool:
        """Returns True if training is to end here.

        With several processes all must call it equally often. If one of them is told to end, all
        get True at the same call, the first that none of them has passed. JAX agrees on the
        call; it also knows the notices of clouds.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_calls))
        return self.received

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Handles the signal. Another one ends the process at once."""
        del frame
        self.received = True
        signal.signal(signum, signal.SIG_DFL)


_watching: list[Notice] = []
_calls = itertools.count(1)


@contextlib.contextmanager
def watch() -> Iterator[Notice]:
    """Context in which the first SIGTERM is noted instead of ending the process.

    Outside the main thread the signal is left alone, as Python can't handle it there. With several
    processes JAX handles it. Keep out work that runs for long outside Python, such as compiling:
    a noted signal does not end it.
    """
    notice = Notice()
    handles = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    before = signal.signal(signal.SIGTERM, notice.receive) if handles else None
    _watching.append(notice)
    try:
        yield notice
    finally:
        _watching.remove(notice)
        if handles:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def interruption_point() -> None:
    """Raises GivenUpError if the process is told to end; long computations call it.

    With several processes all must call it equally often, and it raises in all.
    """
    if _watching and _watching[-1].reached():
        raise GivenUpError
