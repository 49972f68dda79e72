"""Table of the study: the datasets, and the rows of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.accuracy_suites import Variant
from benchmarks.study.rows import StudyRow

SFT = "sft"
"""Name of the row that all others are compared with."""
CLS_ALONE = "k=0"
"""Name of the row without pooled tokens, which all others are compared with too."""


class StudySet(NamedTuple):
    """Datasets with its rows.

    Attributes:
      base: Config that all rows change.
      metric: Metric of the test split that rows are compared by.
      rows: Rows by name; `SFT` and `CLS_ALONE` are among them.
    """

    base: Variant
    metric: str
    rows: Mapping[str, StudyRow]


def controls(*modalities: str, k: int = 4, depth: int) -> dict[str, StudyRow]:
    """Rows of every set: SFT, SFT with other tokens or none, and the other models.

    Args:
      *modalities: Names of the modalities, each classified alone too.
      k: Number of kept tokens of the rows that keep some.
      depth: Number of blocks of MBT.
    """
    changes: dict[str, dict[str, Any]] = {
        SFT: {"model.k": k},
        CLS_ALONE: {"model.k": 0},
        "random tokens": {"model.k": k, "model.pool": "random"},
        "all tokens": {"model.pool": "none"},
        **{
            f"{name} alone": {"model.name": "unimodal", "model.modality": name}
            for name in modalities
        },
        "concat": {"model.name": "concat"},
        "late": {"model.name": "late"},
        "mbt": {"model.name": "mbt"},
        "mult": {"model.name": "mult"},
    }
    rows = {name: StudyRow(own) for name, own in changes.items()}
    dropped = {"model.name": "mbt", "model.layer_drop": 0.2}
    rows["mbt, any depth"] = StudyRow(dropped, depths=range(1, depth + 1))
    return rows


SETS: Mapping[str, StudySet] = {
    "watch": StudySet(
        Variant("watch"), "accuracy", controls("accelerometer", "gyroscope", depth=4)
    ),
}
