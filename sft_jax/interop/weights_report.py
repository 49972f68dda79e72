"""Report on each tensor of a checkpoint and each parameter of a model, as a table."""

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
    """Report on one parameter, or on a tensor that belongs to no parameter.

    Attributes:
      tensors: Authors' names of the tensors of the parameter; () if their code lacks the parameter.
      shapes: Shape of each tensor in the file; None for a missing tensor.
      path: Path of the parameter; () for a tensor without one.
      expected: Shape that each tensor must have.
      note: Reason or remark for the table.
    """

    tensors: tuple[str, ...]
    shapes: tuple[Shape | None, ...]
    path: Path = ()
    expected: tuple[Shape, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """Report on every parameter of the model and every tensor of the file.

    Each parameter is in one of the first three groups. Each tensor is in one row of the five
    groups, or in several rows if it packs query, key and value.

    Attributes:
      loaded: Parameters built from tensors of the right shapes.
      missing: Parameters with at least one tensor missing in the file.
      misshapen: Parameters whose tensors are all in the file, at least one with a wrong shape.
      unexpected: Tensors that belong to no parameter.
      unused: Tensors that belong to no parameter and that the authors' code never uses either.
    """

    loaded: tuple[Row, ...]
    missing: tuple[Row, ...]
    misshapen: tuple[Row, ...]
    unexpected: tuple[Row, ...]
    unused: tuple[Row, ...]

    def __str__(self) -> str:
        return f"{self.summary()}\n{self.table()}"

    def summary(self) -> str:
        """Formats the sizes of the groups in one line."""
        return (
            f"parameters: {len(self.loaded)} loaded, {len(self.missing)} missing,"
            f" {len(self.misshapen)} misshapen;"
            f" tensors: {len(self.unexpected)} unexpected, {len(self.unused)} unused"
        )

    def table(self, *statuses: str) -> str:
        """Formats a table with a line for each tensor.

        Args:
          *statuses: Names of the groups to show; all by default.
        """
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
    sources: Mapping[Path, Source | Stack],
) -> Report:
    """Compares the tensors of `state` with the parameters of `model`.

    Args:
      state: Names and tensors.
      model: Model that the tensors are for.
      shapes: Mapping from path to shape of each parameter of the model.
      sources: Mapping from path to source of each parameter that the authors' code also has.
    """
    rows: dict[str, list[Row]] = {field.name: [] for field in dataclasses.fields(Report)}
    for path, shape in shapes.items():
        status, row = _parameter(state, path, shape, sources.get(path))
        rows[status].append(row)
    used = {name for path in shapes if path in sources for name in sources[path].tensors}
    for name in state:
        if name not in used:
            reason = _reason_unused(model, name)
            row = Row((name,), (np.shape(state[name]),), note=reason)
            rows["unused" if reason else "unexpected"].append(row)
    return Report(**{status: tuple(group) for status, group in rows.items()})


def _parameter(
    state: Mapping[str, AnyArray], path: Path, shape: Shape, source: Source | Stack | None
) -> tuple[str, Row]:
    if source is None:
        return "missing", Row((), (), path, note="the authors' code has no such parameter")
    shapes = tuple(np.shape(state[name]) if name in state else None for name in source.tensors)
    row = Row(source.tensors, shapes, path, source.shapes(shape))
    if None in shapes:
        return "missing", row
    return "loaded" if shapes == row.expected else "misshapen", row


def _reason_unused(model: MultimodalClassifier, name: str) -> str:
    for module, pattern, reason in UNUSED:
        if isinstance(model, module) and re.fullmatch(pattern, name):
            return reason
    return ""


def _lines(row: Row, status: str) -> Sequence[tuple[str, str, str, str]]:
    """Makes the cells of the table, one line for each tensor of a row."""
    parameter = "/".join(row.path) or "-"
    if not row.tensors:
        return [("-", "-", parameter, f"{status}: {row.note}")]
    lines = []
    expected = row.expected or [None] * len(row.tensors)
    for tensor, shape, needed in zip(row.tensors, row.shapes, expected, strict=True):
        text = status
        if status == "misshapen" and shape != needed:
            text += f": expected {_shape(needed)}, found {_shape(shape)}"
        elif status in ("missing", "misshapen") and shape is not None:
            text = f"left out: another part is {status}"
        elif row.note:
            text += f": {row.note}"
        lines.append((tensor, _shape(shape), parameter, text))
    return lines


def _shape(shape: Shape | None) -> str:
    return "-" if shape is None else str(list(shape))
