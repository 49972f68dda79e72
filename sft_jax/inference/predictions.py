"""Predictions of files of examples, and the tables that they are written to."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sft_jax.inference.classifier import Budget, Classifier
from sft_jax.inference.files import Unlabelled
from sft_jax.inference.inputs import MAX_BATCH, Inputs, batched
from sft_jax.runs import storage
from sft_jax.runs.storage import AnyPath

OnError = Literal["fail", "skip"]
"""Treatment of a bad example: its error is raised, or the example is left out."""


@dataclasses.dataclass
class Table:
    """Predictions of some examples.

    Attributes:
      columns: Name of each column to its values, one for each example. There are `id`, `split`
        where examples have one, and `prediction` except for regression. Then comes one for each
        class, label or number.
      numbers: Column of each class, label or number by its name.
      digits: Format of these columns as text.
      skipped: Errors of the examples that were left out.
    """

    columns: dict[str, list[Any]]
    numbers: dict[str, str]
    digits: str
    skipped: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def empty(cls, classifier: Classifier, *, has_splits: bool) -> Table:
        """Table for the predictions of a classifier."""
        regression = classifier.model.task == "regression"
        kind = "predicted" if regression else "p"
        numbers = {name: f"{kind}({name})" for name in classifier.info.class_names}
        names = ["id", *["split"] * has_splits, *["prediction"] * (not regression)]
        columns: dict[str, list[Any]] = {name: [] for name in [*names, *numbers.values()]}
        return cls(columns, numbers, ".8g" if regression else ".6f")

    def __len__(self) -> int:
        return len(self.columns["id"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows as mappings from the names of the columns."""
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, values, strict=True))


def predict_table(
    classifier: Classifier,
    examples: Iterable[Unlabelled],
    *,
    k: Budget = None,
    has_splits: bool = False,
    on_error: OnError = "fail",
    advance: Callable[[int], None] = lambda count: None,
) -> Table:
    """Predicts examples, a batch at a time.

    Args:
      classifier: Classifier.
      examples: Examples, which are read as they are needed.
      k: Number of tokens kept of each modality; see `Classifier.predict`.
      has_splits: Whether to add a column `split`.
      on_error: Treatment of an example that can't be read or does not fit.
      advance: Function that is called with the number of examples that are done.

    Raises:
      ValueError: If an example is bad and `on_error` is fail; names it. Also if all are.
    """
    table = Table.empty(classifier, has_splits=has_splits)
    seen: set[tuple[str, str]] = set()
    for part in batched(examples, MAX_BATCH):
        good, inputs = [], []
        for example in part:
            try:
                inputs.append(_read(classifier, example, seen))
                good.append(example)
            except ValueError as error:
                if on_error == "fail":
                    raise
                table.skipped.append(str(error))
        if good:
            _add(table, classifier, good, inputs, k)
        advance(len(part))
    if not len(table):
        raise ValueError(f"no example can be predicted: {'; '.join(table.skipped[:3])}")
    return table


def _read(classifier: Classifier, example: Unlabelled, seen: set[tuple[str, str]]) -> Inputs:
    if example.error is not None:
        raise ValueError(f"example {example.id!r}: {example.error}")
    key = (example.split, example.id)
    if key in seen:
        raise ValueError(f"example {example.id!r}: an earlier one has the same id")
    inputs = classifier.read(example.id, example.values, example.masks, as_given=example.as_given)
    seen.add(key)
    return inputs


def _add(
    table: Table,
    classifier: Classifier,
    examples: Sequence[Unlabelled],
    inputs: Sequence[Inputs],
    k: Budget,
) -> None:
    predicted = classifier.probabilities(classifier.logits(inputs, k))
    columns = table.columns
    columns["id"] += [example.id for example in examples]
    if "split" in columns:
        columns["split"] += [example.split for example in examples]
    if "prediction" in columns:
        names = classifier.names(predicted)
        columns["prediction"] += [n if isinstance(n, str) else "|".join(n) for n in names]
    for column, values in zip(table.numbers.values(), np.transpose(predicted), strict=True):
        columns[column] += values.tolist()


def check_writable(path: AnyPath) -> None:
    """Checks, before any work, that a table can be written to a file.

    Raises:
      ValueError: If its ending is none of `FORMATS`.
      ModuleNotFoundError: If a package that writes the format is not installed.
      OSError: If the file can't be written.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"out={path}: the ending is not one of {', '.join(FORMATS)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError(
            f"out={path}: to write parquet, install the extra: pip install 'sft_jax[parquet]'"
        )
    storage.prepare_file(path)


def write_table(path: AnyPath, table: Table) -> None:
    """Writes a table in the format of the file's ending; the file is whole or as it was.

    | ending | content |
    | --- | --- |
    | `.csv` | the columns of `Table`; probabilities have six digits |
    | `.jsonl` | an object for each example, with `probabilities` or `numbers` by name |
    | `.parquet` | the columns of `Table` |

    Args:
      path: Path of the file, also in a bucket.
      table: Predictions.
    """
    storage.write_whole(path, FORMATS[path.suffix](table))


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.columns)
    numbers = set(table.numbers.values())
    for row in table.rows():
        writer.writerow(
            [f"{v:{table.digits}}" if name in numbers else v for name, v in row.items()]
        )
    return text.getvalue()


def _jsonl(table: Table) -> str:
    kind, lines = "probabilities" if "prediction" in table.columns else "numbers", []
    for row in table.rows():
        numbers = {name: row.pop(column) for name, column in table.numbers.items()}
        lines.append(json.dumps({**row, kind: numbers}) + "\n")
    return "".join(lines)


def _parquet(table: Table) -> bytes:
    import pyarrow
    import pyarrow.parquet

    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table.columns), content)
    return content.getvalue()


FORMATS: Mapping[str, Callable[[Table], str | bytes]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
"""Writers of tables by the ending of the file."""
