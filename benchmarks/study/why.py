"""Why a row of the study is as it is: corrupted modalities, and tokens left out one by one."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import freshness
from benchmarks.study import corruption, kept, leave_out
from benchmarks.study.sets import CLS_ALONE, SFT, StudySet
from sft_jax.evaluation.restored import Restored, restore
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory, SeedsDirectory

ROWS = (SFT, CLS_ALONE, "late", "concat", "mbt")
"""Rows that are evaluated with corrupted modalities."""
_EXAMPLES = 100  # Tokens are left out of so many.
_SHOWN = 3  # Examples whose kept tokens are shown.
_SCOPE = (
    *(f"benchmarks/study/{name}.py" for name in ("why", "corruption", "leave_out", "kept")),
    *("sft_jax/data/derived.py", "sft_jax/evaluation/", "sft_jax/inference/explain.py"),
)
"""Code that can change this part for given runs. The runs have the freshness of their rows."""


def is_fresh(result: Mapping[str, Any], folders: Mapping[str, pathlib.Path]) -> bool:
    """Returns whether a result has this part, of the runs that its rows have now and code at head.

    Args:
      result: Result with the rows.
      folders: Folder of the run directories of each row, named by experiment and code.
    """
    known = result.get("why", {"rows": {}, "code": {}})
    wanted = {name: folders[name].name for name in ROWS if name in folders}
    return {name: row["runs"] for name, row in known["rows"].items()} == wanted and bool(
        freshness.state(known["code"], " ".join(_SCOPE)).fresh
    )


def explain(
    one: StudySet, result: Mapping[str, Any], folders: Mapping[str, pathlib.Path]
) -> dict[str, Any]:
    """Evaluates the runs of a result; nothing is trained.

    Args:
      one: Set of the rows.
      result: Result with the rows.
      folders: See `is_fresh`.

    Returns:
      JSON values: `code`, and `rows` by name. A row has the metric of each seed with a corrupted
      modality (`corruption.measure`). SFT has its tokens left out (`leave_out.measure`), and if the
      set's licence allows, examples with kept tokens (`kept.explained`) of the first seed.
    """
    found = {}
    for name in (name for name in ROWS if name in folders):
        place = folders[name] / f"rate_{result['rows'][name]['rate']:g}"
        directories = [*SeedsDirectory.existing(storage.as_path(place)).runs.values()]
        runs = _restored(directories)
        own: dict[str, Any] = {
            "runs": folders[name].name,
            **corruption.measure(runs, one.metric),
        }
        if name == SFT:
            own["left_out"] = [leave_out.measure(run, _EXAMPLES) for run in runs]
            if one.shown:
                own["kept"] = kept.explained(directories[0], _SHOWN)
        found[name] = own
    return {"rows": found, "code": freshness.identity(" ".join(_SCOPE))}


def _restored(directories: Sequence[RunDirectory]) -> list[Restored]:
    """Best checkpoints of the seeds of a row, with one model and dataset."""
    found: list[Restored] = []
    for run in directories:
        found.append(restore(run, "best", None, found[0].run if found else None))
    return found
