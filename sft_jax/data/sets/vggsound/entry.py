"""VGGSound: features of clips as a dataset."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from sft_jax.data.records import RawData
from sft_jax.data.sets.base import DatasetEntry, Outline, StoredForm, file_names
from sft_jax.data.sets.vggsound.files import SHAPES, read_vggsound
from sft_jax.data_config import STRICT, folder_field
from sft_jax.structs import NotFinite


@dataclass(frozen=True, config=STRICT)
class VggSoundData(DatasetEntry):
    """Features of VGGSound clips (Chen et al. 2020), extracted by Ding et al. 2021.

    The modalities are rgb, spect and flow.

    Attributes:
      manual_dir: Folder of the two HDF5 files; empty for `downloads/manual` in `data_dir`.
      classes: 10 for `vgg_{train,test}.h5py`, 100 for `vgg100_{train,test}.h5py`.
      split: stratified draws `valid_share` of each class for validation; authors is the split
        of the SFT authors, which ignores the classes.
      valid_share: Share of the training file for validation.
      not_finite: Treatment of NaN and infinite features (`sft_jax.structs.NotFinite`).
    """

    name: Literal["vggsound"] = "vggsound"
    manual_dir: str = folder_field()
    classes: Literal[10, 100] = 10
    split: Literal["stratified", "authors"] = "stratified"
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    not_finite: NotFinite = "error"

    needs: ClassVar[str] = (
        "It takes vgg_train.h5py and vgg_test.h5py, or vgg100_train.h5py and vgg100_test.h5py,"
        " which the authors of Sparse Fusion Transformers extracted"
    )
    store: ClassVar[str] = "vgg_sound_features"
    metrics: ClassVar[tuple[str, ...]] = ("ranking",)

    def read(self, folder: pathlib.Path) -> RawData:
        """Finds the clips of the two files; see `read_vggsound`."""
        return read_vggsound(
            folder, classes=self.classes, split=self.split, valid_share=self.valid_share
        )

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of three sequences, named after classes, split and policy."""
        split = self.split if self.split == "authors" else f"valid_{self.valid_share}"
        name = f"classes_{self.classes}_{split}_{self.not_finite}"
        return StoredForm(name, dict.fromkeys(SHAPES, 2), "single_label")

    def outline(self) -> Outline:
        """Returns the shapes of the published files."""
        return Outline(self.modality_specs(SHAPES), self.classes, "single_label")

    @classmethod
    def recognises(cls, path: pathlib.Path) -> bool:
        """Returns whether there is an HDF5 file."""
        return any(name.endswith((".h5py", ".hdf5", ".h5")) for name in file_names(path))

    @classmethod
    def fields_of_path(cls, path: pathlib.Path) -> dict[str, Any]:
        """Returns the folder, and the number of classes by the names of the files."""
        folder = path if path.is_dir() else path.parent
        hundred = any(name.startswith("vgg100") for name in file_names(path))
        return {"manual_dir": str(folder), "classes": 100 if hundred else 10}
