"""Compares trained runs: metrics, paired differences with intervals, and costs.

python -m sft_jax.compare RUN RUN ... [--split=test] [--checkpoint=best] [--metric=accuracy]
    [--baseline=RUN] [--confidence=0.95] [--resamples=1000] [--evaluate=false] [--measure=false]
    [--out=FILE.csv] [--picture=FILE.png]

A RUN is a run directory, a folder of several seeds or folds, or a folder of these, such as that of
a sweep. Runs without a result on the split are evaluated first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags
from rich.console import Console

from sft_jax import command_line
from sft_jax.compare import intervals, tables
from sft_jax.compare.comparison import compare
from sft_jax.compare.rows import Request
from sft_jax.evaluation import pictures
from sft_jax.runs import storage

POSITIONAL = True
"""Runs are named without a flag."""

_COLUMNS = 160
"""Width of a table that is not printed on a terminal."""


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command, except those that `command_line.run` adds."""
    own: dict[str, Any] = {"flag_values": values}
    splits = ["train", "valid", "test"]
    flags.DEFINE_enum("split", "test", splits, "Split to compare on.", **own)
    flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.", **own)
    text = "Metric, or FAMILY.METRIC; default accuracy or mae."
    flags.DEFINE_string("metric", None, text, **own)
    flags.DEFINE_string("baseline", None, "RUN to compare with; default the first.", **own)
    flags.DEFINE_float("confidence", 0.95, "Probability of the intervals.", **own)
    text = "Resamples of the examples; 0 for no interval over examples."
    flags.DEFINE_integer("resamples", intervals.RESAMPLES, text, lower_bound=0, **own)
    flags.DEFINE_bool("evaluate", True, "Evaluate runs that lack a result.", **own)
    flags.DEFINE_bool("measure", True, "Measure milliseconds.", **own)
    flags.DEFINE_string("out", None, "CSV file to write the table to.", **own)
    flags.DEFINE_string("picture", None, "Picture of the metric against cost.", **own)


def main(runs: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Compares runs as the flags describe."""
    out, picture = (storage.as_path(f) if f else None for f in (values.out, values.picture))
    if picture:
        pictures.check_format(picture)
    for path in filter(None, (out, picture)):
        storage.prepare_file(path)
    comparison = compare(
        runs,
        values.metric,
        values.baseline,
        Request(values.split, values.checkpoint, values.evaluate),
        confidence=values.confidence,
        resamples=values.resamples,
        measure=values.measure,
    )
    console = Console()
    if not console.is_terminal:
        console = Console(width=_COLUMNS)
    tables.print_comparison(console, comparison)
    if out:
        tables.write_csv(out, comparison)
        print(f"written: {out}")
    if picture:
        with pictures.reported(picture):
            tables.draw_comparison(picture, comparison)
            print(f"written: {picture}")


def run() -> None:
    """Runs the command in this process."""
    define_flags(flags.FLAGS)
    command_line.run(main, positional=True, compilation_cache=True)


if __name__ == "__main__":
    run()
