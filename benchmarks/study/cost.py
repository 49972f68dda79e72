"""Cost of the models of a set: a training step, one example and memory, measured in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from benchmarks import freshness, harness
from benchmarks.study.rows import experiment_of
from benchmarks.study.sets import CLS_ALONE, SFT, StudySet
from sft_jax.config import ExperimentConfig
from sft_jax.data.outline import outline
from sft_jax.profile.measure import measure

ROWS = (SFT, CLS_ALONE, "all tokens", "no windows", "concat", "late", "mbt", "mult")
"""Rows that are measured: one of each model and of each shape."""
TURNS = 3
_STEPS = 10
_MEASURED = ("train_step_seconds", "latency_seconds", "train_peak_rss_bytes")


def scope(one: StudySet) -> str:
    """Code that can change the cost (`benchmarks.freshness.PARTS`)."""
    return f"cost {one.base.config}"


def is_fresh(one: StudySet, result: Mapping[str, Any]) -> bool:
    """Returns whether a result has the cost of all `ROWS` of its set by the code at head."""
    known = result.get("cost", {"rows": {}, "code": {}})
    return {*known["rows"]} == {*_measured(one)} and bool(
        freshness.state(known["code"], scope(one)).fresh
    )


def _measured(one: StudySet) -> list[str]:
    return [name for name in ROWS if name in one.rows]


def configs(one: StudySet, manual_dir: str) -> dict[str, ExperimentConfig]:
    """Configs of the rows of a set that are measured, by name.

    Args:
      one: Set of the rows.
      manual_dir: Folder with raw files.
    """
    return {name: experiment_of(one.base, one.rows[name], manual_dir) for name in _measured(one)}


def measure_rows(one: StudySet, manual_dir: str) -> dict[str, Any]:
    """Measures each of `ROWS` several times, in turns, each in a process of its own.

    A turn before the others compiles the programs.

    Args:
      one: Set of the rows.
      manual_dir: Folder with raw files.

    Returns:
      JSON values: `rows` by name, and `code`. A row has medians and ranges: seconds of a
      training step, seconds of one example, and bytes that training adds to the process.
    """
    each = configs(one, manual_dir)
    shapes = outline(next(iter(each.values())).data)
    with tempfile.TemporaryDirectory() as cache:
        _, *turns = (
            {
                name: measure(own, shapes, batch_sizes=[], steps=_STEPS, cache=cache)
                for name, own in each.items()
            }
            for _ in range(1 + TURNS)
        )
    return {
        "rows": {
            name: {key: harness.spread([turn[name][key] for turn in turns]) for key in _MEASURED}
            for name in each
        },
        "code": freshness.identity(scope(one)),
    }
