"""Exports a trained model to a file that runs without this library: see `sft_jax.export`.

python export.py --workdir=runs/watch --format=onnx --out=watch.onnx [--k=4] [--quantize=int8]
"""

from __future__ import annotations

from absl import flags

from sft_jax import command_line
from sft_jax.export import __main__ as program

program.define_flags(flags.FLAGS)

if __name__ == "__main__":
    command_line.run(program.main, compilation_cache=True)
