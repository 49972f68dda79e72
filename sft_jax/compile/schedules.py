"""Cycles of kernels of Mosaic, from the schedules that the compiler for TPUs writes to files.

The compiler estimates the cycles of its own kernels in the text of a program, and not those of
kernels that it is given. For each kernel it can write the schedule of its core, one bundle of
instructions a cycle. Waiting for memory is not in it, so the cycles are a lower bound.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping

_ARGUMENTS = "LIBTPU_INIT_ARGS"
_NAME = re.compile(r"\d+-(.+)-\d+-final_bundles\.txt")
_BODY = re.compile(r"0x([0-9a-f]+) LB:")
_EXIT = re.compile(r"0x([0-9a-f]+)\s*:.*ge\.s32\.totalorder %\S+, (\d+) /\* loop exit")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="schedules")


def request() -> None:
    """Makes the compiler write schedules; it has to be called before the compiler is loaded."""
    wanted = (
        f"--xla_jf_dump_to={_folder().name}",
        "--xla_jf_dump_llo_text=true",
        "--xla_jf_dump_llo_pass_label_regex=final_bundles",
    )
    os.environ[_ARGUMENTS] = " ".join([os.environ.get(_ARGUMENTS, ""), *wanted]).strip()


def clear() -> None:
    """Removes the schedules so far."""
    for path in pathlib.Path(_folder().name).iterdir():
        path.unlink()


def cycles() -> Mapping[str, int]:
    """Cycles of each kernel that is a loop, by the name of its instruction.

    The schedules are those since `clear`, and so of one program.
    """
    found = {}
    for path in pathlib.Path(_folder().name).iterdir():
        named = _NAME.fullmatch(path.name)
        if named and (number := _cycles(path.read_text())):
            found[named[1]] = number
    return found


def _cycles(schedule: str) -> int:
    """Bundles of a loop times its turns; 0 unless the schedule has one loop of known turns.

    Short loops within it, which copy the rows of a part of a tile, count once.
    """
    bodies, exits = _BODY.findall(schedule), _EXIT.findall(schedule)
    if not bodies or len(exits) != 1:
        return 0
    (end, turns), begin = exits[0], bodies[0]
    return (int(end, 16) - int(begin, 16) + 1) * int(turns)
