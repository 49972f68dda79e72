"""Datasets: what they hold, and their splits as sequences of standardised examples.

`open_dataset` opens the dataset that a config names. Arrays of your own become a `Dataset`
without it; `compute_statistics` and `DatasetInfo` are all that is needed:

    info = DatasetInfo(
        modalities={"audio": ModalitySpec(length=100, features=40)},
        class_names=("no", "yes"),
        statistics=compute_statistics(splits["train"]),
        num_examples={split: len(examples) for split, examples in splits.items()},
        task="single_label",
    )
    dataset = Dataset(info, splits.__getitem__)
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, get_args

import numpy as np

from sft_jax.config import DataConfig
from sft_jax.structs import MetricFamily, ModalitySpec, Task


class Example(TypedDict):
    """One example.

    Attributes:
      id: unique within the dataset, and readable.
      inputs: modality name to `[length, features]` float32.
      masks: modality name to `[length]` booleans; False marks padding, and a mask that is
        False throughout an example without that modality.
      label: class index, for the tasks single_label and ordinal; for multi_label `[c]` numbers,
        1 where the example has the label and 0 where not; for regression the `[c]` numbers
        to predict, which are not standardised: best of a size of about 1.
    """

    id: str
    inputs: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    label: int | np.ndarray


@dataclasses.dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each feature of a modality.

    Attributes:
      mean: one number per feature, each a float32.
      std: one positive number per feature, each a float32.

    Raises:
      ValueError: if the lengths differ, or a number is not finite, or not positive in `std`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means but {len(self.std)} standard deviations")
        if not np.isfinite(self.mean + self.std).all() or min(self.std, default=1.0) <= 0:
            raise ValueError(f"means must be finite and deviations positive, got {self}")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Subtracts the mean and divides by the deviation.

        Args:
          values: `[..., features]` floats.

        Returns:
          An array of the same shape, float32.
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (np.asarray(values, np.float32) - mean) / std


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a model and its evaluation need to know of a dataset.

    Attributes:
      modalities: the shape of each modality.
      class_names: of the classes, labels or numbers to predict, in the order of the labels.
      statistics: what each modality is standardised by.
      num_examples: number of examples of each split.
      task: what the labels are; ordinal if the order of the classes means something.
      metrics: what an evaluation computes beside the metrics of the task: ranking of one
        class of several; sentiment of seven classes, in order -3 to 3, or of one number from
        -3 to 3. They are not of the data, and infos that differ in them alone are equal.

    Raises:
      ValueError: if the statistics are not those of the modalities, there is no such task, or
        the metrics are unknown or not of such labels.
    """

    modalities: dict[str, ModalitySpec]
    class_names: tuple[str, ...]
    statistics: dict[str, Standardisation]
    num_examples: dict[str, int]
    task: Task = "single_label"
    metrics: tuple[MetricFamily, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        expected = {name: spec.features for name, spec in self.modalities.items()}
        given = {name: len(of.mean) for name, of in self.statistics.items()}
        if given != expected:
            raise ValueError(
                f"statistics are given for features {given}, but the modalities have {expected}"
            )
        if self.task not in get_args(Task):
            raise ValueError(f"task={self.task!r} is not one of {', '.join(get_args(Task))}")
        for family in self.metrics:
            _check_metrics(family, self.task, len(self.class_names))

    def check_task(self, task: Task) -> None:
        """Raises ValueError unless a model of this task can learn the labels.

        One class of several may be predicted in their order or without it.
        """
        one_class = ("single_label", "ordinal")
        allowed = one_class if self.task in one_class else (self.task,)
        if task not in allowed:
            raise ValueError(
                f"model.task={task!r} does not fit the dataset, whose task is {self.task!r};"
                f" allowed here: {', '.join(allowed)}"
            )

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
            statistics={
                name: Standardisation(mean=tuple(of["mean"]), std=tuple(of["std"]))
                for name, of in values["statistics"].items()
            },
            num_examples=dict(values["num_examples"]),
            task=values.get("task", "single_label"),
            metrics=tuple(values.get("metrics", ())),
        )


def _check_metrics(family: str, task: Task, count: int) -> None:
    if family not in get_args(MetricFamily):
        raise ValueError(f"metrics: {family!r} is not one of {', '.join(get_args(MetricFamily))}")
    if family == "ranking":
        needed, good = "the task single_label", task == "single_label"
    else:
        needed = "7 classes, single_label or ordinal, or a regression of 1 number"
        good = (task in ("single_label", "ordinal") and count == 7) or (
            task == "regression" and count == 1
        )
    if not good:
        raise ValueError(
            f"metrics: {family!r} needs {needed}; the task is {task!r}, of {count} class_names"
        )


class Dataset:
    """Splits of standardised examples, each held in memory from its first use.

    Attributes:
      info: what the dataset holds.
    """

    def __init__(self, info: DatasetInfo, read: Callable[[str], Sequence[Example]]) -> None:
        """Makes a dataset without reading it.

        Args:
          info: what the dataset holds, and what it is standardised by.
          read: gives the examples of a split, not standardised; called once per split.
        """
        self.info = info
        self._read = read
        self._sources: dict[str, tuple[Example, ...]] = {}

    def source(self, split: str) -> Sequence[Example]:
        """The examples of a split; reads, checks and standardises them on first use.

        Inputs are 0 where the mask is False, whatever stood there before.

        Raises:
          ValueError: if there is no such split, or it is empty, or an example does not have
            the shapes and labels of `info`, or holds a number that is not finite.
        """
        if split not in self.info.num_examples:
            raise ValueError(f"no split {split!r}: there are {', '.join(self.info.num_examples)}")
        if split not in self._sources:
            examples = self._read(split)
            if not examples:
                raise ValueError(f"split {split!r} has no examples")
            self._sources[split] = tuple(self._prepared(example) for example in examples)
        return self._sources[split]

    def _prepared(self, example: Example) -> Example:
        _check_label(example, self.info)
        _check_shapes(example, self.info)
        _check_values(example)
        inputs = {
            name: np.where(
                example["masks"][name][:, None], of.apply(example["inputs"][name]), np.float32(0)
            )
            for name, of in self.info.statistics.items()
        }
        return {**example, "inputs": inputs}


