"""Models beside each other on the smartwatch: a sweep, then the comparison of its runs.

python -m benchmarks.models --json=FILE [--runs=FOLDER]

The same as `python -m sft_jax.sweep` with a grid of models, and `python -m sft_jax.compare` of its
folder. The README has the table. With `--runs` a second start goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile
from typing import Any

from benchmarks import harness
from benchmarks.suites import SUITES
from benchmarks.variant import Variant
from sft_jax import config_io
from sft_jax.compare.comparison import compare
from sft_jax.runs import storage
from sft_jax.sweep import runs as sweep
from sft_jax.sweep.grid import read_grid

MODELS = ("sft", "mbt", "concat", "late")


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, seeds=(0, 1, 2, 3, 4), only=MODELS)
    text = "folder to keep the run directories in"
    arguments.add_argument("--runs", type=pathlib.Path, help=text)
    return arguments


def measure(folder: pathlib.Path, models: list[str], seeds: list[int]) -> dict[str, Any]:
    """Trains each model with each seed, and compares them with the first.

    Args:
      folder: Folder of the sweep.
      models: Values of `model.name`.
      seeds: Seeds of each.

    Returns:
      Fields of `sft_jax.compare.comparison.Comparison`, as JSON values without paths.
    """
    config = dataclasses.replace(Variant("watch", "").experiment(), seeds=tuple(seeds))
    place, base = storage.as_path(folder), config_io.to_config_dict(config)
    runs = sweep.plan(base, read_grid(f"model.name={','.join(models)}"), place)
    if failed := [one for one in sweep.train_all(runs, place) if one.state != "done"]:
        raise RuntimeError(f"{failed[0].run.name}: {failed[0].error}")
    values = dataclasses.asdict(compare([place], baseline=f"model.name={models[0]}"))
    for line in values["lines"]:
        del line["path"]
    return values


def main() -> None:
    """Trains and compares the models, and writes the result."""
    options = parser().parse_args()
    models = options.only or [*MODELS]
    result = {**harness.environment(SUITES["models"].scope), "seeds": options.seeds}
    with tempfile.TemporaryDirectory() as temporary:
        # Runs of other code are not taken for runs of this.
        runs = (options.runs or pathlib.Path(temporary)) / result["code"]["scope_digest"][-12:]
        result |= measure(runs, models, options.seeds)
    harness.write(options.json, result)


if __name__ == "__main__":
    main()
