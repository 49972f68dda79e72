"""What became of each tensor of a checkpoint and each parameter of a model, as a table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from sft_jax.interop.torch_names import UNUSED, Path, Shape, Source, Stack
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.structs import AnyArray


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one parameter, or of a tensor that belongs to none.

    Attributes:
      tensors: the authors' names of what the parameter is made of; () if they lack it.
      found: the shape of each in the file; None for one that is not there.
      path: of the parameter; () for a tensor without one.
      expected: the shape that each tensor must have.
      note: anything else that there is to say.
    """

    tensors: tuple[str, ...]
    found: tuple[Shape | None, ...]
    path: Path = ()
    expected: tuple[Shape, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every parameter of the model and every tensor of the file.

    Each parameter is in one of the first three, each tensor in a row of one of the five or,
    where query, key and value are packed, of several.

    Attributes:
      loaded: parameters made of tensors of the right shapes.
      missing: parameters of which at least one tensor is not in the file.
      misshapen: parameters of which all tensors are, at least one with another shape.
      unexpected: tensors that no parameter is made of.
      unused: the same, if the authors' code creates but never uses them.
    """

    loaded: tuple[Row, ...]
    missing: tuple[Row, ...]
    misshapen: tuple[Row, ...]
    unexpected: tuple[Row, ...]
    unused: tuple[Row, ...]

    def __str__(self) -> str:
        return f"{self.summary()}\n{self.table()}"

    def summary(self) -> str:
        """How many there are of each, in one line."""
        return (
            f"parameters: {len(self.loaded)} loaded, {len(self.missing)} missing,"
            f" {len(self.misshapen)} misshapen;"
            f" tensors: {len(self.unexpected)} unexpected, {len(self.unused)} unused"
        )

    def table(self, *statuses: str) -> str:
        """A line for each tensor, those of some of the attributes only if any are named."""
        lines = [("tensor", "in the file", "parameter", "status")]
        for status in statuses or [field.name for field in dataclasses.fields(self)]:
            for row in getattr(self, status):
                lines += _lines(row, status)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def compare(
    state: Mapping[str, AnyArray],
    model: MultimodalClassifier,
    shapes: Mapping[Path, Shape],
    made_of: Mapping[Path, Source | Stack],
) -> Report:
    """Holds the tensors of `state` against the parameters of `model`.

    Args:
      state: names and tensors.
      model: whose unused tensors are no surprise.
      shapes: of the model's parameters.
      made_of: what each parameter that the authors have too is made of.
    """
    rows: dict[str, list[Row]] = {field.name: [] for field in dataclasses.fields(Report)}
    for path, shape in shapes.items():
        status, row = _parameter(state, path, shape, made_of.get(path))
        rows[status].append(row)
    used = {name for path in shapes if path in made_of for name in made_of[path].tensors}
    for name in state:
        if name not in used:
            why = _why_unused(model, name)
            row = Row((name,), (np.shape(state[name]),), note=why)
            rows["unused" if why else "unexpected"].append(row)
    return Report(**{status: tuple(of_status) for status, of_status in rows.items()})


def _parameter(
    state: Mapping[str, AnyArray], path: Path, shape: Shape, source: Source | Stack | None
) -> tuple[str, Row]:
    if source is None:
        return "missing", Row((), (), path, note="the authors' code has no such parameter")
    found = tuple(np.shape(state[name]) if name in state else None for name in source.tensors)
    row = Row(source.tensors, found, path, source.shapes(shape))
    if None in found:
        return "missing", row
    return "loaded" if found == row.expected else "misshapen", row


def _why_unused(model: MultimodalClassifier, name: str) -> str:
    for module, pattern, why in UNUSED:
        if isinstance(model, module) and re.fullmatch(pattern, name):
            return why
    return ""


def _lines(row: Row, status: str) -> Sequence[tuple[str, str, str, str]]:
    """Cells of the table, a line for each tensor."""
    parameter = "/".join(row.path) or "-"
    if not row.tensors:
        return [("-", "-", parameter, f"{status}: {row.note}")]
    lines = []
    expected = row.expected or [None] * len(row.tensors)
    for tensor, found, wanted in zip(row.tensors, row.found, expected, strict=True):
        text = status
        if status == "misshapen" and found != wanted:
            text += f": expected {_shape(wanted)}, found {_shape(found)}"
        elif status in ("missing", "misshapen") and found is not None:
            text = f"left out: another part is {status}"
        elif row.note:
            text += f": {row.note}"
        lines.append((tensor, _shape(found), parameter, text))
    return lines


def _shape(shape: Shape | None) -> str:
    return "-" if shape is None else str(list(shape))