def _check_label(example: Example, info: DatasetInfo) -> None:
    label, count = np.asarray(example["label"]), len(info.class_names)
    if info.task in ("single_label", "ordinal"):
        allowed = f"one of the {count} classes"
        good = label.shape == () and label.dtype.kind in "iu" and int(label) in range(count)
    elif label.shape != (count,) or label.dtype.kind not in "biuf":
        allowed, good = f"an array of {count} numbers", False
    elif info.task == "multi_label":
        allowed, good = "made of 0 and 1", bool(np.isin(label, (0, 1)).all())
    elif "sentiment" in info.metrics:
        allowed, good = "from -3 to 3", bool((np.abs(label) <= 3).all())
    else:
        allowed, good = "finite", bool(np.isfinite(label).all())
    if not good:
        raise ValueError(f"example {example['id']!r}: label {label.tolist()} is not {allowed}")


def _check_shapes(example: Example, info: DatasetInfo) -> None:
    expected = {name: (spec.length, spec.features) for name, spec in info.modalities.items()}
    inputs = {name: np.shape(values) for name, values in example["inputs"].items()}
    masks = {name: np.shape(mask) for name, mask in example["masks"].items()}
    if inputs != expected:
        raise ValueError(f"example {example['id']!r}: inputs of {inputs}, expected {expected}")
    if masks != {name: shape[:1] for name, shape in expected.items()}:
        raise ValueError(f"example {example['id']!r}: masks of {masks} for inputs of {inputs}")


def _check_values(example: Example) -> None:
    for name, values in example["inputs"].items():
        mask = example["masks"][name]
        if mask.dtype != bool:
            raise ValueError(
                f"example {example['id']!r}: mask of {name} is {mask.dtype}, expected bool"
            )
        bad = mask & ~np.isfinite(values).all(axis=-1)
        if bad.any():
            step = int(bad.argmax())
            raise ValueError(
                f"example {example['id']!r}: {name} is not finite at step {step}: {values[step]}"
            )


def compute_statistics(examples: Sequence[Example]) -> dict[str, Standardisation]:
    """Mean and standard deviation of every feature over the real steps of all examples.

    Sums are kept in float64. A feature that never changes gets a deviation of 1.

    Args:
      examples: at least one, not standardised.

    Raises:
      ValueError: if a number is not finite, or a modality has no real step at all.
    """
    for example in examples:
        _check_values(example)
    return {name: _modality_statistics(name, examples) for name in examples[0]["inputs"]}


def _modality_statistics(name: str, examples: Sequence[Example]) -> Standardisation:
    real = [example["inputs"][name][example["masks"][name]] for example in examples]
    steps = np.concatenate(real).astype(np.float64)
    if not len(steps):
        raise ValueError(f"no example has any step of {name}, so it cannot be standardised")
    mean, std = steps.mean(axis=0), steps.std(axis=0)
    constant = std <= np.finfo(np.float32).eps * np.abs(mean)
    std = np.where(constant, 1.0, std)
    return Standardisation(
        mean=tuple(mean.astype(np.float32).tolist()), std=tuple(std.astype(np.float32).tolist())
    )


def open_dataset(
    config: DataConfig, statistics: Mapping[str, Standardisation] | None = None
) -> Dataset:
    """Opens the dataset that a config names, with splits `train`, `valid` and `test`.

    The first time, the data is prepared in `config.data_dir`.

    Args:
      config: which data, and who is in which split.
      statistics: what to standardise by; by default what the training people's data gives.
        An evaluation passes those that were saved with its run.

    Raises:
      ValueError: if the windows do not fit the recordings, or a patch does not fit a window,
        or a split is empty, or the statistics are not those of the modalities.
      OSError: if the data is not there and `config.data_dir` cannot be written to.
      ModuleNotFoundError: if the package with the recordings is not installed.
    """
    from sft_jax.data import recordings, watch  # Deferred: TFDS takes a second to import.

    spec = ModalitySpec(
        length=watch.whole_samples("window_seconds", config.window_seconds),
        features=3,
        patch_size=config.patch_size,
    )
    people = {
        "train": config.train_people,
        "valid": config.valid_people,
        "test": config.test_people,
    }
    builder = watch.prepare(config.window_seconds, config.stride_seconds, config.data_dir)
    num_examples = {split: watch.count_examples(builder, of) for split, of in people.items()}
    for split, count in num_examples.items():
        if not count:
            raise ValueError(f"split {split!r} has no examples: its people are {people[split]}")

    # The latest split is kept, so that the one that gave the statistics is not decoded twice.
    @functools.lru_cache(maxsize=1)
    def read(split: str) -> list[Example]:
        return watch.read_examples(builder, people[split])

    info = DatasetInfo(
        modalities={name: spec for name in recordings.MODALITIES},
        class_names=recordings.EXERCISES,
        statistics=compute_statistics(read("train")) if statistics is None else dict(statistics),
        num_examples=num_examples,
    )
    return Dataset(info, read)
