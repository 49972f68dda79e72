"""Initial parameters from another trained model, matched by name.

| status | parameters | initial value |
| --- | --- | --- |
| `loaded` | those of the same name and shape | that of the source |
| `resized` | positions of a modality of another length | that of the source, interpolated |
| `new head` | the head, if the source predicts other classes or another task | random |
| `missing` | those that the source lacks | random |
| `misshapen` | those of the same name and another shape | random |
| `unused` | those that only the source has | — |

The random values are those of the run's seed without a source. The position of CLS is loaded. The
others are interpolated linearly along each axis of the tokens, as if both lengths covered the same
span (Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.2).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from sft_jax.ops.patches import grid
from sft_jax.structs import ModalitySpec

Shape = tuple[int, ...]

STATUSES = ("loaded", "resized", "new head", "missing", "misshapen", "unused")


@dataclasses.dataclass(frozen=True)
class Source:
    """Trained model that another run begins from.

    Attributes:
      name: Path that the user gave, for messages.
      model: Module.
      params: Its parameters, whole on this process.
      class_names: Names of its outputs.
    """

    name: str
    model: Any
    params: Any
    class_names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Row:
    """Report on one parameter.

    Attributes:
      path: Path with slashes.
      status: One of `STATUSES`.
      source: Shape in the source; None if the source lacks the parameter.
      expected: Shape in this run; None if this run lacks the parameter.
      note: Reason.
    """

    path: str
    status: str
    source: Shape | None
    expected: Shape | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Parameters that a run takes from a source, and a report on all parameters of both.

    Attributes:
      params: Arrays to begin with by path; the others stay random.
      rows: Report on each parameter, in the order of `STATUSES`.
    """

    params: Mapping[str, np.ndarray]
    rows: Sequence[Row]

    def __str__(self) -> str:
        lines = [("parameter", "source", "this run", "status")]
        for row in self.rows:
            status = f"{row.status}: {row.note}" if row.note else row.status
            lines.append((row.path, _text(row.source), _text(row.expected), status))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        return f"{self.summary()}\n{table}"

    def summary(self) -> str:
        """Formats the number of parameters of each status in one line."""
        counts = {status: sum(row.status == status for row in self.rows) for status in STATUSES}
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count)

    def apply(self, params: Any) -> Any:
        """Replaces parameters by those of the source, with the placement of the former."""
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        replaced = {
            path: jax.device_put(self.params[path].astype(array.dtype), array.sharding)
            if path in self.params
            else array
            for path, array in flat.items()
        }
        return flax.traverse_util.unflatten_dict(replaced, sep="/")


def transfer(source: Source, model: Any, shapes: Any, class_names: Sequence[str]) -> Transfer:
    """Matches the parameters of a source with those of a model.

    Args:
      source: Trained model.
      model: Model of the new run.
      shapes: Parameters of `model`, or their shapes.
      class_names: Names of its outputs.

    Raises:
      ValueError: If the models have no modality in common, or nothing but the head fits.
    """
    theirs, own = sorted(source.model.mixed_modalities), sorted(model.mixed_modalities)
    if not set(theirs) & set(own):
        raise ValueError(
            f"train.init_from={source.name!r} has no modality in common with this run: its"
            f" modalities are {', '.join(theirs)}, and those of this run {', '.join(own)}"
        )
    given = flax.traverse_util.flatten_dict(source.params, sep="/")
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
    new_head = _new_head(source, model, class_names)
    rows, params = [], {}
    for path, like in wanted.items():
        array = given.get(path)
        value, status, note = _value(path, array, like.shape, source.model, model, new_head)
        if value is not None:
            params[path] = value
        rows.append(Row(path, status, None if array is None else array.shape, like.shape, note))
    rows += [Row(path, "unused", given[path].shape, None) for path in given.keys() - wanted.keys()]
    rows.sort(key=lambda row: (STATUSES.index(row.status), row.path))
    result = Transfer(params, tuple(rows))
    if all(path.startswith("head/") for path in params):
        raise ValueError(
            f"train.init_from={source.name!r}: nothing but the head fits this run:\n{result}"
        )
    return result


def _value(
    path: str, array: Any, shape: Shape, source: Any, model: Any, new_head: str
) -> tuple[np.ndarray | None, str, str]:
    """Initial value of a parameter, None for a random one; its status and a note."""
    if array is None:
        return None, "missing", ""
    if new_head and path.startswith("head/"):
        return None, "new head", new_head
    if array.shape == shape:
        return np.asarray(array), "loaded", ""
    name, _, last = path.removeprefix("tokenizer_").partition("/")
    if last == "position" and {name} <= source.modalities.keys() & model.modalities.keys():
        old, new = source.modalities[name], model.modalities[name]
        if _same_kind(array.shape, old, shape, new):
            note = f"from {_text(grid(old))} tokens to {_text(grid(new))}"
            return _resized(np.asarray(array), grid(old), grid(new)), "resized", note
    return None, "misshapen", ""


def _new_head(source: Source, model: Any, class_names: Sequence[str]) -> str:
    """Reason for a new head; empty if that of the source fits."""
    if source.model.task != model.task:
        return f"the source has task={source.model.task!r}, this run {model.task!r}"
    theirs, own = [*source.class_names], [*class_names]
    if len(theirs) != len(own):
        return f"the source has {len(theirs)} outputs, this run {len(own)}"
    return "" if theirs == own else "the outputs have other names or another order"


def _same_kind(old: Shape, old_spec: ModalitySpec, new: Shape, new_spec: ModalitySpec) -> bool:
    """Tells whether two arrays hold positions of CLS and of patches along as many axes."""
    fits = (
        shape == (1, math.prod(grid(spec)) + 1, old[-1])
        for shape, spec in ((old, old_spec), (new, new_spec))
    )
    return all(fits) and len(grid(old_spec)) == len(grid(new_spec))


def _resized(position: np.ndarray, old: Shape, new: Shape) -> np.ndarray:
    """Interpolates positions `[1, 1 + prod(old), d]` for another grid of tokens."""
    width = position.shape[-1]
    values = position[0, 1:].reshape(*old, width)
    values = np.asarray(jax.image.resize(values, (*new, width), "linear"))
    return np.concatenate([position[:, :1], values.reshape(1, -1, width)], axis=1)


def _text(shape: Shape | None) -> str:
    return "-" if shape is None else str([*shape])
