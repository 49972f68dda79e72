"""Rows of results, printed by sections that run in processes of their own.

A section reads its request as JSON from the first argument. Every row is one line of JSON on
stdout; a later line with the same `name` adds to the row. Rows come one by one, not as one answer
in the end: a process that is cut short keeps those that it has printed.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax


def emit(name: str, **fields: Any) -> None:
    """Adds fields, JSON values, to the row of a name."""
    print(json.dumps({"name": name, **fields}), flush=True)


@contextmanager
def row(name: str, part: str = "") -> Iterator[None]:
    """Records an exception as the row's `error`, and a lack of memory as its result.

    Args:
      name: Name of the row.
      part: Prefix of the field names, for a part without which the rest of a row can go on.
    """
    try:
        yield
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            emit(name, **{f"{part}out_of_memory": str(error)[:2000]})
        else:
            root = pathlib.Path(__file__).parents[2]
            trace = traceback.format_exc().replace(f"{root}/", "")[-8000:]
            emit(name, **{f"{part}error": repr(error)[:4000], f"{part}traceback": trace})


def run(section: Callable[[dict[str, Any]], None]) -> None:
    """Runs a section with the request in the arguments of this process."""
    section(json.loads(sys.argv[1]))


def median_and_range(seconds: list[float]) -> dict[str, Any]:
    """Median, minimum, maximum and number of repeated measurements."""
    ordered = sorted(seconds)
    middle = len(ordered) // 2
    median = (ordered[middle] + ordered[~middle]) / 2
    return {"median": median, "least": ordered[0], "most": ordered[-1], "repeats": len(ordered)}


def repeat(
    work: Callable[[], Any], seconds: float, min_runs: int = 3, max_runs: int = 50
) -> list[float]:
    """Repeats a function until a time is over; returns the seconds of each run.

    Args:
      work: Function that returns arrays, which are waited for. It has run before, so that it is
        compiled.
      seconds: Time after which no run begins.
      min_runs: Least number of runs.
      max_runs: Largest number of runs.
    """
    runs: list[float] = []
    end = time.perf_counter() + seconds
    while len(runs) < min_runs or (time.perf_counter() < end and len(runs) < max_runs):
        begin = time.perf_counter()
        jax.block_until_ready(work())
        runs.append(time.perf_counter() - begin)
    return runs
