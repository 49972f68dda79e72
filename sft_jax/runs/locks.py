"""Locks of folders, by a file in each folder that names its owner.

On a local file system the kernel locks the file (`flock`). It releases the lock however the
process ends. This also works between containers on the same machine, with any process ids and
host names. In a bucket, or between machines, there is no such lock. There the owner refreshes the
file, and a lock without a refresh for `STALE_SECONDS` is free. A lock of an ended process of this
machine is free too, even if another process now has its id.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
import weakref

from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory, RunDirectoryError
from sft_jax.runs.owner import Owner
from sft_jax.runs.storage import AnyPath

try:
    import fcntl
except ImportError:  # Only Unix has fcntl.
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger(__name__)

STALE_SECONDS = 180.0
_SETTLE_SECONDS = 2.0
"""Time within which a second process that takes over the same lock has written the file."""
_ENDING_SECONDS = 10.0
"""Time that a killed process may take to end."""
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)


def take(folder: AnyPath, *, new: bool) -> Lock:
    """Takes the lock of a folder.

    Args:
      folder: Folder, local or in a bucket.
      new: Whether the folder was made for the lock.

    Raises:
      RunDirectoryError: If another process holds the lock; the message names the process.
      OSError: If the file can't be written.
    """
    lock = _InBucket(folder, new) if storage.in_bucket(folder) else _Local(folder, new)
    _tokens.add(lock.owner.token)
    return lock


class Lock:
    """A held lock of one folder."""

    def __init__(self, folder: AnyPath, new: bool) -> None:
        """Takes the lock.

        Args:
          folder: Folder to lock.
          new: Whether the folder was made for the lock.

        Raises:
          RunDirectoryError: If another process holds the lock.
        """
        self.path, self._new = RunDirectory(folder).lock_file, new
        self.owner = Owner.this_process()
        self.refreshed = time.time()

    def refuse(self, owner: Owner | None, lapses: float | None = None) -> RunDirectoryError:
        """Makes the error for a folder in use.

        Args:
          owner: Owner of the lock; None if it is unknown.
          lapses: Seconds until the lock expires, if the owner has ended.
        """
        who = "by another process"
        if owner:
            who = f"by process {owner.process} on host {owner.host}, since {owner.since}"
        advice = "wait for it or end it, or give another --workdir"
        if lapses is not None:
            advice += (
                f". Should it have ended without removing {self.path}: that lock lapses in"
                f" {max(lapses, 0):.0f} s, {STALE_SECONDS:.0f} s after the last sign of it"
            )
        return RunDirectoryError(f"{self.path.parent} is in use {who}: {advice}")

    def check_free(self, owner: Owner | None, silent: float, *, free: bool) -> None:
        """Raises RunDirectoryError if the owner that a file names may still run.

        Args:
          owner: Owner of the lock.
          silent: Seconds since the owner last refreshed the lock.
          free: Whether the kernel reports that no process on this machine holds the lock.
        """
        gone = owner and owner.has_ended(self.owner)
        if owner and owner.machine == self.owner.machine and free:
            gone = True
        if owner and gone is False and owner.process == os.getpid():
            gone = owner.token not in _tokens  # An interrupted exit has left the lock behind.
        if gone is None and silent < STALE_SECONDS:
            raise self.refuse(owner, STALE_SECONDS - silent)
        if gone is False:
            raise self.refuse(owner)
        if owner:
            _logger.info(
                "%s: process %d on host %s, which owned it since %s, has ended; taken over",
                self.path.parent,
                owner.process,
                owner.host,
                owner.since,
            )

    def settle(self) -> None:
        """Checks the owner after a takeover; of two concurrent processes, the last writer wins.

        Raises:
          RunDirectoryError: If the owner is another process.
        """
        time.sleep(_SETTLE_SECONDS)
        if not self._is_ours():
            raise self.refuse(Owner.named_by(self.path))

    def refresh(self) -> bool:
        """Refreshes the lock; returns False if this process is no longer the owner."""
        try:
            self._refresh()
        except RunDirectoryError:
            return False
        self.refreshed = time.time()
        return True

    def _refresh(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        """Removes the file, and the folder if it is empty and was made for the lock."""
        _tokens.discard(self.owner.token)
        self._release()

    def _release(self) -> None:
        raise NotImplementedError

    def _is_ours(self) -> bool:
        owner = Owner.named_by(self.path)
        return owner is not None and owner.token == self.owner.token


class _Local(Lock):
    """A file that the kernel locks, if the file system has locks."""

    def __init__(self, folder: AnyPath, new: bool) -> None:
        super().__init__(folder, new)
        self.file = -1
        self._until = time.monotonic() + _ENDING_SECONDS
        self._take()
        _held.add(self)

    def _take(self) -> None:
        while not self._open():
            pass  # The previous owner has just removed the file, or is about to end.

    def _open(self) -> bool:
        """Opens and locks the file; returns False if its path now refers to another file."""
        try:
            self.file, created = os.open(self.path, _FLAGS | os.O_EXCL, 0o666), True
        except FileExistsError:
            self.file, created = os.open(self.path, _FLAGS, 0o666), False
        try:
            locked = _flock(self.file)
            if locked is False:
                owner = Owner.named_by(self.path)
                if not owner or not owner.has_ended(self.owner) or time.monotonic() > self._until:
                    raise self.refuse(owner)
                time.sleep(0.1)  # The kernel may not have closed its files yet.
            if locked is False or not self._is_current():
                self._close()
                return False
            owner = None if created else Owner.named_by(self.path)
            # A file without an owner is free if the kernel has locked it for us.
            if owner or not (locked or created):
                self.check_free(owner, self._silent(), free=bool(locked))
            os.ftruncate(self.file, 0)
            os.lseek(self.file, 0, os.SEEK_SET)
            os.write(self.file, self.owner.to_text().encode())
            if not (locked or created):
                self.settle()
        except BaseException:
            self._close()
            raise
        return True

    def _close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
        self.file = -1

    def _is_current(self) -> bool:
        """Returns True if the path still refers to the open file."""
        try:
            return self.file >= 0 and os.path.samestat(os.fstat(self.file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _silent(self) -> float:
        # The time comes from the clock that stamps the files, which may be a file server's.
        with tempfile.TemporaryFile(dir=self.path.parent) as now:
            return os.fstat(now.fileno()).st_mtime - os.fstat(self.file).st_mtime

    def _refresh(self) -> None:
        if self._is_current() and self._is_ours():
            os.utime(self.path)
        elif time.time() - self.refreshed < STALE_SECONDS and not self.path.exists():
            self._close()  # A removed file no longer locks out other processes.
            self._take()
        else:
            raise self.refuse(Owner.named_by(self.path))

    def _release(self) -> None:
        _held.discard(self)
        try:
            if self._is_current() and self._is_ours():
                os.unlink(self.path)
            if self._new:
                with contextlib.suppress(OSError):  # The folder is not empty.
                    os.rmdir(self.path.parent)
        finally:
            self._close()


class _InBucket(Lock):
    """An object, which only one of several processes can create."""

    def __init__(self, folder: AnyPath, new: bool) -> None:
        super().__init__(folder, new)
        if storage.create(self.path, self._text()):
            return
        owner = Owner.named_by(self.path)
        silent = time.time() - owner.refreshed if owner else 0.0
        self.check_free(owner, silent, free=False)
        storage.write_whole(self.path, self._text())
        self.settle()

    def _text(self) -> str:
        return self.owner.to_text(refreshed=time.time())

    def _refresh(self) -> None:
        if self._is_ours():
            storage.write_whole(self.path, self._text())
        elif time.time() - self.refreshed > STALE_SECONDS or not storage.create(
            self.path, self._text()
        ):
            raise self.refuse(Owner.named_by(self.path))

    def _release(self) -> None:
        if self._is_ours():
            self.path.unlink()


_held: weakref.WeakSet[_Local] = weakref.WeakSet()
_tokens: set[str] = set()
"""Tokens of the locks that this process holds."""


def _close_copies() -> None:
    """Closes the locked files in a fork, since they would keep the locks after this process."""
    for lock in [*_held]:
        if lock.file >= 0:
            os.close(lock.file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


def _flock(file: int) -> bool | None:
    """Locks a file; returns False if another process has locked it, None without kernel locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # The file system has no locks.
        return None
    return True
