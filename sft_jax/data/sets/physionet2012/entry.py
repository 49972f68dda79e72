"""Stays in intensive care as a dataset."""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from sft_jax.data.records import RawData, Record
from sft_jax.data.sets.base import DatasetEntry, StoredForm, digest, file_names
from sft_jax.data.sets.folds import LEAST, check_fold
from sft_jax.data.sets.physionet2012.events import binned, only_types, types_of
from sft_jax.data.sets.physionet2012.files import TYPES, Stay, paths, read_set
from sft_jax.data.sets.physionet2012.splits import in_folds, with_validation
from sft_jax.data.sets.physionet2012.statistics import COLUMNS, column_means, statistics
from sft_jax.data_config import STRICT, CountOrNone, folder_field
from sft_jax.structs import Kind, Task

SetNames = tuple[Literal["a", "b", "c"], ...]
_CLASSES = {"death": ("survived", "died"), "stay": ("days",)}
_KINDS: Mapping[str, Kind] = {**dict.fromkeys(TYPES, "events"), "statistics": "vector"}
_TASKS: Mapping[str, Task] = {"death": "single_label", "stay": "regression"}


@dataclass(frozen=True, config=STRICT)
class PhysioNet2012Data(DatasetEntry):
    """48 hours in intensive care (Silva et al. 2012): does the patient die in hospital?

    The modalities vitals, labs and static are events: hours since admission, number of the
    measurement, value (`sft_jax.data.sets.physionet2012.codes`). A value that is unknown or
    implausible is no event. Nor is one whose measurement no stay of `train_sets` has.

    The modality statistics is a row of a table: last, mean, lowest and highest value of each
    measurement, and their number. It holds the means of the training split, and the number 0, for a
    measurement that a stay lacks.

    Attributes:
      manual_dir: Folder of the archives and outcomes; empty for `downloads/manual` in `data_dir`.
      target: death in hospital, or days of stay, without the stays where they are unknown.
      bin_hours: Hours in which the values of a measurement become one event, of their mean time and
        value; 0 for an event for each value.
      train_sets: Sets to train and validate on.
      test_sets: Sets that the result is reported on.
      valid_share: Share of `train_sets` that selects the checkpoint, the same of each class.
      folds: Number of folds of `train_sets`, for cross-validation in them alone; 0 to test on
        `test_sets` (`sft_jax.data.sets.folds`).
      fold: Number of the fold to test on, from 0. The next fold selects the checkpoint.
    """

    name: Literal["physionet2012"] = "physionet2012"
    manual_dir: str = folder_field()
    target: Literal["death", "stay"] = "death"
    bin_hours: Annotated[float, Field(ge=0, le=48)] = 0.0
    train_sets: SetNames = ("a",)
    test_sets: SetNames = ("b", "c")
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    folds: CountOrNone = 0
    fold: CountOrNone = 0

    needs: ClassVar[str] = (
        "It takes set-a.tar.gz, Outcomes-a.txt and those of the other sets, from"
        " https://physionet.org/content/challenge-2012/1.0.0/"
    )
    store: ClassVar[str] = "physionet2012"

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (*self.train_sets, *self.test_sets)
        if not self.train_sets or not self.test_sets or len(set(names)) < len(names):
            raise ValueError(
                f"train_sets={self.train_sets}, test_sets={self.test_sets}: each must name at least"
                " one of a, b, c, and none may be in both"
            )
        # The number of stays is known when the files are read.
        check_fold(self.folds, self.fold, max(self.folds, LEAST))

    def read(self, folder: pathlib.Path) -> RawData:
        """Reads all stays of the sets; see `sft_jax.data.sets.physionet2012.files`."""
        names = self.train_sets if self.folds else (*self.train_sets, *self.test_sets)
        files = tuple(itertools.chain.from_iterable(paths(folder, name) for name in names))
        sets = {name: self._stays(folder, name) for name in names}
        types = types_of(itertools.chain.from_iterable(sets[name] for name in self.train_sets))
        sets = {
            name: [self._with_inputs(stay) for stay in only_types(stays, types)]
            for name, stays in sets.items()
        }
        own = [stay for name in self.train_sets for stay in sets[name]]
        if self.folds:
            splits = in_folds(
                own, self.folds, self.fold, _TASKS[self.target], _CLASSES[self.target]
            )
        else:
            splits = with_validation(own, self.valid_share)
            splits["test"] = [stay for name in self.test_sets for stay in sets[name]]
        return RawData(
            variant="_".join(("sets", *names)),
            files=files,
            shapes=dict(_shapes(itertools.chain(*sets.values()))),
            class_names=_CLASSES[self.target],
            task=_TASKS[self.target],
            num_examples={split: len(stays) for split, stays in splits.items()},
            read=functools.partial(self._records, splits),
            kinds=_KINDS,
            sizes={name: len(types) for name, types in TYPES.items()},
        )

    def _stays(self, folder: pathlib.Path, name: str) -> list[Stay]:
        known = self.target == "death"
        return [stay for stay in read_set(folder, name) if known or stay.days >= 0]

    def _with_inputs(self, stay: Stay) -> Stay:
        inputs = {name: binned(own, self.bin_hours) for name, own in stay.inputs.items()}
        return stay._replace(inputs={**inputs, "statistics": statistics(stay.inputs)[None]})

    def _records(self, splits: Mapping[str, Sequence[Stay]], split: str) -> Iterator[Record]:
        means = column_means(stay.inputs["statistics"] for stay in splits["train"])
        for stay in splits[split]:
            row = stay.inputs["statistics"]
            inputs = {**stay.inputs, "statistics": np.where(np.isnan(row), means, row)}
            label = stay.died if self.target == "death" else np.array([stay.days], np.float32)
            yield Record(id=str(stay.number), inputs=inputs, label=label)

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of events and a row, named after target, sets and others."""
        others = [self.bin_hours, self.valid_share, self.folds, self.fold]
        name = f"{self.target}_{''.join(self.train_sets)}_{''.join(self.test_sets)}"
        name += f"_{digest(others)}"
        return StoredForm(name, dict.fromkeys(_KINDS, 2), _TASKS[self.target])

    @classmethod
    def recognises(cls, path: pathlib.Path) -> bool:
        """Returns whether there is an archive or the outcomes of a set."""
        return any(name.startswith(("Outcomes-", "set-")) for name in file_names(path))


def _shapes(stays: Iterable[Stay]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields each modality with the largest shape of its examples, at least one event."""
    lengths = [{name: len(own) for name, own in stay.inputs.items()} for stay in stays]
    for name in TYPES:
        yield name, (max(1, *(own.get(name, 0) for own in lengths)), 3)
    yield "statistics", (1, COLUMNS)
