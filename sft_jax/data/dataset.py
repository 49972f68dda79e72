"""Datasets: a description, and splits as sequences of standardised examples.

`sft_jax.data.registry.open_dataset` opens the dataset of a config, and
`sft_jax.data.arrays` makes a dataset from your own arrays.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, get_args

import numpy as np

from sft_jax import plugins
from sft_jax.data import derived
from sft_jax.data.card import Card
from sft_jax.data.checks import check_label, check_shapes, checked_names
from sft_jax.data.fingerprint import fingerprint
from sft_jax.data.kinds import check_ids
from sft_jax.data.metric_families import check_family, load_family
from sft_jax.data.standardisation import (
    Standardisation,
    agree,
    compute_statistics,
    finite_steps,
    standardisations,
    statistics_from_json,
)
from sft_jax.data.view import View
from sft_jax.data.vocabulary import Vocabulary
from sft_jax.structs import CLASS_TASKS, COUNTED, Kind, ModalitySpec, Task

_Read = Callable[[str], Sequence[Mapping[str, Any]]]

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
"""Largest size of a split that is held in memory."""


class Example(TypedDict):
    """One example.

    Attributes:
      id: Readable name, unique within the dataset.
      inputs: Modality name to `[*lengths, features]` float32.
      masks: Modality name to `[*lengths]` booleans; False marks padding. A mask that is False
        throughout stands for an example without that modality.
      label: Class index, for the tasks single_label and ordinal. For multi_label `[c]` numbers,
        1 where the example has the label and 0 elsewhere. For regression the `[c]` numbers
        to predict, which are not standardised; magnitudes of about 1 work best.
    """

    id: str
    inputs: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    label: int | np.ndarray


def check_task(model_task: Task, data_task: Task) -> None:
    """Raises ValueError unless a model of `model_task` can learn labels of `data_task`.

    Classes may be predicted with their order or without it.
    """
    allowed = CLASS_TASKS if data_task in CLASS_TASKS else (data_task,)
    if model_task not in allowed:
        raise ValueError(
            f"model.task={model_task!r} does not fit the dataset, whose task is {data_task!r};"
            f" allowed here: {', '.join(allowed)}"
        )


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Description of a dataset for a model and its evaluation.

    Attributes:
      modalities: Shape of each modality.
      class_names: Names of the classes, labels or numbers to predict, in the order of the
        labels; integers become text.
      statistics: Statistics that each modality is standardised by.
      num_examples: Number of examples in each split.
      task: Kind of the labels; ordinal if the order of the classes has a meaning.
      metrics: Families of metrics that an evaluation computes besides those of the task: names
        or import paths, as in `sft_jax.data.metric_families.load_family`. They do not describe
        the data: two infos that differ only in their metrics are equal.
      vocabularies: Vocabulary of each modality of the kind text.
      derived: Name of each derived modality to its rule (`sft_jax.data.derived`). Examples that
        lack it and have its source are completed.

    Raises:
      ValueError: If the statistics or vocabularies do not fit the modalities. Also if the task is
        unknown, or the metrics are unknown or do not fit the labels, or if `checked_names` refuses
        the class names.
    """

    modalities: dict[str, ModalitySpec]
    class_names: tuple[str, ...]
    statistics: dict[str, Standardisation]
    num_examples: dict[str, int]
    task: Task = "single_label"
    metrics: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    vocabularies: dict[str, Vocabulary] = dataclasses.field(default_factory=dict)
    derived: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = {name: spec.num_statistics for name, spec in self.modalities.items()}
        features = {name: len(own.mean) for name, own in self.statistics.items()}
        if features != expected:
            raise ValueError(
                f"statistics are given for features {features}, but the modalities have {expected}"
            )
        sizes = {n: spec.vocabulary for n, spec in self.modalities.items() if spec.kind == "text"}
        if sizes != (given := {name: len(own) for name, own in self.vocabularies.items()}):
            raise ValueError(f"texts need vocabularies of sizes {sizes}, got {given}")
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
        """Size of the inputs and masks of one example in memory."""
        shapes = [spec.shape for spec in self.modalities.values()]
        return sum(4 * math.prod(shape) + math.prod(shape[:-1]) for shape in shapes)

    def differences(self, other: DatasetInfo) -> list[str]:
        """Names the fields that differ by more than the rounding of earlier versions."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if field.compare
            and getattr(self, field.name) != getattr(other, field.name)
            and not (field.name == "statistics" and agree(self.statistics, other.statistics))
        ]

    def check_task(self, task: Task) -> None:
        """Raises ValueError unless a model of `task` can learn the labels (see `check_task`)."""
        check_task(task, self.task)

    def to_json(self) -> dict[str, Any]:
        """Returns dicts, lists, strings and numbers, as `json.load` does."""
        specs = {name: spec.to_json() for name, spec in self.modalities.items()}
        values = dataclasses.asdict(self) | {"modalities": specs}
        for name in ("vocabularies", "derived"):  # Earlier versions had none.
            if not values[name]:
                del values[name]
        return json.loads(json.dumps(values))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DatasetInfo:
        """Restores the info exactly from the result of `to_json`.

        Earlier versions saved no metrics and no task; their task was always single_label.
        """
        return cls(
            modalities={k: ModalitySpec(**v) for k, v in values["modalities"].items()},
            class_names=tuple(values["class_names"]),
            statistics=statistics_from_json(values["statistics"]),
            num_examples=dict(values["num_examples"]),
            task=values.get("task", "single_label"),
            metrics=tuple(values.get("metrics", ())),
            vocabularies={
                name: Vocabulary(**own) for name, own in values.get("vocabularies", {}).items()
            },
            derived=dict(values.get("derived", {})),
        )


class Dataset:
    """Splits of standardised examples of equal shapes.

    Attributes:
      info: Description of the dataset.
      card: Data card, if the dataset was read from files.
      prepared: Place and form of the prepared data as JSON values, if the dataset was read from it.
    """

    def __init__(
        self,
        info: DatasetInfo,
        read: _Read,
        card: Card | None = None,
        prepared: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes a dataset without reading its examples.

        Args:
          info: Description of the dataset.
          read: Function from a split to its examples, not standardised. It is called once per
            split, and once more for the fingerprint. Examples may be shorter than the shapes of
            `info`, lack modalities (`sft_jax.data.records.Record`), or have `masks`.
          card: Data card of the files.
          prepared: Description of prepared data (`sft_jax.data.prepared`).

        Raises:
          ValueError: If a family of metrics in `info` does not exist or is not for such labels.
        """
        for family in info.metrics:
            check_family(family, info.task, len(info.class_names))
        self.info = info
        self.card = card
        self.prepared = prepared
        self._read = self._completed(read) if info.derived else read
        self._sources: dict[str, Sequence[Example]] = {}

    def _completed(self, read: _Read) -> _Read:
        """Adds the derived modalities that records lack."""
        rules, shapes = self.info.derived, _shapes(self.info)

        def completed(split: str) -> View[Mapping[str, Any]]:
            records = read(split)
            return View(len(records), lambda i: derived.complete(records[i], rules, shapes))

        return completed

    def like(self, info: DatasetInfo) -> Dataset:
        """Makes a dataset of the same examples, padded and standardised like another dataset.

        A model needs examples in the form that it was trained on.

        Args:
          info: Description of the other dataset. Its shapes, patches and statistics are used;
            its metrics are not. Its derived modalities are computed where these examples lack
            them.

        Raises:
          ValueError: If `info` has other modalities, numbers of axes or features, another task
            or other class_names. An example that exceeds the shapes of `info` is refused when
            it is read.
        """
        form, lacking = _form(info), info.derived.keys() - self.info.modalities.keys()
        computed = {name: form[name] for name in lacking}
        for field, own, expected in (
            ("modalities, as (kind, axes, features),", _form(self.info) | computed, form),
            ("derived modalities", info.derived | self.info.derived, info.derived),
            ("task", self.info.task, info.task),
            ("class_names", self.info.class_names, info.class_names),
        ):
            if own != expected:
                raise ValueError(f"{field} of the dataset: {own}, expected {expected}")
        if changed_words := [
            name for name, own in self.info.vocabularies.items() if own != info.vocabularies[name]
        ]:
            raise ValueError(
                f"vocabulary of {changed_words[0]}: its words are not those of the run; pass the"
                " run's, info.vocabularies, as vocabulary of from_arrays"
            )
        changed = dataclasses.replace(
            info, num_examples=self.info.num_examples, metrics=self.info.metrics
        )
        return Dataset(changed, self._read, self.card)

    def fingerprint(self, split: str) -> str:
        """Computes the digest of the examples of a split as they were read (`fingerprint`)."""
        return fingerprint(self._read(split))

    def records(self, split: str) -> Sequence[Mapping[str, Any]]:
        """Examples of a split as they were read, neither padded nor standardised."""
        return self._read(split)

    def source(self, split: str) -> Sequence[Example]:
        """Returns the examples of a split, padded and standardised.

        A split of at most `IN_MEMORY_BYTES` is read, checked and held in memory on its first
        use; an example of a larger split is made anew on every access.
        Inputs are 0 where the mask is False.

        Raises:
          ValueError: If the split is unknown or empty. Also if an example does not have the
            shapes and labels of `info`, or holds a number that is not finite.
        """
        if split not in self.info.num_examples:
            raise ValueError(f"no split {split!r}: there are {', '.join(self.info.num_examples)}")
        if split not in self._sources:
            records = self._read(split)
            families = [load_family(name) for name in self.info.metrics]
            largest = min((family.largest for family in families), default=math.inf)
            examples = View(len(records), lambda i: padded_example(self.info, records[i], largest))
            if not examples:
                raise ValueError(f"split {split!r} has no examples")
            fits = len(examples) * self.info.example_bytes <= IN_MEMORY_BYTES
            self._sources[split] = tuple(examples) if fits else examples
        return self._sources[split]


