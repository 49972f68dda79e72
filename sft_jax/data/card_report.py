"""Data cards as tables for people."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from sft_jax.data.card import Card, SplitSummary


def print_card(console: Console, card: Card) -> None:
    """Prints everything on a card, and what it warns of."""
    console.print(f"{card.dataset}, {card.variant}: {card.task}", highlight=False)
    for table in (_splits(card), _labels(card), _modalities(card), _files(card)):
        if table.row_count:
            console.print(table)
    for warning in card.warnings():
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)


def _splits(card: Card) -> Table:
    table = Table(title="examples")
    for split in card.splits:
        table.add_column(split, justify="right")
    table.add_row(*(str(of.n_examples) for of in card.splits.values()))
    return table


def _labels(card: Card) -> Table:
    regression = card.task == "regression"
    table = Table(title="range of the labels" if regression else "examples of each class")
    table.add_column("label")
    for split in card.splits:
        table.add_column(split, justify="right")
    for name in card.class_names:
        cells = (of.labels.get(name, 0) for of in card.splits.values())
        table.add_row(
            name, *(f"{c[0]:g} to {c[1]:g}" if isinstance(c, list) else str(c) for c in cells)
        )
    return table


def _modalities(card: Card) -> Table:
    table = Table(title=f"modalities (not finite: {card.policy})")
    for column in ("modality", "split", "shape", "padded in the file"):
        table.add_column(column)
    for column in ("steps: min", "25 %", "median", "75 %", "max", "absent", "not finite"):
        table.add_column(column, justify="right")
    for name, shape in card.shapes.items():
        for split, of in card.splits.items():
            table.add_row(
                name,
                split,
                " x ".join(map(str, shape)),
                card.padding.get(name, "none"),
                *_quantiles(of.lengths.get(name, {})),
                str(of.lengths.get(name, {}).get(0, 0)),
                _kinds(of, name),
            )
    return table


def _files(card: Card) -> Table:
    table = Table(title="files")
    for column in ("name", "bytes", "sha256"):
        table.add_column(column, overflow="fold")
    for file in card.files:
        table.add_row(file["name"], f"{file['bytes']:,}", file["sha256"])
    return table


def _kinds(split: SplitSummary, modality: str) -> str:
    kinds = split.not_finite.get(modality) or {}
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "0"


def _quantiles(lengths: Mapping[int, int]) -> list[str]:
    """Minimum, quartiles and maximum of the lengths of the examples that have the modality."""
    present = {length: count for length, count in sorted(lengths.items()) if length}
    if not present:
        return ["-"] * 5
    steps, ends = np.array([*present]), np.cumsum([*present.values()])
    ranks = np.array([0, 0.25, 0.5, 0.75, 1]) * (ends[-1] - 1)
    return [str(steps[np.searchsorted(ends, rank, side="right")]) for rank in ranks]
