"""Rows that the sections of `benchmarks/accelerator.py` print, each from a process of its own.

A section reads its request as JSON from the first argument. Every row is one line of JSON on
stdout; a later line with the same `name` adds to the row.
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
    """Adds fields, which are JSON values, to the row of that name."""
    print(json.dumps({"name": name, **fields}), flush=True)


@contextmanager
def row(name: str, part: str = "") -> Iterator[None]:
    """Within, an exception becomes the row's `error`, and being out of memory a result.

    Args:
      name: of the row.
      part: what the fields' names begin with, where the rest of a row may go on without it.
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
    """Runs a section with the request that this process was given."""
    section(json.loads(sys.argv[1]))


def median_and_range(seconds: list[float]) -> dict[str, Any]:
    """Median, least and most of repeated measurements, and how many there are."""
    ordered = sorted(seconds)
    middle = len(ordered) // 2
    median = (ordered[middle] + ordered[~middle]) / 2
    return {"median": median, "least": ordered[0], "most": ordered[-1], "repeats": len(ordered)}


def repeat(work: Callable[[], Any], seconds: float, least: int = 3, most: int = 50) -> list[float]:
    """Seconds that `work` takes, time after time until `seconds` are over.

    `work` returns arrays, which are waited for. It has run before, so that it is compiled.
    """
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < least or (time.perf_counter() < end and len(took) < most):
        begin = time.perf_counter()
        jax.block_until_ready(work())
        took.append(time.perf_counter() - begin)
    return took
