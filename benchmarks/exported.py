"""Sizes of the exported files of the default model, and their differences from JAX.

python -m benchmarks.exported --json=FILE [--workdir=FOLDER]

The run is configs/watch.py with seed 0. Each file is compared on the test split by
`sft_jax.export.command.export_run`, as export.py does.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from typing import Any

from benchmarks import harness
from benchmarks.suites import SUITES
from configs import watch
from sft_jax import config_io, experiment
from sft_jax.export.command import export_run

FILES = {"c": (None, "int8"), "html": (None, "int8")}
"""Values of `--quantize` for each format."""


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--workdir", type=pathlib.Path, help="run directory; default: a new run")
    return arguments


def reports(workdir: pathlib.Path, folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Exports a run in each format, and returns the reports without metadata.

    Args:
      workdir: Run directory.
      folder: Folder for the files.
    """
    rows = {}
    for form, kinds in FILES.items():
        for quantize in kinds:
            kind = quantize or "float"
            report = export_run(workdir, form, folder / f"{kind}.{form}", quantize=quantize)
            del report["metadata"], report["code"]
            rows[f"{form}, {kind}"] = report
    return rows


def main() -> None:
    """Trains, exports, and writes the result."""
    options = parser().parse_args()
    result = harness.environment(SUITES["exported"].scope)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        workdir = options.workdir or folder / "run"
        if not options.workdir:
            experiment.train(config_io.from_mapping(watch.get_config()), workdir)
        harness.write(options.json, {**result, "files": reports(workdir, folder)})


if __name__ == "__main__":
    main()
