"""Looks at devices, processes and run directory, and says what is wrong and what to do about it.

python -m sft_jax.doctor --workdir=gs://bucket/run [--config=configs/vggsound.py] [--timeout=60]

With several processes it is started like train.py, in each. The exit status is 1 if training
would fail, or would go on without the accelerator that there seems to be.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags
from rich import markup
from rich.console import Console
from rich.table import Table

from sft_jax import command_line, config_io
from sft_jax.parallel import multihost, preflight
from sft_jax.parallel.preflight import Finding


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command, without those that `command_line.run` adds."""
    own: dict[str, Any] = {"flag_values": values}
    config_flags.DEFINE_config_file("config", None, "To be the same in all processes.", **own)
    flags.DEFINE_string("workdir", None, "Run directory; made if it is not there.", **own)
    flags.DEFINE_float("timeout", 60.0, "Seconds for each check.", lower_bound=0.001, **own)
    what = "Free space below which to warn, in GB."
    flags.DEFINE_float("min_free_gb", preflight.MIN_FREE_GB, what, lower_bound=0.0, **own)
    flags.mark_flag_as_required("workdir", values)


def main() -> None:
    """Does all checks; one process prints what all have found."""
    values = flags.FLAGS
    findings, together = preflight.thorough(
        values.workdir,
        values.config and config_io.from_mapping(values.config),
        timeout=values.timeout,
        min_free_gb=values.min_free_gb,
    )
    rows = gathered(findings) if together else findings
    if not together or jax.process_index() == 0:
        print_findings(Console(), rows)
    if not together:
        # What has not answered would not let this process end.
        multihost.leave("error: not all checks could be done")
    sys.exit(int(any(row.problem and row.stops for row in rows)))


def gathered(findings: Sequence[Finding]) -> list[Finding]:
    """What all processes have found; what is not the same in all of them bears their numbers."""
    texts = preflight.gather(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    rows = []
    for same in zip(*map(json.loads, texts), strict=True):
        of_all = [Finding(**of_one) for of_one in same]
        if len({(row.problem, row.found) for row in of_all}) == 1 or not any(
            row.problem for row in of_all
        ):
            rows.append(of_all[0])
            continue
        rows += [
            dataclasses.replace(row, check=f"{row.check}, process {process}")
            for process, row in enumerate(of_all)
        ]
    return rows


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Prints a table with what was found, then what is wrong."""
    table = Table("", "check", "found")
    for row in findings:
        table.add_row(_verdict(row), markup.escape(row.check), markup.escape(row.found))
    console.print(table)
    for row in findings:
        if row.problem:
            say = f"{_verdict(row)}: {row.check}: {row.problem}"
            console.print(say, markup=False, highlight=False, soft_wrap=True)


def _verdict(row: Finding) -> str:
    return ("problem" if row.stops else "warning") if row.problem else "ok"


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    command_line.run(main, distributed=True)
