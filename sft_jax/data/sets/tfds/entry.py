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

    The data is stored a second time, in this library's form. `modalities` lists the features that
    are modalities: tensors `[length, ..., features]` and images.

    Attributes:
      builder: Name of the TFDS dataset, with config and version where needed, such as
        `mine/small:1.0.0`. The dataset must be in `data_dir`.
      label: Name of the feature that is the label.
      task: Kind of the label.
      splits: TFDS split of each of train, valid and test, such as `train[:90%]`.
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
        # Imported late, since TFDS takes a second to import.
        from sft_jax.data.sets.tfds.source import open_tfds

        return open_tfds(self)

    def read(self, folder: pathlib.Path) -> RawData:
        """Reads all examples once to find the shapes."""
        return self._source().read()

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of the chosen features, named after the TFDS dataset and the fields."""
        source = self._source()
        # Neither the folder nor the patches change the stored data, and `whole_form` adds the rest.
        stored = dataclasses.asdict(self) | {"data_dir": "", "patch_size": {}}
        del stored["derived"]
        name = f"{source.full_name.replace('/', '_')}_{digest(stored)}"
        return StoredForm(name, source.ranks, self.task)
