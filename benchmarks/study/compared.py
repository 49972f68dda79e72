"""Paired differences of the rows of a study from SFT and from CLS alone.

The predictions of these two are kept beside the result, `study_SET.npz`. So rows that are measured
later, or on another machine, are compared with them, and neither is trained again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.study import classical_rows, counts, ensemble, rows
from benchmarks.study.sets import CLS_ALONE, SFT, StudyRow, StudySet
from sft_jax.compare.differences import difference
from sft_jax.compare.intervals import RESAMPLES, scalars
from sft_jax.compare.rows import Row, Unit
from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import DatasetInfo
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory

CONFIDENCE = 0.95
BASES = (SFT, CLS_ALONE)
FIELD = "predictions"
"""Field of a base, and of a difference from it: digest of the predictions of the base."""


def compare(
    one: StudySet,
    result: dict[str, Any],
    folders: Mapping[str, pathlib.Path],
    file: pathlib.Path,
    manual_dir: str = "",
) -> None:
    """Adds to each row its differences from the bases.

    Rows whose runs are elsewhere keep their differences, if the base has the same predictions
    still. A row of trained runs gets its operations, and the metric of its seeds as an ensemble.

    Args:
      one: Set of the rows.
      result: Result with the rows.
      folders: Folder of the run directories of each row.
      file: File of the bases' predictions; is written for those whose runs are here.
      manual_dir: Folder of the raw files.

    Raises:
      ValueError: If a base's runs are elsewhere, and the file lacks its predictions. Also if the
        runs of a row are not those of its figures.
    """
    if SFT not in result["rows"]:
        return
    config = rows.experiment_of(one.base, StudyRow(), manual_dir)
    here = {name: row for name, row in result["rows"].items() if folders[name].exists()}
    trained = {
        name: rows.tested(folders[name], own)
        for name, own in here.items()
        if name not in one.classical
    }
    for name, row in trained.items():
        found = [scalars(unit.result)[one.metric] for unit in row.units.values()]
        if found != here[name]["test"][one.metric]["values"]:
            raise ValueError(
                f"{folders[name]} holds other runs than those of the row {name!r}: remove the row"
                " to train it again"
            )
        counts.add(here[name], row)
        here[name]["ensemble"] = ensemble.metric(row, one.metric)
    keep(file, {base: trained[base] for base in BASES if base in trained}, result)
    bases, seeds = read(file, result), result["seeds"]
    tested = trained | {
        name: classical_rows.tested(config, name, seeds, bases[SFT].info, folders[name])
        for name in here.keys() - trained.keys()
    }
    for name, own in result["rows"].items():
        known, own["differences"] = own.get("differences", {}), {}
        for base in (base for base in bases if base != name):
            digest = result["rows"][base][FIELD]
            if name in tested:
                found = difference(tested[name], bases[base], one.metric, CONFIDENCE, RESAMPLES)
                if found:
                    own["differences"][base] = {**dataclasses.asdict(found), FIELD: digest}
            elif known.get(base, {}).get(FIELD) == digest:
                own["differences"][base] = known[base]


def keep(file: pathlib.Path, trained: Mapping[str, Row], result: dict[str, Any]) -> None:
    """Writes the predictions of bases to a file, which keeps those of the others.

    Args:
      file: The file.
      trained: Runs of bases, each with its predictions, without which they are no ensemble.
      result: Result with the rows; the bases get the digest of their predictions.
    """
    arrays = _arrays(file)
    for base, row in trained.items():
        arrays = {name: own for name, own in arrays.items() if not name.startswith(f"{base}/")}
        arrays[f"{base}/info"] = np.array(json.dumps(row.info.to_json()))
        for (fold, seed), unit in row.units.items():
            # Half the bytes; their rounding changes intervals by less than what is shown.
            arrays[f"{base}/{fold}/{seed}/logits"] = unit.predictions.logits.astype(np.float16)
            arrays[f"{base}/{fold}/{seed}/labels"] = unit.predictions.labels
        result["rows"][base][FIELD] = _digest(arrays, base)
    if trained:
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        file.parent.mkdir(parents=True, exist_ok=True)
        storage.write_whole(storage.as_path(file), content.getvalue())


def read(file: pathlib.Path, result: Mapping[str, Any]) -> dict[str, Row]:
    """Reads the bases that a result has, with their predictions.

    Args:
      file: File that `keep` wrote.
      result: Result with the rows.

    Raises:
      ValueError: If a base's predictions are missing, or those of other runs.
    """
    arrays, found = _arrays(file), {}
    for base in (base for base in BASES if base in result["rows"]):
        own = result["rows"][base]
        if own.get(FIELD) != _digest(arrays, base):
            raise ValueError(
                f"{file} lacks the predictions of the row {base!r}: bring the file of this result,"
                " or remove the row to train it again"
            )
        info = DatasetInfo.from_json(json.loads(str(arrays[f"{base}/info"])))
        found[base] = _row(base, own, result, info, arrays)
    return found


def _row(
    base: str,
    own: Mapping[str, Any],
    result: Mapping[str, Any],
    info: DatasetInfo,
    arrays: Mapping[str, np.ndarray],
) -> Row:
    """Results of a base in the form of runs that lie in a folder."""
    units, metric = {}, result["metric"]
    names = [name.split("/") for name in arrays if name.startswith(f"{base}/")]
    runs = [(name[1], int(name[2])) for name in names if name[-1] == "logits"]
    values = zip(own["test"][metric]["values"], own["n_examples"], strict=True)
    for (fold, seed), (value, count) in zip(runs, values, strict=True):
        place = f"{base}/{fold}/{seed}"
        logits, labels = (arrays[f"{place}/{name}"] for name in ("logits", "labels"))
        size = len(labels)
        predictions = Predictions(
            np.arange(size), labels, logits.astype(np.float32), np.zeros(size), info.task
        )
        found = {metric: value, "n_examples": count}
        where = RunDirectory(storage.as_path(place))
        units[fold, seed] = Unit(where, fold, seed, found, predictions, True)
    return Row(base, storage.as_path(base), ExperimentConfig(), info, units)


def _arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    if not file.exists():
        return {}
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays}


def _digest(arrays: Mapping[str, np.ndarray], base: str) -> str:
    """Digest of a base's predictions."""
    state = hashlib.sha256()
    for name in sorted(name for name in arrays if name.startswith(f"{base}/")):
        state.update(name.encode())
        state.update(np.ascontiguousarray(arrays[name]).tobytes())
    return f"sha256:{state.hexdigest()}"
