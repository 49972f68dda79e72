"""The base class of all datasets: fields for the config, and methods with defaults."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import inspect
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from sft_jax.data.card import Card
from sft_jax.data.derived import all_shapes, check_rules, source_name
from sft_jax.data.records import RawData
from sft_jax.data_config import STRICT, PatchSizes, folder_field
from sft_jax.structs import ModalitySpec, NotFinite, Task

SPLITS = ("train", "valid", "test")


class Outline(NamedTuple):
    """Inputs and outputs of a model.

    Attributes:
      modalities: Shape of each modality.
      num_outputs: Number of classes, labels or numbers to predict.
      task: Kind of the outputs.
    """

    modalities: dict[str, ModalitySpec]
    num_outputs: int
    task: Task


class StoredForm(NamedTuple):
    """Name and form of prepared data, known before any record is read.

    Attributes:
      name: Folder of the prepared data within the folder of the dataset. Settings that change
        the records must change this name.
      ranks: Modality name to the number of axes of `[length, ..., features]`.
      task: Kind of the stored labels.
    """

    name: str
    ranks: Mapping[str, int]
    task: Task


class Outputs(NamedTuple):
    """Labels that a model learns.

    Attributes:
      class_names: Names of the classes, labels or numbers, in the order of the labels.
      task: Kind of the labels.
    """

    class_names: tuple[str, ...]
    task: Task


@dataclass(frozen=True, config=STRICT)
class DatasetEntry(abc.ABC):
    """One dataset: its fields are the section `data` of a config, and its methods read the data.

    A subclass is decorated like this class and defines `read`. It may add fields, and replace
    any other method or class variable. `docs/extending/dataset.md` has a complete example.
    Some field names have a meaning. `manual_dir` is the folder of raw files. `not_finite` is the
    treatment of NaN and infinite numbers (`sft_jax.structs.NotFinite`). `folds` and `fold` are
    the number of folds of a cross-validation, and the one to test on (`sft_jax.data.sets.folds`).

    Attributes:
      name: Dataset: a name that `python -m sft_jax.data list` prints, or the import path
        `package.module:Class` of a subclass of `sft_jax.data.sets.base.DatasetEntry`.
      data_dir: Folder of prepared data; empty for the default of TensorFlow Datasets
        (`TFDS_DATA_DIR`, or `tensorflow_datasets` in the home directory).
      modalities: Names of the modalities to use; all by default.
      patch_size: Modality name to the number of steps that make one token, or to the size of
        its patches along every axis except the last; 1 by default.
      derived: Name of a new modality to `FUNCTION:SOURCE`, such as `summary:accelerometer`: one
        token that a function computes from a series. The function is `summary`, or the import
        path `package.module:function` of another (`sft_jax.data.derived`). Prepared data holds its
        results, so a function that has changed needs another name.
    """

    name: str = ""
    data_dir: str = folder_field()
    modalities: tuple[str, ...] = ()
    patch_size: PatchSizes = field(default_factory=dict)
    derived: Annotated[dict[str, str], AfterValidator(check_rules)] = field(default_factory=dict)

    needs: ClassVar[str] = ""
    """Sentence that names the files the dataset is read from, and their source."""
    store: ClassVar[str] = ""
    """Folder of the prepared data within `data_dir`; by default derived from module and class."""
    version: ClassVar[str] = "1.1.0"
    """Version of the prepared data. Raise it whenever `read` returns different records."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """Metric families to report in addition to the metrics of the task
    (`sft_jax.data.metric_families`)."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"{type(self).__module__}:{type(self).__qualname__}")

    @abc.abstractmethod
    def read(self, folder: pathlib.Path) -> RawData:
        """Finds the contents of the dataset; the examples are read later, one by one.

        Args:
          folder: Folder of the raw files, for a dataset that has the field `manual_dir`.

        Raises:
          DataFileError: If a file is missing, damaged or of an unexpected form.
        """

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns name and form of the prepared data; by default from the fields and `read`."""
        self.require_files(folder)
        raw = self.read(folder)
        ranks = {name: len(shape) for name, shape in raw.shapes.items()}
        fields = dataclasses.asdict(self)
        name = digest({key: fields[key] for key in fields.keys() - _NOT_STORED})
        return StoredForm(name, ranks, raw.task)

    def outline(self) -> Outline | None:
        """Returns the inputs and outputs that the format fixes; None if they depend on the data."""
        return None

    def split_names(self, card: Card) -> dict[str, Sequence[str]]:
        """Maps each split to the stored splits that it consists of.

        Raises:
          ValueError: If the data lacks a split.
        """
        if missing := [split for split in SPLITS if split not in card.splits]:
            raise ValueError(f"the data has no split {missing}: it has {sorted(card.splits)}")
        return {split: [split] for split in SPLITS}

    def outputs(self, card: Card) -> Outputs:
        """Returns the labels that a model learns; by default those of the raw data."""
        return Outputs(card.class_names, card.task)

    def encode_label(self, label: int | np.ndarray) -> int | np.ndarray:
        """Converts a stored label to a label of `outputs`."""
        return label

    def read_for_inspection(self, folder: pathlib.Path) -> RawData:
        """Reads like `read`, but also files of another variant than the fields name."""
        return self.read(folder)

    @classmethod
    def recognises(cls, path: pathlib.Path) -> bool:
        """Returns whether a raw file or folder belongs to this dataset, judged by its name."""
        return False

    @classmethod
    def fields_of_path(cls, path: pathlib.Path) -> dict[str, Any]:
        """Returns the fields that read a raw file or folder.

        Raises:
          ValueError: If the path does not determine them.
        """
        return {"manual_dir": str(path if path.is_dir() else path.parent)}

    # No dataset needs to override the methods below.

    def whole_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns `stored_form` with the derived modalities."""
        form = self.stored_form(folder)
        if not self.derived:
            return form
        name = f"{form.name}_derived_{digest(self.derived)}"
        return StoredForm(name, {**form.ranks, **dict.fromkeys(self.derived, 2)}, form.task)

    @classmethod
    def store_name(cls) -> str:
        """Returns the folder of the prepared data within `data_dir`."""
        words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", f"{cls.__module__}_{cls.__qualname__}")
        return cls.store or re.sub(r"\W+", "_", words).lower()

    @classmethod
    def has_files(cls) -> bool:
        """Returns whether the dataset is read from a folder of raw files."""
        return "manual_dir" in {entry_field.name for entry_field in dataclasses.fields(cls)}

    @property
    def raw_folder(self) -> str:
        """Returns the folder of raw files that the fields name; empty if they name none."""
        return getattr(self, "manual_dir", "")

    @property
    def policy(self) -> NotFinite:
        """Returns the treatment of numbers that are not finite."""
        return getattr(self, "not_finite", "error")

    def standardised(self, card: Card) -> dict[str, bool]:
        """Returns whether modalities are standardised, where the fields say so.

        Raises:
          ValueError: If they name unknown modalities.
        """
        stated: Mapping[str, bool] = getattr(self, "standardise", {})
        if unknown := sorted(set(stated) - set(card.shapes)):
            raise ValueError(
                f"data.standardise: unknown modality {unknown}, known: {[*card.shapes]}"
            )
        return dict(stated)

    def require_files(self, folder: pathlib.Path) -> None:
        """Raises FileNotFoundError if the folder of raw files is missing or empty."""
        if self.has_files() and (not folder.is_dir() or not any(folder.iterdir())):
            raise FileNotFoundError(
                f"no folder {folder} with the raw files of {self.store_name()}; name it with"
                f" data.manual_dir=FOLDER. {self.needs}"
            )

    def modality_specs(
        self,
        shapes: Mapping[str, Sequence[int]],
        forms: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, ModalitySpec]:
        """Returns the modalities that are used, with their patches.

        Args:
          shapes: Modality name to the shape of its examples, for all modalities.
          forms: Value of `Card.forms`; by default the kinds are those of the number of axes.

        Raises:
          ValueError: If the fields name unknown modalities, or a patch does not fit.
        """
        forms = forms or {}
        shapes = all_shapes(self.derived, shapes, {n: form["kind"] for n, form in forms.items()})
        chosen = self.modalities or tuple(shapes)
        patches: Any = self.patch_size
        if not isinstance(patches, Mapping):
            patches = {name: patches for name in chosen if name not in self.derived}
        for key, names in (("modalities", chosen), ("patch_size", patches)):
            if unknown := sorted(set(names) - set(shapes)):
                raise ValueError(f"data.{key}: unknown modality {unknown}, known: {[*shapes]}")
        for name, rule in self.derived.items():
            if name in chosen and (source := source_name(rule)) not in chosen:
                raise ValueError(f"data.modalities: {name} is derived from {source}; name both")
        return {
            name: ModalitySpec.from_shape(shapes[name], patches.get(name, 1), **forms.get(name, {}))
            for name in chosen
        }


_NOT_STORED = {"name", "data_dir", "manual_dir", "modalities", "patch_size", "derived"}
"""Fields on which the records of `DatasetEntry.read` do not depend."""


def digest(values: object) -> str:
    """Computes twelve hexadecimal digits that identify JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def file_names(path: pathlib.Path) -> list[str]:
    """Returns the name of a file, or the sorted names of the entries of a folder."""
    return [path.name] if path.is_file() else sorted(entry.name for entry in path.iterdir())


def title(kind: type[DatasetEntry]) -> str:
    """Returns the first line of the docstring of a dataset."""
    return (inspect.getdoc(kind) or kind.__name__).splitlines()[0]


def explain_fields(kind: type[DatasetEntry]) -> dict[str, str]:
    """Maps each field to its lines in the docstrings of a dataset and its base classes."""
    fields: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if issubclass(cls, DatasetEntry):
            _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
            for text in re.findall(r"^  \w.*(?:\n    .*)*", attributes, re.MULTILINE):
                fields[text.partition(":")[0].strip()] = text
    return fields
