"""AV-MNIST as a dataset."""

from __future__ import annotations

import dataclasses
import pathlib
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from sft_jax.data.records import RawData
from sft_jax.data.sets.av_mnist.files import is_mnist
from sft_jax.data.sets.av_mnist.options import AvMnistOptions
from sft_jax.data.sets.av_mnist.pairs import CLASS_NAMES, read_av_mnist
from sft_jax.data.sets.base import DatasetEntry, Outline, StoredForm, digest, file_names
from sft_jax.data_config import STRICT, PatchSizes, folder_field


@dataclass(frozen=True, config=STRICT)
class AvMnistData(DatasetEntry):
    """AV-MNIST: a handwritten and a spoken digit, as proposed by Vielzeuf et al. 2018.

    Both are made hard to read. The modalities are image and sound.

    Attributes:
      manual_dir: Folder of MNIST's four files and the recordings of the Free Spoken Digit
        Dataset; empty for `downloads/manual` in `data_dir`.
      train_pairs: Number of pairs to train on, at most 55,000.
      valid_pairs: Number of pairs to validate on, at most 5,000.
      test_pairs: Number of pairs to test on, at most 10,000.
      energy: Share of the energy of the images that their principal components keep.
      blanked_share: Share of the patches of 4 x 4 pixels that are blanked in each image.
      snr_db: Smallest and largest signal-to-noise ratio of the speech, in dB.
      data_seed: Seed of pairs and noise.
      patch_size: Modality name to the size of its patches, along both axes.
    """

    name: Literal["av_mnist"] = "av_mnist"
    manual_dir: str = folder_field()
    train_pairs: Annotated[int, Field(ge=1, le=55_000)] = 55_000
    valid_pairs: Annotated[int, Field(ge=1, le=5_000)] = 5_000
    test_pairs: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    energy: Annotated[float, Field(gt=0, le=1)] = 0.25
    blanked_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    snr_db: tuple[float, float] = (-14.0, 6.0)
    data_seed: Annotated[int, Field(ge=0)] = 0
    patch_size: PatchSizes = field(default_factory=lambda: {"image": (7, 7), "sound": (4, 16)})

    needs: ClassVar[str] = (
        "It takes the four files of MNIST, from https://storage.googleapis.com/cvdf-datasets/mnist/,"
        " and an archive of https://github.com/Jakobovski/free-spoken-digit-dataset as .tar.gz"
    )
    store: ClassVar[str] = "av_mnist"

    def _options(self) -> AvMnistOptions:
        return AvMnistOptions(
            energy=self.energy,
            snr_db=self.snr_db,
            blanked_share=self.blanked_share,
            train_pairs=self.train_pairs,
            valid_pairs=self.valid_pairs,
            test_pairs=self.test_pairs,
            seed=self.data_seed,
        )

    def read(self, folder: pathlib.Path) -> RawData:
        """Reads the files that the pairs are made from; see `read_av_mnist`."""
        return read_av_mnist(folder, self._options())

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of two images, named after the options of the pairs."""
        pairs = f"{self.train_pairs}_{self.valid_pairs}_{self.test_pairs}"
        name = f"pairs_{pairs}_{digest(dataclasses.asdict(self._options()))}"
        return StoredForm(name, {"image": 3, "sound": 3}, "single_label")

    def outline(self) -> Outline:
        """Returns the shapes of image and spectrogram, and the digits."""
        specs = self.modality_specs(self._options().shapes)
        return Outline(specs, len(CLASS_NAMES), "single_label")

    @classmethod
    def recognises(cls, path: pathlib.Path) -> bool:
        """Returns whether the path is, or contains, a file or folder of MNIST."""
        return any(map(is_mnist, file_names(path)))
