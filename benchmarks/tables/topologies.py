"""Tables of steps that were compiled for devices that are not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables.results import load, table


def topologies(file: str) -> str:
    """Estimate and memory of a training step of each shipped config, by slice."""
    every = load(file)["rows"]
    rows = {name: row for name, row in every.items() if not {":", ","} & {*name}}
    names = [*dict.fromkeys(topology for row in rows.values() for topology in row)]
    lines = [
        [f"`{name}`", *(_cell(row.get(topology)) for topology in names)]
        for name, row in rows.items()
    ]
    refused: dict[str, list[str]] = {}
    for name, row in rows.items():
        for topology, own in row.items():
            if reason := own.get("refused", own.get("first_refused")):
                refused.setdefault(f"{topology}: {reason}", []).append(f"`{name}`")
    notes = "".join(f"\n\n{', '.join(own)} for {reason}." for reason, own in refused.items())
    return table(["config", *names], lines) + notes


def _cell(own: Mapping[str, Any] | None) -> str:
    if own is None:
        return "—"
    if "refused" in own:
        return "refused"
    text = f"{1e3 * own['training']['seconds']['step']:.2f} ms, {_mebibytes(own)}"
    return f"1,024: {text}" if "first_refused" in own else text


def _mebibytes(own: Mapping[str, Any]) -> str:
    return f"{own['training']['peak_bytes'] / 2**20:,.0f} MiB"


def sizes(file: str) -> str:
    """Estimate, share of the peak and memory of the sizes for accelerators."""
    rows = []
    for name, row in load(file)["rows"].items():
        for topology, own in row.items() if ":" in name else ():
            if "refused" in own:
                rows.append([f"`{name}`", topology, own["refused"], "", ""])
                continue
            step = own["training"]
            share = step["seconds"]["products"] / step["seconds"]["step"]
            figures = [f"{1e3 * step['seconds']['step']:,.1f}", f"{100 * share:.1f}"]
            rows.append([f"`{name}`", topology, *figures, f"{step['peak_bytes'] / 2**30:.2f}"])
    return table(["config", "device", "training step, ms", "% of the peak", "GiB"], rows)


def divided(file: str) -> str:
    """Bytes of the collectives of a training step, beside parameters and gradients."""
    rows = []
    for name, row in load(file)["rows"].items():
        for topology, own in row.items() if "mesh" in name else ():
            step = own["training"]
            moved = sum(size for _, size in step["collectives"].values())
            held = 2 * step["parameter_bytes"]
            figures = [f"{moved / 1e6:.2f}", f"{held / 1e6:.2f}", f"{moved / held:.2f}"]
            rows.append([f"`{name}`", topology, *figures, _mebibytes(own)])
    header = ["config", "slice", "collectives, MB", "parameters and gradients, MB", "ratio"]
    return table([*header, "memory of a device"], rows)
