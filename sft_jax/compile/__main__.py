"""Compiles the steps of a config for a slice or GPU that is not there, and reports their cost.

python -m sft_jax.compile --config=configs/vggsound.py --topology=v5e-16 [--config.mesh.fsdp=4]
    [--json=FILE]

Needs the extra [tpu] or [cuda], and no accelerator. All figures are computed. The time of
a step is an estimate. Topologies are the accelerator types of Cloud TPU, such as v5e-8, v5p-8 and
v6e-256, and 1 to 8 GPUs, such as h100-1 and h200-8. The exit status is 1 if the steps do not fit.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh
from rich import box
from rich.console import Console
from rich.table import Table

from sft_jax import command_line, config_io
from sft_jax.compile import report, steps
from sft_jax.compile.topology import Topology
from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import check_task
from sft_jax.data.outline import outline
from sft_jax.runs import storage


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command."""
    own: dict[str, Any] = {"flag_values": values}
    command_line.define_config(values, "Config, as FILE or FILE:ARG, or the name of a shipped one.")
    flags.DEFINE_string("topology", None, "Slice or GPUs, such as v5e-16 or h100-1.", **own)
    flags.DEFINE_string("json", None, "File to write all figures to.", **own)
    flags.mark_flags_as_required(["config", "topology"], values)


def main() -> None:
    """Compiles and reports according to the flags."""
    values = flags.FLAGS
    # This machine may have an accelerator that is in use.
    jax.config.update("jax_platforms", "cpu")
    topology = Topology.named(values.topology)
    config = config_io.from_mapping(values.config)
    data = outline(config.data)
    check_task(config.model.task, data.task)
    path = pathlib.Path(values.json) if values.json else None
    if path:
        storage.prepare_file(path)
    mesh = steps.make_mesh(topology, config)
    try:
        reports = steps.compile_steps(topology, config, data, mesh)
    except report.OutOfMemoryError as error:
        hints = report.advice(error.needed_bytes, topology.chip, config, mesh)
        sys.exit("\n".join([f"error: {error}. What makes it smaller:", *(f"  {h}" for h in hints)]))
    print(describe(topology, mesh, config))
    print_reports(Console(), reports, topology)
    if path:
        figures = {name: dataclasses.asdict(one) for name, one in reports.items()}
        storage.write_whole(path, json.dumps(figures, indent=2) + "\n")
        print(f"wrote {path}")


def describe(topology: Topology, mesh: Mesh, config: ExperimentConfig) -> str:
    """Describes a slice and the division of the batch over it in one line."""
    devices = [*mesh.devices.flat]
    machines = len({device.process_index for device in devices})
    (kind,) = {device.device_kind for device in devices}
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    examples = config.train.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    return (
        f"{topology.name}: {len(devices)} x {kind}, machines: {machines}, mesh: {axes},"
        f" examples on each device: {examples}"
    )


def print_reports(console: Console, reports: dict[str, report.Report], topology: Topology) -> None:
    """Prints a table with a column for each step."""
    table = Table("of one device", box=box.SIMPLE)
    for name in reports:
        table.add_column(f"{name} step", justify="right")
    columns = [*reports.values()]
    limit = topology.chip.memory_bytes / 2**20

    def row(label: str, cells: list[str]) -> None:
        table.add_row(label, *cells)

    for kind in report.MEMORY:
        row(f"{kind}, MiB", [f"{one.memory[kind] / 2**20:,.0f}" for one in columns])
    row(f"all, of {limit:,.0f} MiB", [f"{one.peak_bytes / 2**20:,.0f}" for one in columns])
    table.add_section()
    row("parameters, MB", [f"{one.parameter_bytes / 1e6:,.2f}" for one in columns])
    row("products of the model, GFLOP", [f"{one.model_flops / 1e9:,.2f}" for one in columns])
    row("to and from memory, MB", [f"{one.moved_bytes / 1e6:,.1f}" for one in columns])
    row("kernels", [f"{one.kernels:,.0f}" for one in columns])
    kinds = collections.Counter(kind for one in columns for kind in one.collectives)
    for kind in sorted(kinds):
        pairs = [one.collectives.get(kind, (0, 0)) for one in columns]
        row(f"{kind}: number, MB", [f"{times:,.0f}, {size / 1e6:,.2f}" for times, size in pairs])
    table.add_section()
    for name in columns[0].seconds:
        label = "estimate of the step" if name == "step" else f"  {name}"
        row(f"{label}, ms", [f"{1e3 * one.seconds[name]:,.3f}" for one in columns])
    if any(one.unscheduled for one in columns):
        row("kernels that it leaves out", [f"{one.unscheduled:,.0f}" for one in columns])
    row("share of the peak in bfloat16", [f"{one.peak_share:.1%}" for one in columns])
    row("bound by", [one.bound for one in columns])
    console.print(table)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    command_line.run(main)
