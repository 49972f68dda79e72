"""Locks of folders, by a file in each that names the owner.

On a local file system the file is locked by the kernel (`flock`), which releases it however the
process ends: also of another container on the same machine, whatever its process ids and host
names. Where there is no such lock, as in a bucket, or from one machine to another, the owner
refreshes the file, and one that has not been refreshed for `STALE_SECONDS` is of nobody. So is that
of a process on this machine that is gone, even if another has its number by now.
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
except ImportError:  # Of Unix.
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger(__name__)

STALE_SECONDS = 180.0
_SETTLE_SECONDS = 2.0
"""By then a second process that takes over the same lock has written it."""
_ENDING_SECONDS = 10.0
"""What a process that was killed may take to be gone."""
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)


def take(folder: AnyPath, *, new: bool) -> Lock:
    """Takes the lock of a folder.

    Args:
      folder: local or in a bucket.
      new: whether it was made for that.

    Raises:
      RunDirectoryError: if another process holds it, saying which.
      OSError: if the file can't be written.
    """
    lock = _InBucket(folder, new) if storage.in_bucket(folder) else _Local(folder, new)
    _tokens.add(lock.owner.token)
    return lock


class Lock:
    """A lock that is held, of one folder."""

    def __init__(self, folder: AnyPath, new: bool) -> None:
        """Takes it.

        Args:
          folder: what it is of.
          new: whether the folder was made for it.

        Raises:
          RunDirectoryError: if another process holds it.
        """
        self.path, self._new = RunDirectory(folder).lock_file, new
        self.owner = Owner.this_process()
        self.refreshed = time.time()

    def refuse(self, owner: Owner | None, lapses: float | None = None) -> RunDirectoryError:
        """The error for a folder that is in use, by whom if that is known.

        Args:
          owner: who has it.
          lapses: in how many seconds the lock does, if that process is not there any more.
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
        """Raises RunDirectoryError if the owner that a file names may still be there.

        Args:
          owner: who.
          silent: seconds since the last sign of it.
          free: whether the kernel of this machine knows that no process here has it.
        """
        gone = owner and owner.has_ended(self.owner)
        if owner and owner.machine == self.owner.machine and free:
            gone = True
        if owner and gone is False and owner.process == os.getpid():
            gone = owner.token not in _tokens  # What an interrupted end has left.
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
        """Sees who has a lock that was taken over: of two that do so at once, the last to write.

        Raises:
          RunDirectoryError: if that is another.
        """
        time.sleep(_SETTLE_SECONDS)
        if not self._is_ours():
            raise self.refuse(Owner.named_by(self.path))

    def refresh(self) -> bool:
        """Says that the owner is there; returns whether it is still the owner."""
        try:
            self._refresh()
        except RunDirectoryError:
            return False
        self.refreshed = time.time()
        return True

    def _refresh(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        """Removes the file, and the folder if it is empty and was made for it."""
        _tokens.discard(self.owner.token)
        self._release()

    def _release(self) -> None:
        raise NotImplementedError

    def _is_ours(self) -> bool:
        found = Owner.named_by(self.path)
        return found is not None and found.token == self.owner.token


class _Local(Lock):
    """A file that the kernel locks, where it can."""

    def __init__(self, folder: AnyPath, new: bool) -> None:
        super().__init__(folder, new)
        self.file = -1
        self._until = time.monotonic() + _ENDING_SECONDS
        self._take()
        _held.add(self)

    def _take(self) -> None:
        while not self._open():
            pass  # Whoever had it has just removed the file, or is about to be gone.

    def _open(self) -> bool:
        """Whether the file that was opened, and is ours now, still has the name."""
        try:
            self.file, created = os.open(self.path, _FLAGS | os.O_EXCL, 0o666), True
        except FileExistsError:
            self.file, created = os.open(self.path, _FLAGS, 0o666), False
        try:
            locked = _flock(self.file)
            if locked is False:
                found = Owner.named_by(self.path)
                if not found or not found.has_ended(self.owner) or time.monotonic() > self._until:
                    raise self.refuse(found)
                time.sleep(0.1)  # The kernel has yet to close its files.
            if locked is False or not self._is_current():
                self._close()
                return False
            found = None if created else Owner.named_by(self.path)
            # Without a name in it the kernel has to say that it is free.
            if found or not (locked or created):
                self.check_free(found, self._silent(), free=bool(locked))
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
        """Whether the file that is open is the one that has the name."""
        try:
            return self.file >= 0 and os.path.samestat(os.fstat(self.file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _silent(self) -> float:
        # By the clock that stamps the files, which may be a file server's.
        with tempfile.TemporaryFile(dir=self.path.parent) as now:
            return os.fstat(now.fileno()).st_mtime - os.fstat(self.file).st_mtime

    def _refresh(self) -> None:
        if self._is_current() and self._is_ours():
            os.utime(self.path)
        elif time.time() - self.refreshed < STALE_SECONDS and not self.path.exists():
            self._close()  # Somebody has removed the file, which keeps nobody out then.
            self._take()
        else:
            raise self.refuse(Owner.named_by(self.path))

    def _release(self) -> None:
        _held.discard(self)
        try:
            if self._is_current() and self._is_ours():
                os.unlink(self.path)
            if self._new:
                with contextlib.suppress(OSError):  # It is not empty.
                    os.rmdir(self.path.parent)
        finally:
            self._close()


class _InBucket(Lock):
    """An object, which only one of several processes can create."""

    def __init__(self, folder: AnyPath, new: bool) -> None:
        super().__init__(folder, new)
        if storage.create(self.path, self._text()):
            return
        found = Owner.named_by(self.path)
        silent = time.time() - found.refreshed if found else 0.0
        self.check_free(found, silent, free=False)
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
"""Those of all owners that this process is."""


def _close_copies() -> None:
    """In a copy of this process: what it inherited would keep the lock when this one is gone."""
    for lock in [*_held]:
        if lock.file >= 0:
            os.close(lock.file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


def _flock(file: int) -> bool | None:
    """Locks a file; False if another process has, None where there is no such lock."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # The file system knows no locks.
        return None
    return True
