"""Exports a trained model to a file that runs without this library, and checks the file.

python export.py --workdir=runs/watch --format=onnx --out=watch.onnx [--k=4] [--stride=2]
    [--quantize=int8] [--checkpoint=best] [--examples=N] [--data_dir=FOLDER] [--manual_dir=FOLDER]

The file is run again on the test split. If an output differs from that of JAX by more than 1e-4,
the file is not kept. Beside it, FILE.json holds its sha256, sizes and differences. With
--examples=N random examples are compared, and the data is not needed.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from sft_jax import command_line
from sft_jax.export import EXPORTERS
from sft_jax.export.command import export_run, summary


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "Run directory of train.py.", required=True, **own)
    text = f"Format of the file: {', '.join(EXPORTERS)}."
    flags.DEFINE_string("format", None, text, required=True, **own)
    flags.DEFINE_string("out", None, "File to write, or folder.", required=True, **own)
    flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.", **own)
    text = "Tokens kept of each modality: a number, or NAME=NUMBER,NAME=NUMBER; default the run's."
    flags.DEFINE_string("k", None, text, **own)
    text = "Number of patches along each axis that become one token."
    flags.DEFINE_integer("stride", 1, text, lower_bound=1, **own)
    flags.DEFINE_string("quantize", None, "int8 for weights in 8 bits.", **own)
    text = "Number of random examples to compare on, in place of the test split."
    flags.DEFINE_integer("examples", None, text, lower_bound=1, **own)
    flags.DEFINE_string("data_dir", None, "Present folder of the prepared data.", **own)
    flags.DEFINE_string("manual_dir", None, "Present folder of the raw files.", **own)


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    """Exports the model that the flags describe."""
    folders = {name: values[name].value for name in ("data_dir", "manual_dir")}
    report = export_run(
        values.workdir,
        values.format,
        values.out,
        checkpoint=values.checkpoint,
        k=read_k(values.k),
        stride=values.stride,
        quantize=values.quantize,
        examples=values.examples,
        data_folders={name: folder for name, folder in folders.items() if folder},
    )
    print(summary(report))
    print(f"report: {values.out}.json")


def read_k(text: str | None) -> int | dict[str, int] | None:
    """Reads `--k`.

    Raises:
      ValueError: For anything other than a whole number, or names with whole numbers.
    """
    if text is None:
        return None
    parts = [part.rpartition("=") for part in text.split(",")]
    named = all(equals for _, equals, _ in parts)
    if not all(n.strip().isdecimal() for *_, n in parts) or not (named or text.isdecimal()):
        raise ValueError(f"--k={text}: expected a whole number, or NAME=NUMBER,NAME=NUMBER")
    return {name.strip(): int(n) for name, _, n in parts} if named else int(text)


def run() -> None:
    """Runs the command in this process."""
    define_flags(flags.FLAGS)
    command_line.run(main, compilation_cache=True)
