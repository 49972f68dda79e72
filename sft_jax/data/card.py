"""The data card: what was found in the files of a dataset, counted while they are read."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sft_jax.data import precision
from sft_jax.data.checks import check_label, check_shapes, real_steps
from sft_jax.data.cleaning import clean, finite_means
from sft_jax.data.moments import Moments
from sft_jax.data.records import RawData, Record
from sft_jax.structs import CLASS_TASKS, NotFinite, Task


@dataclasses.dataclass
class SplitSummary:
    """What the examples of a split are like; summaries add up.

    Attributes:
      n_examples: number of examples.
      labels: class or label name to the number of its examples; of regression, number name to
        the smallest and the largest.
      lengths: modality to {steps: number of examples}, absent ones among them as 0.
      not_finite: modality to the kinds of numbers that are not finite and how many.
      moments: modality to the moments of its features, after such numbers have been treated.
      rounded: of regression, number name to {rounded to a whole number: number of examples},
        halves to the even one, as classes of sentiment are made.
      types: modality to {dtype in which its numbers were read: number of examples}.
    """

    n_examples: int = 0
    labels: dict[str, Any] = dataclasses.field(default_factory=dict)
    lengths: dict[str, dict[int, int]] = dataclasses.field(default_factory=dict)
    not_finite: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    moments: dict[str, Moments] = dataclasses.field(default_factory=dict)
    rounded: dict[str, dict[int, int]] = dataclasses.field(default_factory=dict)
    types: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    def add_label(self, label: int | np.ndarray, task: Task, names: Sequence[str]) -> None:
        """Counts the label of one example."""
        counted: dict[str, Any]
        if task in CLASS_TASKS:
            counted = {names[int(label)]: 1}
        elif task == "multi_label":
            counted = {name: int(has) for name, has in zip(names, np.asarray(label), strict=True)}
        else:
            values = np.asarray(label, np.float64).tolist()
            counted = {name: [v, v] for name, v in zip(names, values, strict=True)}
            whole = {name: {round(of[0]): 1} for name, of in counted.items()}
            self.rounded = _add_counts(self.rounded, whole)
        self.labels = _add_labels(self.labels, counted)

    def add_modality(self, name: str, length: int, dtype: str, bad: Mapping[str, int]) -> None:
        """Counts what one example has of a modality, short of its moments."""
        for counts, added in (
            (self.not_finite, bad),
            (self.lengths, {length: 1}),
            (self.types, {dtype: 1} if dtype else {}),
        ):
            of_modality: dict[Any, int] = counts.setdefault(name, {})
            for kind, count in added.items():
                of_modality[kind] = of_modality.get(kind, 0) + count

    def __add__(self, other: SplitSummary) -> SplitSummary:
        """The summary of the examples of both."""
        return SplitSummary(
            self.n_examples + other.n_examples,
            _add_labels(self.labels, other.labels),
            _add_counts(self.lengths, other.lengths),
            _add_counts(self.not_finite, other.not_finite),
            {
                name: self.moments[name] + other.moments[name]
                if name in self.moments and name in other.moments
                else (self.moments | other.moments)[name]
                for name in self.moments | other.moments
            },
            _add_counts(self.rounded, other.rounded),
            _add_counts(self.types, other.types),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        moments = {name: of.to_json() for name, of in self.moments.items()}
        return {
            **dataclasses.asdict(self),
            "moments": moments,
            "lengths": _with_text_keys(self.lengths),
            "rounded": _with_text_keys(self.rounded),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SplitSummary:
        """The exact inverse of `to_json`; what was once saved says nothing of types."""
        return cls(
            values["n_examples"],
            dict(values["labels"]),
            _with_whole_keys(values["lengths"]),
            {name: dict(of) for name, of in values["not_finite"].items()},
            {name: Moments.from_json(of) for name, of in values["moments"].items()},
            _with_whole_keys(values["rounded"]),
            {name: dict(of) for name, of in values.get("types", {}).items()},
        )


@dataclasses.dataclass
class Card:
    """What a dataset holds.

    Attributes:
      dataset: its name.
      variant: which of its known forms.
      task: what the labels are.
      class_names: of the classes, labels or numbers.
      shapes: modality name to the largest `[length, ..., features]` of its examples.
      policy: what was done with numbers that are not finite.
      files: name, size in bytes and sha256 of each file that was read; of a folder, of the
        files in it.
      padding: modality name to the side on which its examples were padded in the file.
      known_releases: release to its number of examples of each split.
      splits: split to what its examples are like.
    """

    dataset: str
    variant: str
    task: Task
    class_names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    policy: NotFinite
    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    padding: dict[str, str] = dataclasses.field(default_factory=dict)
    known_releases: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    splits: dict[str, SplitSummary] = dataclasses.field(default_factory=dict)

    @classmethod
    def begin(
        cls, dataset: str, raw: RawData, policy: NotFinite, folder: pathlib.Path | None = None
    ) -> Card:
        """A card without any split as yet; reads the files to hash them.

        Args:
          dataset: its name.
          raw: what a reader found.
          policy: what is done with numbers that are not finite.
          folder: where the files are; those in it are named by their path from there.
        """
        return cls(
            dataset=dataset,
            variant=raw.variant,
            task=raw.task,
            class_names=tuple(raw.class_names),
            shapes={name: tuple(shape) for name, shape in raw.shapes.items()},
            policy=policy,
            files=[describe_file(path, folder) for path in raw.files],
            padding=dict(raw.padding),
            known_releases={name: dict(of) for name, of in raw.known_releases.items()},
        )

    def split(self, names: Iterable[str]) -> SplitSummary:
        """The summary of some splits together."""
        total = SplitSummary()
        for name in names:
            total += self.splits[name]
        return total

    def warnings(self) -> list[str]:
        """What a person should look at before trusting the data."""
        found = []
        counts = {name: split.n_examples for name, split in self.splits.items()}
        if self.known_releases and counts not in self.known_releases.values():
            known = "; ".join(f"{name}: {of}" for name, of in self.known_releases.items())
            found.append(f"the number of examples, {counts}, is that of no known release ({known})")
        for name, split in self.splits.items():
            if self.task in CLASS_TASKS and (
                missing := [of for of in self.class_names if of not in split.labels]
            ):
                found.append(f"{name}: no example of {', '.join(missing)}")
            for modality, lengths in split.lengths.items():
                if lengths.get(0):
                    found.append(f"{name}: {lengths[0]} examples without {modality}")
            for modality, kinds in split.not_finite.items():
                if kinds:
                    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
                    found.append(f"{name}: {modality} holds {listed}; policy: {self.policy}")
            for modality, moments in split.moments.items():
                types = split.types.get(modality, {})
                found += [
                    f"{name}: {modality}{fault}" for fault in precision.faults(moments, types)
                ]
            if self.task == "regression":
                found += [f"{name}: {fault}" for fault in precision.label_faults(split.labels)]
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "class_names": list(self.class_names),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "splits": {name: split.to_json() for name, split in self.splits.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Card:
        """The exact inverse of `to_json`."""
        return cls(
            **{
                **values,
                "class_names": tuple(values["class_names"]),
                "shapes": {name: tuple(shape) for name, shape in values["shapes"].items()},
                "splits": {
                    name: SplitSummary.from_json(of) for name, of in values["splits"].items()
                },
            }
        )


def clean_records(raw: RawData, card: Card, split: str) -> Iterator[Record]:
    """Reads a split, checks it, treats numbers that are not finite, and puts it on the card.

    Args:
      raw: what a reader found.
      card: whose `splits[split]` is filled in while this goes on.
      split: one of `raw.num_examples`.

    Yields:
      Records whose inputs are finite and of the dtype of `as_stored`; those of `masks` have gaps.

    Raises:
      ValueError: naming the example and what is wrong with it; if the policy is `error` and a
        number is not finite; if an id comes twice; or if the split has no examples.
    """
    means = finite_means(raw.read("train")) if card.policy == "mean" else {}
    summary = card.splits[split] = SplitSummary(
        moments={name: Moments.of(np.zeros((0, of[-1]))) for name, of in card.shapes.items()}
    )
    seen: set[str] = set()
    last: dict[str, np.ndarray] = {}  # vector of each modality
    for record in raw.read(split):
        identity = record["id"]
        if identity in seen:
            raise ValueError(f"split {split!r}: two examples have the id {identity!r}")
        seen.add(identity)
        check_label(identity, record["label"], card.task, card.class_names)
        check_shapes(identity, record["inputs"], card.shapes)
        inputs, masks = {}, {}
        for name in card.shapes:
            if name not in record["inputs"]:
                summary.add_modality(name, 0, "", {})
                continue
            given, real = real_steps(record, name)
            values, real, bad = clean(given, card.policy, means.get(name), real)
            if bad and card.policy == "error":
                listed = ", ".join(f"{count} {kind}" for kind, count in bad.items())
                raise ValueError(
                    f"example {identity!r}: {name} holds {listed}; to read it all the same,"
                    " set not_finite to zero, mean or drop"
                )
            summary.add_modality(name, len(values) if real.any() else 0, str(given.dtype), bad)
            if not real.any():
                continue
            inputs[name] = values
            if not real.all():
                masks[name] = real
            steps = values[real] if name in masks else values
            summary.moments[name] += Moments.of(steps, last.get(name))
            last[name] = steps.reshape(-1, steps.shape[-1])[-1].astype(np.float64)
        summary.n_examples += 1
        summary.add_label(record["label"], card.task, card.class_names)
        cleaned = Record(id=identity, inputs=inputs, label=record["label"])
        yield Record(**cleaned, masks=masks) if masks else cleaned
    if not summary.n_examples:
        raise ValueError(f"split {split!r} has no examples")


def read_card(dataset: str, raw: RawData, policy: NotFinite) -> Card:
    """The card of raw files; reads all of them, and raises what `clean_records` raises."""
    card = Card.begin(dataset, raw, policy)
    for split in raw.num_examples:
        collections.deque(clean_records(raw, card, split), maxlen=0)
    return card


def load_card(path: pathlib.Path) -> Card:
    """A card that was saved as JSON.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it holds no card.
    """
    try:
        return Card.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no data card: {error!r}") from error


def describe_file(path: pathlib.Path, folder: pathlib.Path | None = None) -> dict[str, Any]:
    """Name (the path from `folder`, if it is in there), size in bytes and sha256 of a file.

    Of a folder the sha256 is that of a line `SHA256  NAME` for each of its files, by name;
    hidden ones don't count.
    """
    name = path.name
    if folder and path.is_relative_to(folder):
        name = path.relative_to(folder).as_posix()
    if path.is_dir():
        lines = "".join(f"{_sha256(file)}  {file.name}\n" for file in _files(path))
        digest = hashlib.sha256(lines.encode()).hexdigest()
    else:
        digest = _sha256(path)
    return {"name": name, "bytes": size_in_bytes(path), "sha256": digest}


def size_in_bytes(path: pathlib.Path) -> int:
    """Of a file, or of the files in a folder together."""
    return sum(file.stat().st_size for file in (_files(path) if path.is_dir() else [path]))


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_text_keys(counts: Mapping[str, dict[int, int]]) -> dict[str, dict[str, int]]:
    return {name: {str(key): n for key, n in sorted(of.items())} for name, of in counts.items()}


def _with_whole_keys(counts: Mapping[str, dict[str, int]]) -> dict[str, dict[int, int]]:
    return {name: {int(key): n for key, n in of.items()} for name, of in counts.items()}


def _add_labels(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    total = dict(first)
    for name, value in second.items():
        if name not in total:
            total[name] = value
        elif isinstance(value, list):
            total[name] = [min(total[name][0], value[0]), max(total[name][1], value[1])]
        else:
            total[name] += value
    return total


def _add_counts(
    first: Mapping[str, dict[Any, int]], second: Mapping[str, dict[Any, int]]
) -> dict[str, dict[Any, int]]:
    total = {}
    for name in [*first, *(name for name in second if name not in first)]:
        counts = collections.Counter(first.get(name, {}))
        counts.update(second.get(name, {}))
        total[name] = dict(counts)
    return total
