"""Steps of the shipped configs, compiled for slices and GPUs that this machine does not have.

python -m benchmarks.topologies --json=benchmarks/results/topologies.json [--only=v5e-8 ...]

Nothing is measured: memory, collectives and the time of a step are those of `sft_jax.compile`,
whose command is run for each cell. The compilers are in the extras [tpu] and [cuda]. They may be
installed in turns, as a later start goes on with the cells that are missing. A batch that a slice
can't share is refused before anything is compiled. The cell then has the reason, and the step for a
batch of 1,024.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import freshness, harness
from benchmarks.suites import SUITES
from sft_jax.compile.topology import Topology

TOPOLOGIES = ("v5e-1", "v5e-8", "v5e-256", "v5p-8", "v6e-8", "h100-1")
_ONE = ("v5e-1", "h100-1")
_LARGE_BATCH = 1024


class Case(NamedTuple):
    """A config that is compiled.

    Attributes:
      config: Name of a file in `configs/`, with its argument.
      changes: Changed fields by their dotted name.
      topologies: Topologies to compile it for.
    """

    config: str
    changes: Mapping[str, Any] = {}
    topologies: Sequence[str] = TOPOLOGIES


_SHIPPED = [
    *("watch", "hapt", "physionet2012", "av_mnist"),
    *("matching", "mosi", "mosei", "vggsound"),
]
_SIZED = {"vggsound": {}, "mosei": {}, "av_mnist": {"train.batch_size": _LARGE_BATCH}}
_DIVIDED = {"train.batch_size": _LARGE_BATCH, "mixup.layers": "any"}

CASES: Mapping[str, Case] = {
    **{name: Case(name) for name in _SHIPPED},
    **{
        f"{name}:size={size}": Case(
            f"{name}:size={size}", {"model.attention_kernel": "flash", **changes}, _ONE
        )
        for name, changes in _SIZED.items()
        for size in ("base", "large")
    },
    **{
        f"vggsound, mesh.{axis}=256": Case(
            "vggsound", {**_DIVIDED, f"mesh.{axis}": 256}, ("v5e-256",)
        )
        for axis in ("data", "fsdp")
    },
}
"""Configs by the name of their row. Those of a user's data have the shapes of that data."""


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=TOPOLOGIES)
    arguments.add_argument("--cases", action="append", choices=[*CASES], help="default all")
    return arguments


def cell(case: Case, topology: str) -> dict[str, Any]:
    """Compiles the steps of a case; with a batch of 1,024 if the slice can't share its own.

    Args:
      case: Case.
      topology: Name of the slice.
    """
    own = _compiled(case, topology)
    if "batch_size" in own.get("refused", "") and "train.batch_size" not in case.changes:
        larger = case._replace(changes={**case.changes, "train.batch_size": _LARGE_BATCH})
        return {**_compiled(larger, topology), "first_refused": own["refused"]}
    return own


def _compiled(case: Case, topology: str) -> dict[str, Any]:
    config, _, argument = case.config.partition(":")
    arguments = [
        f"--config=configs/{config}.py" + (f":{argument}" if argument else ""),
        *(f"--config.{name}={value}" for name, value in case.changes.items()),
        f"--topology={topology}",
    ]
    command = ["-m", "sft_jax.compile", *arguments]
    result: dict[str, Any] = {"command": shlex.join(["python", *command])}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "figures.json"
        done = subprocess.run(
            [sys.executable, *command, f"--json={path}"],
            cwd=harness.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if path.exists():
            return {**result, **json.loads(path.read_text())}
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.returncode != 1 or not errors:
        raise RuntimeError(f"{result['command']} ended with {done.returncode}:\n{done.stderr}")
    reason = errors[-1].removeprefix("error: ").removesuffix(". What makes it smaller:")
    return {**result, "refused": reason}


def main() -> None:
    """Compiles all missing cells, and writes the result after each."""
    options = parser().parse_args()
    scope = SUITES["topologies"].scope
    result = harness.read_or_begin(options.json, scope, {}, "rows")
    if result["code"]["digest"] != freshness.identity(scope)["digest"]:
        result = {**harness.environment(scope), "rows": {}}
    for name in options.cases or CASES:
        case, row = CASES[name], result["rows"].setdefault(name, {})
        for topology in case.topologies:
            if topology in row or topology not in (options.only or TOPOLOGIES):
                continue
            Topology.named(topology).require_compiler()
            print(f"{name} for {topology}", flush=True)
            row[topology] = cell(case, topology)
            harness.write(options.json, result)


if __name__ == "__main__":
    main()
