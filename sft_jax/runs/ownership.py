"""Exclusive ownership of a run directory: a second start ends at once.

A file `lock.json` names the owner (`sft_jax.runs.locks`), and is refreshed in the background. In
a job of several processes the first is the owner.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

import jax

from sft_jax.runs import locks, storage
from sft_jax.runs.directory import RunDirectoryError
from sft_jax.runs.storage import AnyPath

_logger = logging.getLogger(__name__)

REFRESH_SECONDS = 30.0


@contextlib.contextmanager
def owned(workdir: AnyPath, *folders: AnyPath) -> Iterator[Ownership]:
    """Context in which this process, or the first process of a job, owns run directories.

    Args:
      workdir: Run directory, or a folder of several; made unless it exists.
      *folders: Folders in it that are owned as well.

    Raises:
      RunDirectoryError: If a folder has another owner, which the message names, or can't be
        written to.
    """
    ownership = Ownership()
    try:
        if jax.process_index() == 0:
            for folder in (workdir, *folders):
                ownership.add(folder)
        yield ownership
    finally:
        ownership.close()


class Ownership:
    """Locks that this process holds and refreshes in the background."""

    def __init__(self) -> None:
        """Starts without any lock."""
        self._process, self._locks = os.getpid(), list[locks.Lock]()
        self._lost: list[AnyPath] = []
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, folder: AnyPath) -> None:
        """Becomes the owner of a folder; see `owned`."""
        try:
            new = not folder.exists()
            storage.probe(folder)
            self._locks.append(locks.take(folder, new=new))
        except OSError as error:
            raise RunDirectoryError(
                f"can't write to workdir {folder}: {error.strerror or error}"
            ) from None
        if not self._thread:
            self._thread = threading.Thread(target=self._refresh, daemon=True, name="ownership")
            self._thread.start()

    def check(self) -> None:
        """Raises RunDirectoryError if another process has taken a lock."""
        if self._lost:
            raise RunDirectoryError(
                f"{self._lost[0]} is no longer this process's: there was no sign of it for"
                f" {locks.STALE_SECONDS:.0f} s, and another took it. Training ends, so that two"
                " processes do not write to one run directory"
            )

    def close(self) -> None:
        """Releases all locks."""
        if os.getpid() != self._process:
            return  # This is a fork of the owner.
        self._end.set()
        if self._thread:
            self._thread.join(timeout=REFRESH_SECONDS)
        while self._locks:
            lock = self._locks.pop()
            try:
                lock.release()
            except Exception as error:  # A bucket's client raises errors of many kinds.
                _logger.warning("%s was not removed: %s", lock.path, error)

    def _refresh(self) -> None:
        while not self._end.wait(REFRESH_SECONDS):
            for lock in self._locks:
                try:
                    if not lock.refresh():
                        self._lost.append(lock.path.parent)
                except Exception as error:
                    # The next refresh may succeed; only several failures make the lock stale.
                    _logger.warning("%s was not refreshed: %s", lock.path, error)
