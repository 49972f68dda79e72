"""Predicts examples without labels, by a trained run.

python predict.py --workdir=runs/watch --input=FOLDER|FILE.npz|FILE.csv --out=FILE.csv
    [--checkpoint=best] [--k=2] [--stride=2] [--split=test] [--on_error=skip]

`sft_jax.inference.files` describes the files of examples. The ending of --out is .csv, .jsonl or
.parquet; the file is written at the end, whole or not at all.
"""

from __future__ import annotations

import sys
from typing import Any

import rich.progress
from absl import flags
from rich.console import Console

import sft_jax
from sft_jax import command_line
from sft_jax.inference import files, predictions
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory
from sft_jax.wording import plural

_MOST_SHOWN = 20
"""Number of skipped examples that are named at most."""


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command, without those that `command_line.run` adds."""
    own: dict[str, Any] = {"flag_values": values}
    text = "Run directory of train.py or exported folder, also gs://...; OWNER/NAME of the hub."
    flags.DEFINE_string("workdir", None, text, **own)
    text = "Examples: FILE.npz, a manifest .csv, a folder of .npz files, or raw files of a dataset."
    flags.DEFINE_string("input", None, text, **own)
    flags.DEFINE_string("out", None, "File to write: .csv, .jsonl or .parquet.", **own)
    flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.", **own)
    text = "Number of tokens kept of each modality; default as in training."
    flags.DEFINE_integer("k", None, text, lower_bound=0, **own)
    text = "Number of patches along each axis that become one token."
    flags.DEFINE_integer("stride", 1, text, lower_bound=1, **own)
    flags.DEFINE_string("split", "", "Split of raw files or a manifest; default all.", **own)
    text = "Treatment of an example that can't be read or does not fit."
    flags.DEFINE_enum("on_error", "fail", ["fail", "skip"], text, **own)
    for name in ("workdir", "input", "out"):
        flags.mark_flag_as_required(name, values)


def main(values: flags.FlagValues = flags.FLAGS) -> None:
    """Predicts the examples that the flags name."""
    out = storage.as_path(values.out)
    predictions.check_writable(out)
    run = RunDirectory(storage.as_path(values.workdir))
    source = files.open_source(values.input, run, values.split)
    classifier = sft_jax.load(values.workdir, values.checkpoint).with_stride(values.stride)
    with rich.progress.Progress(
        rich.progress.TextColumn("predicting"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=Console(stderr=True, soft_wrap=True),
    ) as progress:
        task = progress.add_task("", total=source.count)
        table = predictions.predict_table(
            classifier,
            source.read(),
            k=values.k,
            has_splits=source.has_splits,
            on_error=values.on_error,
            advance=lambda count: progress.advance(task, count),
        )
    predictions.write_table(out, table)
    for error in table.skipped[:_MOST_SHOWN]:
        print(f"skipped: {error}", file=sys.stderr)
    skipped = f", {len(table.skipped)} skipped" if table.skipped else ""
    print(f"{len(table)} {plural('example', len(table))} predicted{skipped}: {out}")


def run() -> None:
    """Runs the command in this process."""
    define_flags(flags.FLAGS)
    command_line.run(main, compilation_cache=True)
