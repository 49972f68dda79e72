"""Checks devices, processes and the run directory, with advice on problems.

python -m sft_jax.doctor --workdir=gs://bucket/run [--config=configs/vggsound.py] [--timeout=60]

With several processes, start it in each of them, like train.py. The exit status is 1 if training
would fail, or would run without an accelerator that seems to exist. `--topology=v5e-16` also
compiles the steps of the config for a slice that need not be there; see `sft_jax.compile`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from rich import markup
from rich.console import Console
from rich.table import Table

from sft_jax import command_line, config_io
from sft_jax.compile.steps import compile_steps, make_mesh
from sft_jax.compile.topology import Topology
from sft_jax.config import ExperimentConfig
from sft_jax.data.outline import outline
from sft_jax.parallel import multihost, preflight
from sft_jax.parallel.preflight import Finding


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command, except those that `command_line.run` adds."""
    own: dict[str, Any] = {"flag_values": values}
    command_line.define_config(values, "Config, the same in all processes.")
    flags.DEFINE_string("workdir", None, "Run directory; made unless it exists.", **own)
    text = "Slice or GPUs that the config's steps are compiled for, such as v5e-16 or h100-1."
    flags.DEFINE_string("topology", None, text, **own)
    flags.DEFINE_float("timeout", 60.0, "Seconds for each check.", lower_bound=0.001, **own)
    text = "Free space below which to warn, in GB."
    flags.DEFINE_float("min_free_gb", preflight.MIN_FREE_GB, text, lower_bound=0.0, **own)
    flags.mark_flag_as_required("workdir", values)


def main() -> None:
    """Runs all checks; one process prints the findings of all processes."""
    values = flags.FLAGS
    config = values.config and config_io.from_mapping(values.config)
    if values.topology and not config:
        raise ValueError(f"--topology={values.topology} needs --config, whose steps are compiled")
    findings, together = preflight.thorough(
        values.workdir, config, timeout=values.timeout, min_free_gb=values.min_free_gb
    )
    if values.topology:
        findings.append(check_topology(values.topology, config))
    rows = gather(findings) if together else findings
    if not together or jax.process_index() == 0:
        print_findings(Console(), rows)
    if not together:
        # A check that has not answered would keep this process from ending.
        multihost.leave("error: not all checks could be done")
    sys.exit(int(any(row.problem and row.stops for row in rows)))


def check_topology(name: str, config: ExperimentConfig) -> Finding:
    """Compiles the steps of a config for a slice; reports a problem if they do not fit it.

    Args:
      name: Name of the slice.
      config: Experiment.

    Raises:
      ModuleNotFoundError: If the compiler for the slice is not installed.
    """
    check = f"fits {name}"
    try:
        topology = Topology.named(name)
        mesh = make_mesh(topology, config)
        reports = compile_steps(topology, config, outline(config.data), mesh)
    except ValueError as error:
        return Finding(check, "no", str(error))
    training = reports["training"]
    found = f"{training.peak_bytes / 2**20:,.0f} of {topology.chip.memory_bytes / 2**20:,.0f} MiB"
    return Finding(
        check, f"{found}; a step takes {1e3 * training.seconds['step']:.3g} ms (estimate)"
    )


def gather(findings: Sequence[Finding]) -> list[Finding]:
    """Gathers the findings of all processes; differing findings get the process number."""
    texts = multihost.gather(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    rows = []
    for answers in zip(*map(json.loads, texts), strict=True):
        same = [Finding(**answer) for answer in answers]
        if len({(row.problem, row.found) for row in same}) == 1 or not any(
            row.problem for row in same
        ):
            rows.append(same[0])
            continue
        rows += [
            dataclasses.replace(row, check=f"{row.check}, process {process}")
            for process, row in enumerate(same)
        ]
    return rows


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Prints a table of the findings, then the problems."""
    table = Table("", "check", "found")
    for row in findings:
        table.add_row(_verdict(row), markup.escape(row.check), markup.escape(row.found))
    console.print(table)
    for row in findings:
        if row.problem:
            line = f"{_verdict(row)}: {row.check}: {row.problem}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _verdict(row: Finding) -> str:
    return ("problem" if row.stops else "warning") if row.problem else "ok"


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    command_line.run(main, distributed=True)
