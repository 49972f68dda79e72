"""Datasets: what they hold, and their splits as sequences of standardised examples.

`sft_jax.data.registry.open_dataset` opens the dataset that a config names, and
`sft_jax.data.arrays` makes one of arrays of your own.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, get_args

import numpy as np

from sft_jax import plugins
from sft_jax.data.card import Card
from sft_jax.data.checks import check_label, check_shapes, checked_names
from sft_jax.data.fingerprint import fingerprint
from sft_jax.data.metric_families import check_family, load_family
from sft_jax.data.standardisation import (
    Standardisation,
    agree,
    compute_statistics,
    finite_steps,
    standardisations,
    statistics_from_json,
)
from sft_jax.structs import CLASS_TASKS, ModalitySpec, Task

__all__ = [
    "IN_MEMORY_BYTES",
    "Dataset",
    "DatasetInfo",
    "Example",
    "Standardisation",
    "check_task",
    "compute_statistics",
    "standardisations",
]

IN_MEMORY_BYTES = 2**30
"""The most that a split may take to be held in memory."""


class Example(TypedDict):
    """One example.

    Attributes:
      id: unique within the dataset, and readable.
      inputs: modality name to `[*lengths, features]` float32.
      masks: modality name to `[*lengths]` booleans; False marks padding, and a mask that is
        False throughout an example without that modality.
      label: class index, for the tasks single_label and ordinal; for multi_label `[c]` numbers,
        1 where the example has the label and 0 where not; for regression the `[c]` numbers
        to predict, which are not standardised: best of a size of about 1.
    """

    id: str
    inputs: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    label: int | np.ndarray


def check_task(of_model: Task, of_data: Task) -> None:
    """Raises ValueError unless a model of one task can learn labels of the other.

    One class of several may be predicted in their order or without it.
    """
    allowed = CLASS_TASKS if of_data in CLASS_TASKS else (of_data,)
    if of_model not in allowed:
        raise ValueError(
            f"model.task={of_model!r} does not fit the dataset, whose task is {of_data!r};"
            f" allowed here: {', '.join(allowed)}"
        )


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a model and its evaluation need to know of a dataset.

    Attributes:
      modalities: the shape of each modality.
      class_names: of the classes, labels or numbers to predict, in the order of the labels;
        integers become text.
      statistics: what each modality is standardised by.
      num_examples: number of examples of each split.
      task: what the labels are; ordinal if the order of the classes means something.
      metrics: Families of metrics that an evaluation computes beside those of the task: names
        or import paths, as in `sft_jax.data.metric_families.load_family`. Infos that differ in
        them alone are equal, because they do not describe the data.

    Raises:
      ValueError: if the statistics are not those of the modalities, there is no such task, a
        name is not text, empty or there twice, there are fewer than two classes, or the metrics
        are unknown or not of such labels.
    """

    modalities: dict[str, ModalitySpec]
    class_names: tuple[str, ...]
    statistics: dict[str, Standardisation]
    num_examples: dict[str, int]
    task: Task = "single_label"
    metrics: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        expected = {name: spec.features for name, spec in self.modalities.items()}
        given = {name: len(of.mean) for name, of in self.statistics.items()}
        if given != expected:
            raise ValueError(
                f"statistics are given for features {given}, but the modalities have {expected}"
            )
        if self.task not in get_args(Task):
            raise ValueError(f"task={self.task!r} is not one of {', '.join(get_args(Task))}")
        for name in self.modalities:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"a modality has the name {name!r}; expected text")
        object.__setattr__(self, "class_names", checked_names(self.class_names, self.task))
        counts = {split: int(count) for split, count in self.num_examples.items()}
        object.__setattr__(self, "num_examples", counts)
        for family in self.metrics:
            # The info of a run is also read where the packages of its metrics are missing.
            if not plugins.is_import_path(family):
                check_family(family, self.task, len(self.class_names))

    @property
    def example_bytes(self) -> int:
        """What the inputs and masks of one example take in memory."""
        shapes = [spec.shape for spec in self.modalities.values()]
        return sum(4 * math.prod(shape) + math.prod(shape[:-1]) for shape in shapes)

    def differences(self, other: DatasetInfo) -> list[str]:
        """Names the fields in which infos differ by more than what was once rounded."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if field.compare
            and getattr(self, field.name) != getattr(other, field.name)
            and not (field.name == "statistics" and agree(self.statistics, other.statistics))
        ]

    def check_task(self, task: Task) -> None:
        """Raises ValueError unless a model of this task can learn the labels (`check_task`)."""
        check_task(task, self.task)

    def to_json(self) -> dict[str, Any]:
        """What `json.load` would give: nothing but dicts, lists, strings and numbers."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DatasetInfo:
        """The exact inverse of `to_json`.

        Without a task, as once saved, it is single_label; without metrics there are none.
        """
        return cls(
            modalities={k: ModalitySpec(**v) for k, v in values["modalities"].items()},
            class_names=tuple(values["class_names"]),
            statistics=statistics_from_json(values["statistics"]),
            num_examples=dict(values["num_examples"]),
            task=values.get("task", "single_label"),
            metrics=tuple(values.get("metrics", ())),
        )


