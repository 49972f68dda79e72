"""Measures the library on an accelerator: equality with a CPU, speed, distance from the best.

python3 benchmarks/accelerator.py --json=benchmarks/results/accelerator.json

Needs no network, no data, no installation and few packages. `make wheels` packs those that a CUDA
image with JAX, Flax, Optax and Orbax lacks. On the machine with the accelerator:

python3 -m pip install --no-index --no-deps --target /tmp/site .wheels/*.whl
PYTHONPATH=/tmp/site python3 benchmarks/accelerator.py --json=FILE

This file starts `benchmarks.accelerator_sections` from the checkout that it lies in.
"""

from __future__ import annotations

import os
import pathlib
import sys


def main() -> None:
    """Replaces this process by the module's, with the root of the checkout on its path."""
    root = pathlib.Path(__file__).absolute().parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.accelerator_sections", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})


if __name__ == "__main__":
    main()
