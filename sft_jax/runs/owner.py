"""A process that owns something, as a file names it, and whether it is still there."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import socket
import sys
import time
import uuid
from typing import Any

from sft_jax.runs.storage import AnyPath


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process that owns a run directory.

    Attributes:
      host: its name.
      process: its number.
      since: when it became the owner, in UTC.
      command: what was started.
      machine: which machine, until it is started again; containers on it share that.
      namespace: where the number of the process means something.
      born: when the process was started, in ticks of that machine; None if unknown.
      token: of this start alone.
      refreshed: when it was known to be there, in seconds since 1970, by its own clock.
    """

    host: str
    process: int
    since: str
    command: list[str]
    machine: str
    namespace: str
    born: int | None
    token: str
    refreshed: float

    @classmethod
    def this_process(cls) -> Owner:
        """The one that this is."""
        now = datetime.datetime.now(datetime.UTC)
        return cls(
            host=socket.gethostname(),
            process=os.getpid(),
            since=now.isoformat(timespec="seconds"),
            command=sys.argv,
            machine=_read("/proc/sys/kernel/random/boot_id") or socket.gethostname(),
            namespace=_namespace(),
            born=(_state(os.getpid()) or ("", None))[1],
            token=uuid.uuid4().hex,
            refreshed=time.time(),
        )

    @classmethod
    def named_by(cls, path: AnyPath) -> Owner | None:
        """The owner that a file names; None without one, or if it is damaged."""
        try:
            values = json.loads(path.read_text())
            return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def to_text(self, **changes: Any) -> str:
        """What a file that names the owner holds."""
        return json.dumps(dataclasses.asdict(self) | changes, indent=2) + "\n"

    def has_ended(self, asks: Owner) -> bool | None:
        """Whether the process has ended, by what `asks` sees; None if it can't see it."""
        if (self.machine, self.namespace) != (asks.machine, asks.namespace) or os.name != "posix":
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # It is another user's.
        if self.born is None:
            return False
        found = _state(self.process)
        # Another process may have the number by now, or its parent has yet to ask how it ended.
        return None if found is None else found[0] in "ZX" or found[1] != self.born


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(path).read_text().strip()
    return ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _state(process: int) -> tuple[str, int] | None:
    """A process's state and when it was started, as Linux tells; None if it doesn't."""
    # What stands before is the name in parentheses, which may hold anything.
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) > 19 else None
