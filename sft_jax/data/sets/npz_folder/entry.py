"""A folder of `.npz` files as a dataset."""

from __future__ import annotations

import os
import pathlib
from dataclasses import field
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from sft_jax.data.records import DataFileError, RawData
from sft_jax.data.sets.base import DatasetEntry, StoredForm, digest, file_names
from sft_jax.data.sets.folds import LEAST, check_fold
from sft_jax.data.sets.npz_folder.files import content_sha256, read_npz_folder
from sft_jax.data.sets.npz_folder.manifest import MANIFEST
from sft_jax.data_config import STRICT, Count, CountOrNone, folder_field
from sft_jax.structs import Kind, NotFinite


@dataclass(frozen=True, config=STRICT)
class FolderData(DatasetEntry):
    """Your own data, from a folder of .npz files with a manifest.

    Attributes:
      manual_dir: Folder with `manifest.csv`; see `sft_jax.data.sets.npz_folder.files`.
      not_finite: Treatment of NaN and infinite numbers (`sft_jax.structs.NotFinite`).
      kinds: Modality name to its kind, such as `{'face': 'image'}`; by default that of its number
        of axes (`sft_jax.data.kinds`).
      vocabulary: Modality name to the number of its ids, by default that of the training split; for
        text the largest number of words, or `bytes`.
      standardise: Modality name to whether it is standardised; by default all kinds except
        embedding are.
      folds: Number of folds for cross-validation, in place of the splits of the manifest; 0 for
        these. Examples of one `group` of the manifest stay together (`sft_jax.data.sets.folds`).
      fold: Number of the fold to test on, from 0. The next fold selects the checkpoint.
    """

    name: Literal["npz_folder"] = "npz_folder"
    manual_dir: str = folder_field()
    not_finite: NotFinite = "error"
    kinds: dict[str, Kind] = field(default_factory=dict)
    vocabulary: dict[str, Count | Literal["bytes"]] = field(default_factory=dict)
    standardise: dict[str, bool] = field(default_factory=dict)
    folds: CountOrNone = 0
    fold: CountOrNone = 0

    needs: ClassVar[str] = f"It takes a folder with {MANIFEST}"
    store: ClassVar[str] = "npz_folder"

    def __post_init__(self) -> None:
        super().__post_init__()
        # The number of groups is known when the manifest is read.
        check_fold(self.folds, self.fold, max(self.folds, LEAST))

    def read(self, folder: pathlib.Path) -> RawData:
        """Finds the examples of the manifest; see `read_npz_folder`."""
        return read_npz_folder(
            folder, self.kinds, self.vocabulary, folds=self.folds, fold=self.fold
        )

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of the arrays, named after the folder and its current contents."""
        folder = pathlib.Path(os.path.expanduser(self.manual_dir))
        if not self.manual_dir or not folder.is_dir():
            raise DataFileError(
                f"data.manual_dir={self.manual_dir!r} is not a folder: name the one with {MANIFEST}"
            )
        raw = self.read(folder)
        content = content_sha256(folder, self.folds)[:12]
        name = f"{folder.resolve().name}_{content}_{self.not_finite}"
        name += f"_fold_{self.fold}_of_{self.folds}" if self.folds else ""
        name += f"_{digest([self.kinds, self.vocabulary])}" if self.kinds else ""
        ranks = {modality: len(shape) for modality, shape in raw.shapes.items()}
        return StoredForm(name, ranks, raw.task)

    @classmethod
    def recognises(cls, path: pathlib.Path) -> bool:
        """Returns whether there is a manifest."""
        return MANIFEST in file_names(path)
