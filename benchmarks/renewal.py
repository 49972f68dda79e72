"""Renewal of figures whose code has changed in nothing that they are computed from.

python -m benchmarks.renewal [--results=FOLDER] [--manual_dir=FOLDER] [--only=FILE]

Rows of the study and of the diagnosis carry a fingerprint (`benchmarks.fingerprint`). A fresh row
gets it, if it has none. A stale row becomes fresh again if its fingerprint is that of the code at
head, and `code.renewed` names the commit. Other rows stay as they are; the parts of the
fingerprint that differ are printed. Rows of classical models have none: they take seconds to make.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks import diagnosis, fingerprint, freshness, harness
from benchmarks.study.rows import experiment_of
from benchmarks.study.sets import SETS, StudyRow
from benchmarks.suites import SUITES
from benchmarks.variant import Variant
from sft_jax import version
from sft_jax.config import ExperimentConfig


class Training(NamedTuple):
    """Row of a file of results, with the training at head that would make it.

    Attributes:
      name: Name of the row.
      row: JSON values of the row.
      scope: Code that can change it.
      config: Config at head; None if no row at head has the experiment of this one.
      settings: Settings that its runs are evaluated with.
      seeds: Seeds.
    """

    name: str
    row: dict[str, Any]
    scope: str
    config: ExperimentConfig | None
    settings: StudyRow
    seeds: list[int]


def trainings(name: str, result: Mapping[str, Any], manual_dir: str) -> Iterator[Training]:
    """Rows of a file that were trained.

    Args:
      name: Name of the file in `SUITES`.
      result: Its content.
      manual_dir: Folder with raw files.
    """
    scope = SUITES[name].scope
    if name == "diagnosis":
        for row_name, row in result["models"].items():
            known = diagnosis.ROWS.get(row_name) == row["changes"]
            config = Variant("matching", "", row["changes"]).experiment() if known else None
            yield Training(row_name, row, scope, config, StudyRow(), result["seeds"])
        return
    one = SETS[result["set"]]
    for row_name, row in result["rows"].items():
        if row_name in one.classical:
            continue
        config, settings = None, one.rows.get(row_name, StudyRow())
        if row_name in one.rows and row["experiment"] == one.definition(row_name):
            config = experiment_of(one.base, settings, manual_dir)
            optim = dataclasses.replace(config.optim, lr=config.optim.lr * row["rate"])
            config = dataclasses.replace(config, optim=optim)
        yield Training(row_name, row, scope, config, settings, result["seeds"][: settings.seeds])


def renew(one: Training) -> str:
    """Gives a row its fingerprint, or renews it.

    Args:
      one: Row; its values are changed.

    Returns:
      What happened, in words; empty for nothing.
    """
    row, fresh = one.row, freshness.state(one.row["code"], one.scope).fresh
    if one.config is None:
        return "no row at head has its experiment"
    if fresh and "fingerprint" in row:
        return ""
    if not fresh and "fingerprint" not in row:
        return "stale, and without a fingerprint"
    found = fingerprint.of_training(one.config, one.settings, one.seeds)
    if fresh:
        row["fingerprint"] = found
        return "has a fingerprint now"
    if differing := [part for part, own in found.items() if row["fingerprint"].get(part) != own]:
        return f"stale: {', '.join(differing)} differ"
    row["code"] = freshness.renewed(row["code"])
    return "renewed"


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name in SUITES if name == "diagnosis" or name.startswith("study_")]
    arguments.add_argument("--results", type=pathlib.Path, default=harness.RESULTS)
    arguments.add_argument("--manual_dir", default="", help="folder with raw files")
    arguments.add_argument("--only", choices=names, action="append", help="file, without .json")
    arguments.set_defaults(names=names)
    return arguments


def main() -> None:
    """Renews the rows of all files, one by one."""
    options = parser().parse_args()
    if version.code()["dirty"]:
        parser().error("commit all changes first: a renewed row names the commit that it is of")
    for name in options.only or options.names:
        path = options.results / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        for one in trainings(name, result, options.manual_dir):
            if happened := renew(one):
                print(f"{name} {one.name}: {happened}", flush=True)
                harness.write(path, result)


if __name__ == "__main__":
    main()
