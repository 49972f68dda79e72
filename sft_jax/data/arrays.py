"""Arrays of your own as a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from sft_jax.data.card import Card, clean_records
from sft_jax.data.checks import checked_names, in_order
from sft_jax.data.datasets import Dataset, DatasetInfo, standardisations
from sft_jax.data.records import RawData, Record
from sft_jax.structs import ModalitySpec, NotFinite, Task

Arrays = Mapping[str, np.ndarray | Sequence[np.ndarray | None]]
"""Modality name to one array `[n, length, ..., features]`, or to a list of n arrays `[length, ...,
features]` of any lengths, None where an example lacks the modality."""

_Examples = dict[str, list[np.ndarray | None]]


def from_arrays(
    inputs: Mapping[str, Arrays],
    labels: Mapping[str, np.ndarray | Sequence[int]],
    class_names: Sequence[str],
    *,
    task: Task = "single_label",
    patch_size: Mapping[str, int | tuple[int, ...]] | None = None,
    not_finite: NotFinite = "error",
    masks: Mapping[str, Arrays] | None = None,
) -> Dataset:
    """Makes a dataset of arrays in memory.

    Masked arrays (`numpy.ma`) keep their meaning: a step that is masked in all of its features is
    a gap, as one that `masks` leaves out is, and a number that is masked beside others that are
    not counts as NaN. What else converts to an array, such as a table of another library, is taken
    in its order.

    Args:
      inputs: split (`train` and `valid`, and `test` if there is one) to its `Arrays`.
      labels: split to its labels: `[n]` class indices, or `[n, c]` numbers.
      class_names: of the classes, labels or numbers to predict; integers become text.
      task: what the labels are.
      patch_size: modality to the steps that make one of its tokens, or the size of its patches
        along every axis but the last; 1 by default.
      not_finite: what is done with numbers that are not finite.
      masks: split to modality to booleans, for those that have gaps: `[n, length, ...]`, or a list
        of n `[length, ...]`, None where an example has no gap. A step that is False is not seen
        by a model, and does not enter the statistics.

    Raises:
      ValueError: naming the split, modality or example, what was found and what was expected.
    """
    if task not in get_args(Task):
        raise ValueError(f"task={task!r} is not one of {', '.join(get_args(Task))}")
    if not_finite not in get_args(NotFinite):
        allowed = ", ".join(get_args(NotFinite))
        raise ValueError(f"not_finite={not_finite!r} is not one of {allowed}")
    if missing := [split for split in ("train", "valid") if split not in inputs]:
        raise ValueError(f"inputs have no split {missing}, only {sorted(inputs)}")
    if set(inputs) != set(labels):
        raise ValueError(f"inputs are of splits {sorted(inputs)}, labels of {sorted(labels)}")
    class_names = checked_names(class_names, task)
    labels = {split: in_order(given) for split, given in labels.items()}
    examples = {split: _examples(arrays, split) for split, arrays in inputs.items()}
    real = _masks(masks or {}, examples)
    for split, arrays in examples.items():
        counts = {name: len(values) for name, values in arrays.items()} | {
            "labels": len(labels[split])
        }
        counts |= {f"mask of {name}": len(masked) for name, masked in real[split].items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"split {split!r}: the numbers of examples differ: {counts}")
    shapes, patches = _shapes(examples), patch_size or {}
    given = {name for arrays in examples.values() for name in arrays}
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
        class_names=class_names,
        task=task,
        num_examples={split: len(given) for split, given in labels.items()},
        read=lambda split: _records(examples[split], real[split], labels[split], split),
    )
    card = Card.begin("arrays", raw, not_finite)
    records = {split: tuple(clean_records(raw, card, split)) for split in raw.num_examples}
    info = DatasetInfo(
        modalities={
            name: ModalitySpec.from_shape(shape, patches.get(name, 1))
            for name, shape in raw.shapes.items()
        },
        class_names=raw.class_names,
        statistics=standardisations(card.splits["train"].moments),
        num_examples={split: len(of) for split, of in records.items()},
        task=task,
    )
    return Dataset(info, records.__getitem__, card)


def _examples(arrays: Arrays, split: str) -> _Examples:
    """Modality name to an array for each example."""
    examples: _Examples = {}
    for name, given in arrays.items():
        examples[name] = []
        for i, values in enumerate(in_order(given)):
            try:
                array = None if values is None else _array(values)
            except ValueError as error:
                raise ValueError(f"{split}/{i}: {name} is no array: {error}") from error
            examples[name].append(array)
    return examples


def _array(values: Any) -> np.ndarray:
    """As `np.asarray`, which would lose the masks of masked arrays, and of lists of such."""
    if isinstance(values, np.ma.MaskedArray):
        return values
    if isinstance(values, list | tuple):
        parts = [_array(part) for part in values]
        if any(isinstance(part, np.ma.MaskedArray) for part in parts):
            return np.ma.stack(parts)
    return np.asarray(values)


def _masks(masks: Mapping[str, Arrays], examples: Mapping[str, _Examples]) -> dict[str, _Examples]:
    """Split to modality to a mask for each example."""
    if unknown := sorted(set(masks) - set(examples)):
        raise ValueError(f"masks: unknown split {unknown}, known: {sorted(examples)}")
    for split, arrays in masks.items():
        if unknown := sorted(set(arrays) - set(examples[split])):
            raise ValueError(
                f"masks of split {split!r}: unknown modality {unknown}, known:"
                f" {sorted(examples[split])}"
            )
    return {split: _examples(masks.get(split, {}), split) for split in examples}


def _records(
    arrays: _Examples, masks: _Examples, labels: np.ndarray | Sequence[int], split: str
) -> Iterator[Record]:
    for i, label in enumerate(labels):
        inputs = {name: values[i] for name, values in arrays.items()}
        real = {name: masked[i] for name, masked in masks.items() if inputs[name] is not None}
        yield Record(
            id=f"{split}/{i}",
            inputs={name: values for name, values in inputs.items() if values is not None},
            label=label if np.ma.is_masked(label) else np.asarray(label)[()],
            masks={name: mask for name, mask in real.items() if mask is not None},
        )


def _shapes(examples: Mapping[str, _Examples]) -> dict[str, tuple[int, ...]]:
    """The largest shape of each modality."""
    shapes: dict[str, tuple[int, ...]] = {}
    for split, arrays in examples.items():
        for name, given in arrays.items():
            for i, values in enumerate(given):
                if values is None:
                    continue
                shape = values.shape
                known = shapes.setdefault(name, shape)
                if len(shape) < 2 or len(shape) != len(known) or shape[-1] != known[-1]:
                    raise ValueError(
                        f"{split}/{i}: {name} is of shape {list(shape)}, expected"
                        f" {len(known)} axes, at least 2, the last of {known[-1:]} features"
                    )
                shapes[name] = tuple(max(pair) for pair in zip(known, shape, strict=True))
    return shapes
