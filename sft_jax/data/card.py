"""The data card: contents of the files of a dataset, counted while they are read."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from sft_jax.data import derived, precision
from sft_jax.data.checks import check_label, check_shapes, real_steps
from sft_jax.data.cleaning import clean, finite_means
from sft_jax.data.doubts import Evidence
from sft_jax.data.kinds import check_ids, ids_in
from sft_jax.data.moments import Moments
from sft_jax.data.records import RawData, Record
from sft_jax.data.split_summary import SplitSummary
from sft_jax.data.vocabulary import Vocabulary
from sft_jax.structs import CLASS_TASKS, COUNTED, Kind, ModalitySpec, NotFinite, Task
from sft_jax.wording import plural


@dataclasses.dataclass
class Card:
    """Contents of a dataset.

    Attributes:
      dataset: Name of the dataset.
      variant: Known form of the dataset that the files have.
      task: Kind of the labels.
      class_names: Names of the classes, labels or numbers.
      shapes: Modality name to the largest `[length, ..., features]` of its examples.
      policy: Treatment of numbers that were not finite.
      files: Name, size in bytes and sha256 of each file that was read. A folder has one entry
        for all of its files.
      padding: Modality name to the side on which its examples were padded in the file.
      known_releases: Name of a release to its number of examples in each split.
      splits: Split to the summary of its examples.
      kinds: Modality name to its kind; of earlier versions empty.
      sizes: Modality name to its number of ids, of the kinds tokens and text.
      vocabularies: Modality name to the vocabulary of its texts.
      types: Modality name to the moments of the values of each type, for events.
      doubts: Modality name to signs in the training split that an unstated kind may be another.
      derived: Name of each derived modality to its rule (`sft_jax.data.derived`).
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
    kinds: dict[str, Kind] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = dataclasses.field(default_factory=dict)
    types: dict[str, list[Moments]] = dataclasses.field(default_factory=dict)
    doubts: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    derived: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def begin(
        cls, dataset: str, raw: RawData, policy: NotFinite, folder: pathlib.Path | None = None
    ) -> Card:
        """Makes a card without any split, and hashes the files.

        Args:
          dataset: Name of the dataset.
          raw: Result of a reader.
          policy: Treatment of numbers that are not finite.
          folder: Folder of the files; the card gives paths relative to it.
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
            known_releases={name: dict(release) for name, release in raw.known_releases.items()},
            kinds={
                name: raw.kinds.get(name) or ModalitySpec.from_shape(shape).kind
                for name, shape in raw.shapes.items()
            },
            sizes={**raw.sizes, **{name: len(own) for name, own in raw.vocabularies.items()}},
            vocabularies=dict(raw.vocabularies),
            derived=dict(raw.derived),
        )

    @classmethod
    def count(cls, dataset: str, raw: RawData, policy: NotFinite) -> Card:
        """Makes a card from all raw files; raises the errors of `clean_records`."""
        card = cls.begin(dataset, raw, policy)
        for split in raw.num_examples:
            collections.deque(clean_records(raw, card, split), maxlen=0)
        return card

    @classmethod
    def load(cls, path: pathlib.Path) -> Card:
        """Reads a card that was saved as JSON.

        Raises:
          OSError: If the file cannot be read.
          ValueError: If it holds no card.
        """
        try:
            return cls.from_json(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no data card: {error!r}") from error

    @classmethod
    def policy_at(cls, path: pathlib.Path) -> NotFinite:
        """Reads the policy of a card; a run without one was trained on finite numbers alone."""
        return cls.load(path).policy if path.exists() else "error"

    def split(self, names: Iterable[str]) -> SplitSummary:
        """Adds up the summaries of some splits."""
        total = SplitSummary()
        for name in names:
            total += self.splits[name]
        return total

    def warnings(self) -> list[str]:
        """Lists faults to look at before trusting the data."""
        warnings = self.doubtful()
        counts = {name: split.n_examples for name, split in self.splits.items()}
        if self.known_releases and counts not in self.known_releases.values():
            known = "; ".join(f"{name}: {release}" for name, release in self.known_releases.items())
            warnings.append(
                f"the number of examples, {counts}, is that of no known release ({known})"
            )
        for name, split in self.splits.items():
            if self.task in CLASS_TASKS and (
                missing := [name for name in self.class_names if name not in split.labels]
            ):
                warnings.append(f"{name}: no example of {', '.join(missing)}")
            for modality, lengths in split.lengths.items():
                if absent := lengths.get(0):
                    examples = f"{absent} {plural('example', absent)}"
                    warnings.append(f"{name}: {examples} without {modality}")
            for modality, kinds in split.not_finite.items():
                if kinds:
                    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
                    warnings.append(f"{name}: {modality} holds {listed}; policy: {self.policy}")
            for modality, moments in split.moments.items():
                types = split.types.get(modality, {})
                warnings += [
                    f"{name}: {modality}{fault}" for fault in precision.faults(moments, types)
                ]
            if self.task == "regression":
                warnings += [f"{name}: {fault}" for fault in precision.label_faults(split.labels)]
        return warnings

    def forms(self) -> dict[str, dict[str, Any]]:
        """Returns the arguments of `ModalitySpec.from_shape` that no shape tells, by modality."""
        return {
            name: {"kind": kind, "vocabulary": self.sizes.get(name, 0)}
            for name, kind in self.kinds.items()
        }

    def count_ids(self, identity: str, name: str, steps: np.ndarray, size: int | None) -> None:
        """Counts the ids of an example of the training split, and the values of types.

        Raises:
          ValueError: If an id is negative or no whole number, or exceeds a stated number of ids.
        """
        ids = ids_in(steps, self.kinds[name])
        if name not in self.vocabularies:
            self.sizes[name] = size or max(self.sizes.get(name, 1), int(ids.max()) + 1)
        spec = ModalitySpec.from_shape(self.shapes[name], **self.forms()[name])
        check_ids(identity, name, steps, spec)
        if self.kinds[name] == "events":
            self.types[name] = Moments.by_type(steps, self.types.get(name, ()))

    def types_of_all(self) -> dict[str, list[Moments]]:
        """Returns `types`, with those that the training split lacks."""
        none = [Moments.from_values(np.zeros((0, 1)))]
        return {
            name: own + none * (self.sizes[name] - len(own)) for name, own in self.types.items()
        }

    def doubtful(self) -> list[str]:
        """Lists the modalities that may be of another kind than that of their axes."""
        return [
            f"{name}: {doubt}. State its kind to silence this: kinds of from_arrays, or data.kinds"
            for name, doubts in self.doubts.items()
            for doubt in doubts
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        derived = {"derived": self.derived} if self.derived else {}  # Earlier cards have none.
        fields = (field.name for field in dataclasses.fields(self) if field.name != "derived")
        return {
            **{name: getattr(self, name) for name in fields},
            **derived,
            "class_names": list(self.class_names),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "splits": {name: split.to_json() for name, split in self.splits.items()},
            "vocabularies": {
                name: dataclasses.asdict(own) for name, own in self.vocabularies.items()
            },
            "types": {name: [m.to_json() for m in own] for name, own in self.types.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Card:
        """Restores a card exactly from the result of `to_json`."""
        return cls(
            **{
                **values,
                "class_names": tuple(values["class_names"]),
                "shapes": {name: tuple(shape) for name, shape in values["shapes"].items()},
                "splits": {
                    name: SplitSummary.from_json(summary)
                    for name, summary in values["splits"].items()
                },
                "vocabularies": {
                    name: Vocabulary(**own) for name, own in values.get("vocabularies", {}).items()
                },
                "types": {
                    name: [Moments.from_json(moments) for moments in own]
                    for name, own in values.get("types", {}).items()
                },
            }
        )


def clean_records(raw: RawData, card: Card, split: str) -> Iterator[Record]:
    """Reads a split, checks it, treats numbers that are not finite, and puts it on the card.

    Args:
      raw: Result of a reader.
      card: Data card, whose `splits[split]` is filled in as the records are read.
      split: Name of a split of `raw.num_examples`.

    Yields:
      Records whose inputs are finite and have the dtype of `as_stored`; modalities in `masks`
      have gaps.

    Raises:
      ValueError: If an example contradicts `raw`, two examples share an id, or the split is
        empty. Also if the policy is `error` and a number is not finite.
    """
    means = finite_means(raw.read("train")) if card.policy == "mean" else {}
    summary = card.splits[split] = SplitSummary(
        moments={
            name: Moments.from_values(np.zeros((0, shape[-1])))
            for name, shape in card.shapes.items()
        }
    )
    evidence = {
        name: Evidence(kind)
        for name, kind in card.kinds.items()
        if split == "train" and name not in raw.kinds
    }
    seen: set[str] = set()
    last: dict[str, np.ndarray] = {}  # vector of each modality
    for record in raw.read(split):
        identity = record["id"]
        if identity in seen:
            raise ValueError(f"split {split!r}: two examples have the id {identity!r}")
        seen.add(identity)
        check_label(identity, record["label"], card.task, card.class_names)
        check_shapes(identity, record["inputs"], card.shapes)
        inputs: dict[str, np.ndarray] = {}
        masks: dict[str, np.ndarray] = {}
        for name in card.shapes:
            source: Mapping[str, Any] = record
            if name in card.derived:  # It is computed from the numbers as they are stored.
                so_far = {"id": identity, "inputs": inputs, "masks": masks}
                source = derived.complete(so_far, {name: card.derived[name]}, card.shapes)
            if name not in source["inputs"]:
                summary.add_modality(name, 0, "", {})
                continue
            raw_values, real = real_steps(source, name)
            values, real, bad = clean(raw_values, card.policy, means.get(name), real)
            if bad and card.policy == "error":
                listed = ", ".join(f"{count} {kind}" for kind, count in bad.items())
                raise ValueError(
                    f"example {identity!r}: {name} holds {listed}; to read it all the same,"
                    " set not_finite to zero, mean or drop"
                )
            summary.add_modality(name, len(values) if real.any() else 0, str(raw_values.dtype), bad)
            if not real.any():
                continue
            if name in evidence:
                evidence[name].add(raw_values)
            inputs[name] = values
            if not real.all():
                masks[name] = real
            steps = values[real] if name in masks else values
            if split == "train" and card.kinds[name] in COUNTED:
                card.count_ids(identity, name, steps, raw.sizes.get(name))
            summary.moments[name] += Moments.from_values(steps, last.get(name))
            last[name] = steps.reshape(-1, steps.shape[-1])[-1].astype(np.float64)
        summary.n_examples += 1
        summary.add_label(record["label"], card.task, card.class_names)
        cleaned = Record(id=identity, inputs=inputs, label=record["label"])
        yield Record(**cleaned, masks=masks) if masks else cleaned
    if not summary.n_examples:
        raise ValueError(f"split {split!r} has no examples")
    card.doubts |= {name: doubts for name, own in evidence.items() if (doubts := own.doubts())}


def describe_file(path: pathlib.Path, folder: pathlib.Path | None = None) -> dict[str, Any]:
    """Returns the name, size in bytes and sha256 of a file or folder.

    The name of a file inside `folder` is its path relative to `folder`. The sha256 of a folder is
    computed from the lines `SHA256  NAME` of its files, sorted by name. Hidden files don't count.
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
    """Adds up the size of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in (_files(path) if path.is_dir() else [path]))


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
