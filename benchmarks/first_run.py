"""Lines that `make train` prints: training and evaluation of the default config, with seed 0.

python -m benchmarks.first_run --json=FILE

README and quickstart show the lines.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from benchmarks import harness
from benchmarks.suites import SUITES

CONFIG, WORKDIR = "configs/watch.py", "runs/watch"


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    return harness.parser(__doc__)


def printed(program: str, *arguments: str, folder: str) -> list[str]:
    """Runs a program in a folder, and returns the lines that it prints."""
    done = subprocess.run(
        [sys.executable, str(harness.ROOT / program), *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": str(harness.ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [line.rstrip() for line in done.stdout.splitlines()]


def main() -> None:
    """Trains, evaluates, and writes the result."""
    options = parser().parse_args()
    result = harness.environment(SUITES["first_run"].scope)
    workdir = f"--workdir={WORKDIR}"
    with tempfile.TemporaryDirectory() as folder:
        config = f"--config={harness.ROOT / CONFIG}"
        result["train"] = printed("train.py", config, workdir, folder=folder)
        result["eval"] = printed("eval.py", workdir, folder=folder)
    harness.write(options.json, result)


if __name__ == "__main__":
    main()
