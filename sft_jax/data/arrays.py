"""Arrays of your own as a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np

from sft_jax.data.card import Card, clean_records
from sft_jax.data.datasets import Dataset, DatasetInfo, standardisations
from sft_jax.data.records import RawData, Record
from sft_jax.structs import CLASS_TASKS, ModalitySpec, NotFinite, Task

Arrays = Mapping[str, np.ndarray | Sequence[np.ndarray | None]]
"""Modality name to one array `[n, length, ..., features]`, or to a list of n arrays `[length, ...,
features]` of any lengths, None where an example lacks the modality."""


def from_arrays(
    inputs: Mapping[str, Arrays],
    labels: Mapping[str, np.ndarray | Sequence[int]],
    class_names: Sequence[str],
    *,
    task: Task = "single_label",
    patch_size: Mapping[str, int | tuple[int, ...]] | None = None,
    not_finite: NotFinite = "error",
) -> Dataset:
    """Makes a dataset of arrays in memory.

    Args:
      inputs: split (`train` and `valid`, and `test` if there is one) to its `Arrays`.
      labels: split to its labels: `[n]` class indices, or `[n, c]` numbers.
      class_names: of the classes, labels or numbers to predict.
      task: what the labels are.
      patch_size: modality to the steps that make one of its tokens, or the size of its patches
        along every axis but the last; 1 by default.
      not_finite: what is done with numbers that are not finite.

    Raises:
      ValueError: naming the split, modality or example, what was found and what was expected.
    """
    if task not in get_args(Task):
        raise ValueError(f"task={task!r} is not one of {', '.join(get_args(Task))}")
    if missing := [split for split in ("train", "valid") if split not in inputs]:
        raise ValueError(f"inputs have no split {missing}, only {sorted(inputs)}")
    if set(inputs) != set(labels):
        raise ValueError(f"inputs are of splits {sorted(inputs)}, labels of {sorted(labels)}")
    for split, arrays in inputs.items():
        counts = {name: len(of) for name, of in arrays.items()} | {"labels": len(labels[split])}
        if len(set(counts.values())) > 1:
            raise ValueError(f"split {split!r}: the numbers of examples differ: {counts}")
    shapes, patches = _shapes(inputs), patch_size or {}
    given = {name for arrays in inputs.values() for name in arrays}
    if missing := sorted(given - set(shapes)):
        raise ValueError(f"no example has any of {missing}")
    if not given:
        raise ValueError("inputs have no modality")
    if unknown := sorted(set(patches) - given):
        raise ValueError(f"patch_size: unknown modality {unknown}, known: {sorted(given)}")
    raw = RawData(
        variant="arrays",
        files=(),
        shapes=shapes,
        class_names=tuple(class_names),
        task=task,
        num_examples={split: len(of) for split, of in labels.items()},
        read=lambda split: _records(inputs[split], labels[split], split, task),
    )
    card = Card.begin("arrays", raw, not_finite)
    records = {split: tuple(clean_records(raw, card, split)) for split in raw.num_examples}
    info = DatasetInfo(
        modalities={
            name: ModalitySpec.of_shape(shape, patches.get(name, 1))
            for name, shape in raw.shapes.items()
        },
        class_names=raw.class_names,
        statistics=standardisations(card.splits["train"].moments),
        num_examples={split: len(of) for split, of in records.items()},
        task=task,
    )
    return Dataset(info, records.__getitem__, card)


def _records(
    arrays: Arrays, labels: np.ndarray | Sequence[int], split: str, task: Task
) -> Iterator[Record]:
    for i, label in enumerate(labels):
        given = {name: of[i] for name, of in arrays.items()}
        yield Record(
            id=f"{split}/{i}",
            inputs={name: np.asarray(of) for name, of in given.items() if of is not None},
            label=np.asarray(label)[()] if task in CLASS_TASKS else np.asarray(label),
        )


def _shapes(inputs: Mapping[str, Arrays]) -> dict[str, tuple[int, ...]]:
    """The largest shape of each modality."""
    shapes: dict[str, tuple[int, ...]] = {}
    for split, arrays in inputs.items():
        for name, of in arrays.items():
            for i, values in enumerate(of):
                if values is None:
                    continue
                shape = np.shape(values)
                known = shapes.setdefault(name, shape)
                if len(shape) < 2 or len(shape) != len(known) or shape[-1] != known[-1]:
                    raise ValueError(
                        f"{split}/{i}: {name} is of shape {list(shape)}, expected"
                        f" {len(known)} axes, at least 2, the last of {known[-1:]} features"
                    )
                shapes[name] = tuple(max(pair) for pair in zip(known, shape, strict=True))
    return shapes
