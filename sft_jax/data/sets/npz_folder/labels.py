"""The labels of a manifest, as text, and their description in `dataset.json`.

`sft_jax.data.sets.npz_folder.files` describes both files.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from sft_jax.data.records import DataFileError
from sft_jax.structs import CLASS_TASKS, Task

_KEYS = ("task", "class_names")


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels, and their conversion from text to numbers.

    Attributes:
      task: Kind of the labels.
      class_names: Names of the classes, labels or numbers to predict.
    """

    task: Task
    class_names: tuple[str, ...]

    def encode(self, text: str) -> int | np.ndarray:
        """Converts text to a class index; for multi_label and regression to `[c]` float32.

        Raises:
          ValueError: If the text is not a label of this task.
        """
        if self.task == "regression":
            return np.array(_numbers(text, len(self.class_names)), np.float32)
        if self.task == "multi_label":
            label = np.zeros(len(self.class_names), np.float32)
            label[[self._index(name) for name in _names(text)]] = 1
            return label
        return self._index(text)

    def _index(self, name: str) -> int:
        if name not in self.class_names:
            some = ", ".join(self.class_names[:10]) + (", ..." if self.class_names[10:] else "")
            raise ValueError(f"label {name!r} is not one of {some}")
        return self.class_names.index(name)


def read_labels(
    description: pathlib.Path, rows: Sequence[tuple[str, str, str]], problems: list[str]
) -> Labels:
    """Finds the kind of the labels, and adds labels of another kind to `problems`.

    Args:
      description: Path of `dataset.json`, which need not exist.
      rows: Line, split and label of each example.
      problems: List to which problems are added.

    Raises:
      DataFileError: If the description is not valid.
    """
    task, class_names = _read_description(description)
    if not class_names:
        train = [label for _, split, label in rows if split == "train"]
        if not train:  # The reader of the manifest reports an empty split.
            return Labels(task, ())
        class_names = _default_names(task, train)
    labels = Labels(task, class_names)
    least = 2 if task in CLASS_TASKS else 1
    if len(class_names) < least:
        problems.append(f"class names {list(class_names)}: {task} needs at least {least}")
        return labels
    for place, split, text in rows:
        try:
            labels.encode(text)
        except ValueError as error:
            problems.append(f"{place} ({split}): {error}")
    return labels


def _read_description(path: pathlib.Path) -> tuple[Task, tuple[str, ...]]:
    if not path.exists():
        return "single_label", ()
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataFileError(f"{path} is no JSON in UTF-8: {error}") from error
    problems = _description_problems(values)
    if problems:
        raise DataFileError("\n".join(f"{path}: {problem}" for problem in problems))
    return values.get("task", "single_label"), tuple(values.get("class_names", ()))


def _description_problems(values: Any) -> list[str]:
    if not isinstance(values, dict):
        return [f"expected an object with the keys {' and '.join(_KEYS)}, got {values!r}"]
    problems = [
        f"there is no key {key!r}: allowed are {' and '.join(_KEYS)}"
        for key in values
        if key not in _KEYS
    ]
    task, names = values.get("task", "single_label"), values.get("class_names", [])
    if task not in get_args(Task):
        problems.append(f"task={task!r} is not one of {', '.join(get_args(Task))}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.append(f"class_names={names!r} is not a list of names")
    elif len(set(names)) < len(names) or any(not name or name != name.strip() for name in names):
        problems.append(
            f"class_names={names!r}: names must differ, and have something in them but no spaces "
            "at their ends"
        )
    elif task == "multi_label" and any("|" in name for name in names):
        problems.append(f"class_names={names!r}: a name has a |, which joins those of multi_label")
    elif task == "ordinal" and not names:
        problems.append("task='ordinal' needs class_names, in their order")
    return problems


def _default_names(task: Task, train: Sequence[str]) -> tuple[str, ...]:
    if task == "regression":
        return tuple(f"target_{index}" for index in range(len(train[0].split("|"))))
    names = [_names(label) if task == "multi_label" else [label] for label in train]
    return tuple(sorted({name for row in names for name in row if name}))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split("|")] if text else []


def _numbers(text: str, count: int) -> list[float]:
    try:
        numbers = [float(number) for number in text.split("|")]
    except ValueError:
        numbers = []
    largest = float(np.finfo(np.float32).max)
    if len(numbers) != count or not all(abs(number) <= largest for number in numbers):
        expected = "a finite number" if count == 1 else f"{count} finite numbers joined by |"
        raise ValueError(f"label {text!r} is not {expected}")
    return numbers
