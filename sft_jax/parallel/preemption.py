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


class PreemptedError(SystemExit):
    """Training was told to end; what it has done is saved, and the text says how to go on.

    Caught by no `except Exception`, as a loop over models must not train the next one. Unless it
    is caught by its name, it ends the process with `EXIT_STATUS`.
    """

    def __init__(self, message: str) -> None:
        """Says what is saved, and how to go on."""
        super().__init__(EXIT_STATUS)
        self._message = message

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> tuple[type[PreemptedError], tuple[str]]:
        # By default it would be made anew of the exit status.
        return PreemptedError, (self._message,)


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
        """Whether to end here.

        With several processes all must ask equally often. If one of them is told to end, all
        get True at the same time of asking, the first that none of them has passed; JAX agrees
        on it, which also knows the notices of clouds.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_asked))
        return self.received

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Handles the signal. Another one ends the process at once."""
        del frame
        self.received = True
        signal.signal(signum, signal.SIG_DFL)


_watching: list[Notice] = []
_asked = itertools.count(1)


@contextlib.contextmanager
def watch() -> Iterator[Notice]:
    """Within, the first SIGTERM is noted in place of ending the process.

    The signal is left to others outside the main thread, where Python can't handle it, and with
    several processes, where JAX handles it. What runs for long outside Python, as compiling
    does, is not ended by it: keep that out.
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
    """Raises GivenUpError if the process is told to end; for use in what takes long.

    With several processes all must come here equally often, and all are raised it.
    """
    if _watching and _watching[-1].reached():
        raise GivenUpError
