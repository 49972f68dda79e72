"""Resident memory of this process, current and at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import pathlib
from collections.abc import Iterator

_SELF = pathlib.Path("/proc/self")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5)


@dataclasses.dataclass
class Growth:
    """Memory of a part of the work; None where the system does not report it.

    Attributes:
      idle_bytes: Resident memory before the work.
      peak_bytes: Growth of the resident memory over `idle_bytes` at its peak.
    """

    idle_bytes: int | None = None
    peak_bytes: int | None = None


@contextlib.contextmanager
def growth() -> Iterator[Growth]:
    """Measures the memory of the work inside the context; the result is complete at its end."""
    settle()
    measured = Growth(resident_bytes())
    can_reset = reset_peak()
    yield measured
    peak = peak_bytes() if can_reset else None
    if peak is not None and measured.idle_bytes is not None:
        measured.peak_bytes = max(peak - measured.idle_bytes, 0)


def settle() -> None:
    """Frees unreachable objects and, with glibc, returns free memory to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Only glibc has malloc_trim.
    if trim is not None:
        trim(0)


def resident_bytes() -> int | None:
    """Returns the current resident memory; None where the system does not report it."""
    return _status("VmRSS")


def reset_peak() -> bool:
    """Resets the peak to the current resident memory; returns False where the system can't."""
    try:
        (_SELF / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Returns the peak resident memory since `reset_peak`; None where it is not reported."""
    return _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values[field].split()[0]) * 1024 if field in values else None
