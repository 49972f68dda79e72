"""The process that owns a folder, stored in a file, and a check whether it still runs."""

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
    """Process that owns a run directory.

    Attributes:
      host: Name of the host.
      process: Process id.
      since: Time when it became the owner, in UTC.
      command: Command line.
      machine: Id of the machine until its next boot; containers on it share the id.
      namespace: Namespace of the process id.
      born: Time when the process was started, in ticks of that machine; None if unknown.
      token: Id unique to this start.
      refreshed: Time of the last refresh, in seconds since 1970, by the clock of the process.
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
        """Describes this process as an owner."""
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
        """Reads the owner from a file; None if the file is missing or damaged."""
        try:
            values = json.loads(path.read_text())
            return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def to_text(self, **changes: Any) -> str:
        """Returns the content of a file that names the owner."""
        return json.dumps(dataclasses.asdict(self) | changes, indent=2) + "\n"

    def has_ended(self, observer: Owner) -> bool | None:
        """Returns True if the process has ended, None if the observer can't see it."""
        here = (observer.machine, observer.namespace)
        if (self.machine, self.namespace) != here or os.name != "posix":
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # The process is another user's.
        if self.born is None:
            return False
        state = _state(self.process)
        # Another process may now have the id, or the parent has not collected the status yet.
        return None if state is None else state[0] in "ZX" or state[1] != self.born


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(path).read_text().strip()
    return ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _state(process: int) -> tuple[str, int] | None:
    """Reads the state and start time of a process on Linux; None elsewhere."""
    # The fields follow the name in parentheses, which may contain any characters.
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) > 19 else None
