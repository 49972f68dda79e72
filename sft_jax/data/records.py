"""Results of readers: examples of any length, unpadded and not standardised."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NotRequired, TypedDict

import numpy as np

from sft_jax.data.checks import checked_names
from sft_jax.data.vocabulary import Vocabulary
from sft_jax.structs import Kind, Task

Padding = Literal["left", "right", "none"]


class DataFileError(ValueError):
    """Error in a data file; the message gives its name, the value found and what is expected."""


class Record(TypedDict):
    """One example as its file has it, without padding.

    Attributes:
      id: Readable name, unique within its split.
      inputs: Modality name to `[length, ..., features]` integers or floats. They may hold numbers
        that are not finite. A modality that the example lacks is left out.
      label: Class index, for the tasks single_label and ordinal; for multi_label and
        regression `[c]` numbers.
      masks: Modality name to `[length, ...]` booleans, False where a step is not real, for
        modalities with gaps.
    """

    id: str
    inputs: dict[str, np.ndarray]
    label: int | np.ndarray
    masks: NotRequired[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class RawData:
    """Contents of the raw files of a dataset.

    Attributes:
      variant: Known form of the dataset that the files have, as an identifier.
      files: Files that were read.
      shapes: Modality name to the largest `[length, ..., features]` of its examples.
      class_names: Names of the classes, labels or numbers to predict, in the order of the
        labels; integers become text.
      task: Kind of the labels.
      num_examples: Number of examples in each split.
      read: Function from a split to its examples, in the order of the file. It can be called
        repeatedly.
      padding: Modality name to the side on which its examples were padded in the file.
      known_releases: Name of a published release to its number of examples in each split.
      kinds: Modality name to its kind, where that is stated; others have the kind of their axes.
      sizes: Modality name to its number of ids, where that is stated.
      vocabularies: Modality name to the vocabulary of its texts.
      derived: Name of each derived modality to its rule (`sft_jax.data.derived`). `shapes` and
        `kinds` hold these modalities too, and the examples of `read` do not.

    Raises:
      ValueError: If `checked_names` refuses the class names.
    """

    variant: str
    files: tuple[pathlib.Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    class_names: tuple[str, ...]
    task: Task
    num_examples: Mapping[str, int]
    read: Callable[[str], Iterator[Record]]
    padding: Mapping[str, Padding] = dataclasses.field(default_factory=dict)
    known_releases: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    kinds: Mapping[str, Kind] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vocabularies: Mapping[str, Vocabulary] = dataclasses.field(default_factory=dict)
    derived: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = checked_names(self.class_names, self.task)
        object.__setattr__(self, "class_names", names)
