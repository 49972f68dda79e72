"""A dataset of your own arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from sft_jax.data.card import Card, clean_records
from sft_jax.data.checks import checked_names, in_order
from sft_jax.data.dataset import Dataset, DatasetInfo, standardisations
from sft_jax.data.derived import add_to, check_rules
from sft_jax.data.kinds import check_kinds, guess, kept, unstandardised
from sft_jax.data.records import RawData, Record
from sft_jax.data.vocabulary import Vocabulary, build_all
from sft_jax.structs import Kind, ModalitySpec, NotFinite, Task

Arrays = Mapping[str, np.ndarray | Sequence[np.ndarray | None]]
"""Modality name to one array `[n, length, ..., features]`, or to a list of n arrays `[length, ...,
features]` of any lengths, None where an example lacks the modality."""

_LOGGER = logging.getLogger(__name__)

_Examples = dict[str, list[np.ndarray | None]]


def from_arrays(
    inputs: Mapping[str, Arrays],
    labels: Mapping[str, np.ndarray | Sequence[int]],
    class_names: Sequence[str],
    *,
    task: Task = "single_label",
    patch_size: Mapping[str, int | tuple[int, ...]] | None = None,
    not_finite: NotFinite = "error",
    kinds: Mapping[str, Kind] | None = None,
    standardise: Mapping[str, bool] | None = None,
    vocabulary: Mapping[str, int | str | Vocabulary] | None = None,
    masks: Mapping[str, Arrays] | None = None,
    metrics: Sequence[str] = (),
    derived: Mapping[str, str] | None = None,
) -> Dataset:
    """Makes a dataset of arrays in memory.

    Masked arrays (`numpy.ma`) keep their meaning. A step that is masked in all of its features is
    a gap, like one that `masks` leaves out. A masked number in any other step counts as NaN.
    Anything else that converts to an array, such as a table of another library, keeps its order.

    Args:
      inputs: Split (`train` and `valid`, and `test` if there is one) to its `Arrays`.
      labels: Split to its labels: `[n]` class indices, or `[n, c]` numbers.
      class_names: Names of the classes, labels or numbers to predict; integers become text.
      task: Kind of the labels.
      patch_size: Modality name to the number of steps that make one token, or to the size of
        its patches along every axis except the last; 1 by default.
      not_finite: Treatment of numbers that are not finite.
      kinds: Modality name to its kind, whose form its arrays have (`sft_jax.data.kinds`). By
        default it is that of the number of axes: series, image or video.
      standardise: Modality name to whether it is standardised; by default all kinds except
        embedding are.
      vocabulary: Modality name to the number of its ids, by default that of the training split.
        For text the largest number of words, `bytes`, or a vocabulary (`DatasetInfo`) of a run.
      masks: Split to modality name to booleans, for modalities that have gaps. They are
        `[n, length, ...]`, or a list of n `[length, ...]`, None where an example has no gap.
        A model does not see a step that is False, and neither do the statistics.
      metrics: Families of metrics that an evaluation computes in addition to those of the task:
        names or import paths, as in `sft_jax.data.metric_families.load_family`.
      derived: Name of each derived modality to its rule, such as `summary:motion`
        (`sft_jax.data.derived`).

    Raises:
      ValueError: If the arrays do not fit together. The message names the split, modality or
        example, the value found and the one expected.
    """
    for field, value, allowed in (("task", task, Task), ("not_finite", not_finite, NotFinite)):
        if value not in get_args(allowed):
            raise ValueError(f"{field}={value!r} is not one of {', '.join(get_args(allowed))}")
    if missing := [split for split in ("train", "valid") if split not in inputs]:
        raise ValueError(f"inputs have no split {missing}, only {sorted(inputs)}")
    if set(inputs) != set(labels):
        raise ValueError(f"inputs are of splits {sorted(inputs)}, labels of {sorted(labels)}")
    class_names = checked_names(class_names, task)
    labels = {split: in_order(values) for split, values in labels.items()}
    given = {split: _examples(arrays, split) for split, arrays in inputs.items()}
    modalities = {name for rows in given.values() for name in rows}
    patches, asked, wishes = patch_size or {}, standardise or {}, vocabulary or {}
    named_by = {"patch_size": patches, "standardise": asked, "vocabulary": wishes}
    for field, named in named_by.items():
        if unknown := sorted(set(named) - modalities):
            raise ValueError(f"{field}: unknown modality {unknown}, known: {sorted(modalities)}")
    stated = check_kinds(kinds or {}, modalities, "kinds")
    texts = _texts(given["train"], stated)
    words, sizes = build_all({**stated, **dict.fromkeys(texts, "text")}, texts, wishes)
    examples = {split: _kept(rows, stated, words, split) for split, rows in given.items()}
    real = _masks(masks or {}, examples)
    for split, arrays in examples.items():
        _check_counts(split, arrays, labels[split], real[split])
    shapes = _shapes(examples)
    if missing := sorted(modalities - set(shapes)):
        raise ValueError(f"no example has any of {missing}")
    if not modalities:
        raise ValueError("inputs have no modality")
    raw = RawData(
        variant="arrays",
        files=(),
        shapes=shapes,
        class_names=class_names,
        task=task,
        num_examples={split: len(values) for split, values in labels.items()},
        read=lambda split: _records(examples[split], real[split], labels[split], split),
        kinds={**stated, **dict.fromkeys(words, "text")},
        sizes=sizes,
        vocabularies=words,
    )
    raw = add_to(raw, check_rules(derived or {}, "derived"), "derived")
    return _dataset(raw, not_finite, patches, asked, tuple(metrics))


def _dataset(
    raw: RawData,
    policy: NotFinite,
    patches: Mapping[str, int | tuple[int, ...]],
    standardise: Mapping[str, bool],
    metrics: tuple[str, ...],
) -> Dataset:
    """Reads all examples, with the options of `from_arrays`."""
    card = Card.begin("arrays", raw, policy)
    records = {split: tuple(clean_records(raw, card, split)) for split in raw.num_examples}
    for doubt in card.doubtful():
        _LOGGER.warning("%s", doubt)
    unchanged = unstandardised(card.kinds, standardise, policy)
    info = DatasetInfo(
        modalities={
            name: ModalitySpec.from_shape(shape, patches.get(name, 1), **card.forms()[name])
            for name, shape in raw.shapes.items()
        },
        class_names=raw.class_names,
        statistics=standardisations(card.splits["train"].moments, unchanged, card.types_of_all()),
        num_examples={split: len(split_records) for split, split_records in records.items()},
        task=raw.task,
        metrics=metrics,
        vocabularies=dict(card.vocabularies),
        derived=dict(card.derived),
    )
    return Dataset(info, records.__getitem__, card)


def _check_counts(
    split: str, arrays: _Examples, labels: np.ndarray | Sequence[int], masks: _Examples
) -> None:
    counts = {name: len(values) for name, values in arrays.items()} | {"labels": len(labels)}
    counts |= {f"mask of {name}": len(masked) for name, masked in masks.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"split {split!r}: the numbers of examples differ: {counts}")


def _examples(arrays: Arrays, split: str) -> _Examples:
    """Converts the values of each example to an array, for each modality."""
    examples: _Examples = {}
    for name, rows in arrays.items():
        examples[name] = []
        for i, values in enumerate(in_order(rows)):
            try:
                array = None if values is None else _array(values)
            except ValueError as error:
                raise ValueError(f"{split}/{i}: {name} is no array: {error}") from error
            examples[name].append(array)
    return examples


def _texts(train: _Examples, stated: Mapping[str, Kind]) -> dict[str, list[str]]:
    """Finds the modalities whose examples are strings, by their kind or values."""
    strings = {
        name: [str(v) for v in rows if v is not None and v.dtype.kind == "U" and not v.ndim]
        for name, rows in train.items()
    }
    return {name: texts for name, texts in strings.items() if texts and name not in stated} | {
        name: strings.get(name, []) for name, kind in stated.items() if kind == "text"
    }


def _kept(
    rows: _Examples, stated: Mapping[str, Kind], words: Mapping[str, Vocabulary], split: str
) -> _Examples:
    """Converts examples to `[*lengths, features]`, by the kinds of their modalities."""
    converted: _Examples = {}
    for name, examples in rows.items():
        converted[name] = []
        for i, values in enumerate(examples):
            try:
                if values is not None:
                    kind = stated.get(name) or guess(name, values)
                    values = kept(name, values, kind, words.get(name))
            except ValueError as error:
                raise ValueError(f"{split}/{i}: {error}") from None
            converted[name].append(values)
    return converted


def _array(values: Any) -> np.ndarray:
    """Converts like `np.asarray`, and keeps the masks of masked arrays and of lists of them."""
    if isinstance(values, np.ma.MaskedArray):
        return values
    if isinstance(values, list | tuple):
        parts = [_array(part) for part in values]
        if any(isinstance(part, np.ma.MaskedArray) for part in parts):
            return np.ma.stack(parts)
    return np.asarray(values)


def _masks(masks: Mapping[str, Arrays], examples: Mapping[str, _Examples]) -> dict[str, _Examples]:
    """Converts the mask of each example, for each split and modality."""
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
    """Finds the largest shape of each modality."""
    shapes: dict[str, tuple[int, ...]] = {}
    for split, arrays in examples.items():
        for name, rows in arrays.items():
            for i, values in enumerate(rows):
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
