"""How much memory this process has resident, and has had at the most."""

from __future__ import annotations

import ctypes
import gc
import pathlib

_SELF = pathlib.Path("/proc/self")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5)


def settle() -> None:
    """Frees what nothing refers to and, where the C library can, gives it back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Of glibc alone.
    if trim is not None:
        trim(0)


def resident_bytes() -> int | None:
    """What is resident now; None where the system does not say."""
    return _status("VmRSS")


def reset_peak() -> bool:
    """Makes what is resident now the most so far; False where the system can't."""
    try:
        (_SELF / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """The most that was resident since `reset_peak`; None where the system does not say."""
    return _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values[field].split()[0]) * 1024 if field in values else None
