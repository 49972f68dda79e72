"""Any dataset of TensorFlow Datasets as a dataset of this library."""

from __future__ import annotations

import dataclasses
import pathlib
from dataclasses import field
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic.dataclasses import dataclass

from sft_jax.data.records import RawData
from sft_jax.data.sets.base import DatasetEntry, StoredForm, digest
from sft_jax.data_config import STRICT
from sft_jax.structs import NotFinite, Task

if TYPE_CHECKING:
    from sft_jax.data.sets.tfds.source import TfdsSource


@dataclass(frozen=True, config=STRICT)
class TfdsData(DatasetEntry):
    """Any dataset of TensorFlow Datasets that is prepared as array_record or parquet.

    The data is kept a second time, in this library's form. `modalities` name the features that
    are modalities: tensors `[length, ..., features]` and images.

    Attributes:
      builder: Name of the TFDS dataset, with config and version if need be, such as
        `mine/small:1.0.0`. It is looked for in `data_dir`.
      label: Name of the feature that is the label.
      task: Kind of the label.
      splits: train, valid and test, each with the TFDS split that it is, such as
        `train[:90%]`.
      not_finite: Treatment of NaN and infinite numbers (`sft_jax.structs.NotFinite`).
    """

    name: Literal["tfds"] = "tfds"
    builder: str = ""
    label: str = "label"
    task: Task = "single_label"
    splits: dict[Literal["train", "valid", "test"], str] = field(
        default_factory=lambda: {"train": "train", "valid": "validation", "test": "test"}
    )
    not_finite: NotFinite = "error"

    needs: ClassVar[str] = (
        "It takes a dataset that is prepared as array_record or parquet: builder=NAME"
        " modalities=FEATURE,FEATURE"
    )
    store: ClassVar[str] = "from_tfds"

    def _source(self) -> TfdsSource:
        # Deferred: TFDS takes a second to import.
        from sft_jax.data.sets.tfds.source import open_tfds

        return open_tfds(self)

    def read(self, folder: pathlib.Path) -> RawData:
        """Goes through all examples, to find the shapes."""
        return self._source().read()

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Form of the chosen features, named after the TFDS dataset and the fields."""
        source = self._source()
        # Neither the place nor the patches change the stored data.
        stored = dataclasses.asdict(self) | {"data_dir": "", "patch_size": {}}
        name = f"{source.full_name.replace('/', '_')}_{digest(stored)}"
        return StoredForm(name, source.ranks, self.task)
