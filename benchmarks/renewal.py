"""Renewal of figures whose code has changed in nothing that they are computed from.

python -m benchmarks.renewal [--results=FOLDER] [--manual_dir=FOLDER] [--only=FILE] [--missing]

Rows of the study and of the diagnosis carry a fingerprint (`benchmarks.fingerprint`), and so do the
costs of a set. Files that measure time and memory have one too (`benchmarks.suite_programs`). A
fresh row gets the parts of it that it lacks. A stale row becomes fresh again if its fingerprint is
that of the code at head, and `code.renewed` names the commit. Other rows stay as they are; the
parts of the fingerprint that differ are printed.

A stale row that never got a fingerprint gets it with `--missing`, in a checkout of its own commit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import diagnosis, fingerprint, freshness, harness, suite_programs
from benchmarks.study import cost
from benchmarks.study.rows import experiment_of
from benchmarks.study.sets import SETS, StudyRow
from benchmarks.suites import SUITES
from benchmarks.variant import Variant
from sft_jax import version


class Measured(NamedTuple):
    """Row of a file of results.

    Attributes:
      name: Name of the row; empty for a file that is measured as a whole.
      row: JSON values of the row.
      scope: Code that can change it.
      fingerprint: Its fingerprint at head; None if no row at head has the experiment of this one.
    """

    name: str
    row: dict[str, Any]
    scope: str
    fingerprint: fingerprint.Parts | None


def measured(name: str, result: dict[str, Any], manual_dir: str) -> Iterator[Measured]:
    """Rows of a file.

    Args:
      name: Name of the file in `SUITES`.
      result: Its content.
      manual_dir: Folder with raw files.
    """
    scope = SUITES[name].scope
    if name in suite_programs.PROGRAMS:
        yield Measured("", result, scope, suite_programs.fingerprint_of(name, manual_dir))
        return
    if name == "diagnosis":
        for row_name, row in result["models"].items():
            known = diagnosis.ROWS.get(row_name) == row["changes"]
            config = Variant("matching", "", row["changes"]).experiment() if known else None
            found = config and fingerprint.training(config, StudyRow(), result["seeds"])
            yield Measured(row_name, row, scope, found)
        return
    one = SETS[result["set"]]
    for row_name, row in result["rows"].items():
        known = row_name in {*one.rows, *one.classical}
        if not known or row["experiment"] != one.definition(row_name):
            yield Measured(row_name, row, scope, None)
            continue
        own = one.rows.get(row_name, StudyRow())
        config = experiment_of(one.base, own, manual_dir)
        if row_name in one.classical:
            found = fingerprint.classical(config)
        else:
            optim = dataclasses.replace(config.optim, lr=config.optim.lr * row["rate"])
            tuned = dataclasses.replace(config, optim=optim)
            found = fingerprint.training(tuned, own, result["seeds"])
        yield Measured(row_name, row, scope, found)
    if "cost" in result:
        configs = cost.configs(one, manual_dir)
        known = {*result["cost"]["rows"]} == {*configs}
        found = fingerprint.cost(configs.values()) if known else None
        yield Measured("cost", result["cost"], cost.scope(one), found)


def renew(one: Measured) -> str:
    """Gives a row its fingerprint, or renews it.

    Args:
      one: Row; its values are changed.

    Returns:
      What happened, in words; empty for nothing.
    """
    row, parts = one.row, one.fingerprint
    fresh, had = freshness.state(row.get("code"), one.scope).fresh, row.get("fingerprint", {})
    if parts is None:
        return "no row at head has its experiment"
    if fresh:
        if had.keys() == parts.keys():
            return ""
        row["fingerprint"] = {part: had.get(part) or own() for part, own in parts.items()}
        return "has a fingerprint now"
    if missing := [part for part in parts if part not in had]:
        return f"stale, and without {', '.join(missing)} in its fingerprint"
    if differing := [part for part, own in parts.items() if had[part] != own()]:
        return f"stale: {', '.join(differing)} differ"
    row["code"] = freshness.renewed(row["code"], one.scope)
    return "renewed"


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = [name for name in SUITES if name == "diagnosis" or name.startswith("study_")]
    names = [*rows, *suite_programs.PROGRAMS]
    arguments.add_argument("--results", type=pathlib.Path, default=harness.RESULTS)
    arguments.add_argument("--manual_dir", default="", help="folder with raw files")
    arguments.add_argument("--only", choices=names, action="append", help="file, without .json")
    text = "leave out rows that have a fingerprint, even if they are stale here"
    arguments.add_argument("--missing", action="store_true", help=text)
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
        for one in measured(name, result, options.manual_dir):
            if options.missing and "fingerprint" in one.row:
                continue
            if happened := renew(one):
                print(f"{name} {one.name}: {happened}", flush=True)
                harness.write(path, result)


if __name__ == "__main__":
    main()