class Dataset:
    """Splits of standardised examples of equal shapes.

    Attributes:
      info: what the dataset holds.
      card: what was found in its files, if it was read from files.
      prepared: where prepared data is, and in which form, if it was read from such, as JSON values.
    """

    def __init__(
        self,
        info: DatasetInfo,
        read: Callable[[str], Sequence[Mapping[str, Any]]],
        card: Card | None = None,
        prepared: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes a dataset without reading it.

        Args:
          info: what the dataset holds, and what it is standardised by.
          read: gives the examples of a split, not standardised; called once per split, and once
            more for its fingerprint. They may be shorter than `info` says and lack modalities, as
            `sft_jax.data.records.Record`s do, or have `masks`, as `Example`s do.
          card: of the files.
          prepared: of data that has been prepared.

        Raises:
          ValueError: If a family of metrics in `info` does not exist or is not for such labels.
        """
        for family in info.metrics:
            check_family(family, info.task, len(info.class_names))
        self.info = info
        self.card = card
        self.prepared = prepared
        self._read = read
        self._sources: dict[str, Sequence[Example]] = {}

    def like(self, info: DatasetInfo) -> Dataset:
        """The same examples, padded and standardised as those of another dataset are.

        For a model, which must be given its examples in the way of those that it learned from.

        Args:
          info: of the other dataset. Shapes, patches and statistics are taken from it; which
            metrics are asked for is not.

        Raises:
          ValueError: if `info` is not of the same modalities, numbers of axes and features,
            task and class_names. An example that is longer than `info` says is found when it
            is read.
        """
        for what, own, given in (
            ("modalities, as (axes, features),", _form(self.info), _form(info)),
            ("task", self.info.task, info.task),
            ("class_names", self.info.class_names, info.class_names),
        ):
            if own != given:
                raise ValueError(f"{what} of the dataset: {own}, expected {given}")
        changed = dataclasses.replace(
            info, num_examples=self.info.num_examples, metrics=self.info.metrics
        )
        return Dataset(changed, self._read, self.card)

    def fingerprint(self, split: str) -> str:
        """A digest of the examples of a split as they were read (`fingerprint`)."""
        return fingerprint(self._read(split))

    def source(self, split: str) -> Sequence[Example]:
        """The examples of a split, padded and standardised.

        A split that takes up to `IN_MEMORY_BYTES` is read, checked and held in memory on its
        first use; the examples of a larger one are made anew whenever they are asked for.
        Inputs are 0 where the mask is False, whatever stood there before.

        Raises:
          ValueError: if there is no such split, or it is empty, or an example does not have
            the shapes and labels of `info`, or holds a number that is not finite.
        """
        if split not in self.info.num_examples:
            raise ValueError(f"no split {split!r}: there are {', '.join(self.info.num_examples)}")
        if split not in self._sources:
            examples = _Prepared(self.info, self._read(split))
            if not examples:
                raise ValueError(f"split {split!r} has no examples")
            fits = len(examples) * self.info.example_bytes <= IN_MEMORY_BYTES
            self._sources[split] = tuple(examples) if fits else examples
        return self._sources[split]


def _form(info: DatasetInfo) -> dict[str, tuple[int, int]]:
    return {name: (len(of.lengths), of.features) for name, of in info.modalities.items()}


class _Prepared(Sequence[Example]):
    """Examples that are padded and standardised when they are asked for."""

    def __init__(self, info: DatasetInfo, examples: Sequence[Mapping[str, Any]]) -> None:
        self._info, self._examples = info, examples
        self._shapes = {name: spec.shape for name, spec in info.modalities.items()}
        self._largest = min((load_family(name).largest for name in info.metrics), default=np.inf)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position: Any) -> Any:
        given = self._examples[position]
        identity = given["id"]
        check_label(
            identity, given["label"], self._info.task, self._info.class_names, self._largest
        )
        check_shapes(identity, given["inputs"], self._shapes)
        prepared = Example(id=identity, inputs={}, masks={}, label=given["label"])
        for name, shape in self._shapes.items():
            values = np.zeros(shape, np.float32)
            mask = np.zeros(shape[:-1], bool)
            if name in given["inputs"]:
                raw, real = finite_steps(given, name)
                within = tuple(slice(length) for length in raw.shape[:-1])
                values[within] = self._info.statistics[name].apply(raw)
                mask[within] = real
                if not real.all():
                    values[~mask] = 0
                if not np.isfinite(values).all():
                    raise ValueError(
                        f"example {identity!r}: {name} is beyond float32 once it is standardised"
                    )
            prepared["inputs"][name], prepared["masks"][name] = values, mask
        return prepared
