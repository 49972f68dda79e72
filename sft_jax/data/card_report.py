"""Readable data cards: tables that fit into 80 columns, and a summary of a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box, markup
from rich.console import Console
from rich.table import Table

from sft_jax.data.card import Card
from sft_jax.data.split_summary import SplitSummary
from sft_jax.wording import plural

MOST_ROWS = 20
"""Largest number of classes that are all printed."""
MOST_SPLITS = 4
"""Largest number of splits that are counted separately."""
FIRST_WARNINGS = 3
"""Number of warnings in a summary."""


def print_card(console: Console, card: Card) -> None:
    """Prints all of a card except the moments, and its warnings.

    If there are many classes, the largest and the smallest are printed; the JSON card has all.
    """
    _say(console, f"{card.dataset}, {card.variant}: {card.task}\n{_examples(card)}")
    splits = card.splits
    if len(splits) > MOST_SPLITS:
        splits = {f"all {len(splits)} splits": card.split(splits)}
    labels = "range of the labels" if card.task == "regression" else "examples of each class"
    for heading, table in (
        (labels, _labels(card, splits)),
        ("modalities (steps: fewest-median-most, where it is not absent)", _steps(card, splits)),
    ):
        _say(console, f"\n{heading}")
        console.print(table)
    if card.files:
        _say(console, "\nfiles")
    for file in card.files:
        _say(console, f" {file['name']}, {file['bytes']:,} bytes\n   sha256 {file['sha256']}")
    if warnings := card.warnings():
        console.print()
        _warn(console, warnings)


def print_summary(console: Console, card: Card, where: str) -> None:
    """Prints name and size of the data, and the first warnings.

    Args:
      console: Console to print to.
      card: Data card.
      where: File that holds the card, named in the output if there are more warnings.
    """
    warnings = card.warnings()
    _say(
        console,
        f"data: {card.dataset}, {card.variant}: {_examples(card)},"
        f" {len(warnings) or 'no'} {plural('warning', len(warnings))}",
    )
    _warn(console, warnings[:FIRST_WARNINGS])
    if len(warnings) > FIRST_WARNINGS:
        _say(console, f"all of them: python -m sft_jax.data inspect {where}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _warn(console: Console, warnings: list[str]) -> None:
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)


def _examples(card: Card) -> str:
    if len(card.splits) > MOST_SPLITS:
        count = card.split(card.splits).n_examples
        return f"{count:,} examples in {len(card.splits)} splits"
    counts = ", ".join(f"{summary.n_examples:,} {split}" for split, summary in card.splits.items())
    return f"{counts} examples"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def _labels(card: Card, splits: Mapping[str, SplitSummary]) -> Table:
    table = _table()
    table.add_column("label")
    for split in splits:
        table.add_column(markup.escape(split), justify="right")
    rows = [
        (markup.escape(name), *(_label(summary.labels.get(name, 0)) for summary in splits.values()))
        for name in card.class_names
    ]
    for name in card.class_names if card.task == "regression" else ():
        whole = sorted(
            {value for summary in splits.values() for value in summary.rounded.get(name, {})}
        )
        for value in whole if len(whole) <= MOST_ROWS else ():
            counts = (summary.rounded.get(name, {}).get(value, 0) for summary in splits.values())
            rows.append((f"  rounded to {value}", *map(_label, counts)))
    if card.task != "regression" and len(rows) > MOST_ROWS:
        total = card.split(card.splits).labels
        order = np.argsort([-total.get(name, 0) for name in card.class_names], kind="stable")
        rows = [rows[i] for i in order]
        half = MOST_ROWS // 2
        rows[half:-half] = [(f"({len(rows) - 2 * half} more)",)]
    for row in rows:
        table.add_row(*row)
    return table


def _label(value: Any) -> str:
    return f"{value[0]:.4g} to {value[1]:.4g}" if isinstance(value, list) else f"{value:,}"


def _steps(card: Card, splits: Mapping[str, SplitSummary]) -> Table:
    table = _table()
    table.add_column("name", overflow="fold")
    if card.kinds:
        table.add_column("kind")
    table.add_column("shape, at most")
    if card.padding:
        table.add_column("padded")
    table.add_column("split", overflow="fold")
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("absent", justify="right")
    table.add_column("not finite", justify="right")
    for name, shape in card.shapes.items():
        cells = [markup.escape(name), *_kind(card, name)]
        cells.append(" x ".join(map(str, shape)))
        cells += [card.padding.get(name, "none")] if card.padding else []
        for split, summary in splits.items():
            lengths = summary.lengths.get(name, {})
            absent = f"{lengths.get(0, 0):,}"
            table.add_row(
                *cells, markup.escape(split), _range(lengths), absent, _kinds(summary, name)
            )
            cells = [""] * len(cells)
    return table


def _kind(card: Card, name: str) -> list[str]:
    size = f", {card.sizes[name]:,} ids" if name in card.sizes else ""
    size += f", {card.derived[name]}" if name in card.derived else ""
    return [f"{card.kinds[name]}{size}"] if card.kinds else []


def _kinds(split: SplitSummary, modality: str) -> str:
    kinds = split.not_finite.get(modality) or {}
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()) or "0"


def _range(lengths: Mapping[int, int]) -> str:
    """Formats the minimum, median and maximum length of the examples that have the modality."""
    present = {length: count for length, count in sorted(lengths.items()) if length}
    if not present:
        return "-"
    steps, ends = np.array([*present]), np.cumsum([*present.values()])
    ranks = np.array([0, 0.5, 1]) * (ends[-1] - 1)
    low, middle, high = (steps[np.searchsorted(ends, rank, side="right")] for rank in ranks)
    return str(low) if low == high else f"{low}-{middle}-{high}"