def _shapes(info: DatasetInfo) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in info.modalities.items()}


def _form(info: DatasetInfo) -> dict[str, tuple[Kind, int, int]]:
    return {
        name: (spec.kind, len(spec.lengths), spec.features)
        for name, spec in info.modalities.items()
    }


def padded_example(
    info: DatasetInfo, record: Mapping[str, Any], largest: float = math.inf
) -> Example:
    """Checks a record, pads it to the shapes of a dataset, and standardises it.

    Args:
      info: Description of the dataset.
      record: Example that is not standardised; see `Dataset`.
      largest: Largest absolute value that a number to predict may have.

    Raises:
      ValueError: If the record does not have the shapes and labels of `info`, or holds a number
        that is not finite.
    """
    identity = record["id"]
    check_label(identity, record["label"], info.task, info.class_names, largest)
    inputs, masks = padded_inputs(info, record)
    return Example(id=identity, inputs=inputs, masks=masks, label=record["label"])


def padded_inputs(
    info: DatasetInfo, record: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Checks the inputs of a record, pads them to the shapes of a dataset, and standardises them.

    Args:
      info: Description of the dataset.
      record: Example that is not standardised; a label is not needed.

    Returns:
      `[*lengths, features]` float32 and `[*lengths]` masks of every modality of `info`.

    Raises:
      ValueError: If an input does not have the shape in `info`, or holds a number that is not
        finite.
    """
    identity, shapes = record["id"], _shapes(info)
    check_shapes(identity, record["inputs"], shapes)
    record = derived.complete(record, info.derived, shapes)
    inputs, masks = {}, {}
    for name, shape in shapes.items():
        inputs[name], masks[name] = np.zeros(shape, np.float32), np.zeros(shape[:-1], bool)
        if name not in record["inputs"]:
            continue
        raw, real = finite_steps(record, name)
        kind, statistics = info.modalities[name].kind, info.statistics[name]
        if kind in COUNTED:
            check_ids(identity, name, raw, info.modalities[name])
        within = tuple(slice(length) for length in raw.shape[:-1])
        values = statistics.apply_by_type(raw) if kind == "events" else statistics.apply(raw)
        if not real.all():
            values[~real] = 0
        if not np.isfinite(values).all():
            raise ValueError(
                f"example {identity!r}: {name} is beyond float32 once it is standardised"
            )
        inputs[name][within], masks[name][within] = values, real
    return inputs, masks
