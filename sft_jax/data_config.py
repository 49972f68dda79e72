"""The datasets that an experiment can be made of, and what can be set of each.

Like everything in `sft_jax.config`, which this is a part of, they check themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from sft_jax.structs import NotFinite, Task

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
People = tuple[Annotated[int, Field(ge=1, le=10)], ...]
PatchSizes = dict[str, Count | tuple[Count, ...]]

_STRICT = pydantic.ConfigDict(extra="forbid", strict=True)

MAY_CHANGE: Mapping[str, Any] = {"may_change": True}
"""Metadata of a field on which no result depends, so that a run may go on with another value."""


def folder_field() -> Any:
    """A field that names a folder, empty by default, which may move.

    What a run is saved with is its absolute path (`sft_jax.config_io.resolved`).
    """
    return field(default="", metadata={**MAY_CHANGE, "folder": True})


@dataclass(frozen=True, config=_STRICT)
class WatchData:
    """The smartwatch exercises (Burns et al. 2018), windowed and split by person.

    Attributes:
      data_dir: where prepared data is kept; empty for the default of TensorFlow Datasets
        (`TFDS_DATA_DIR`, or `tensorflow_datasets` in the home directory).
      window_seconds: length of a window.
      stride_seconds: from the start of one window to the start of the next.
      patch_size: consecutive samples (at 50 Hz) that make one token.
      train_people: whose recordings are trained on; normalisation statistics are theirs.
      valid_people: whose recordings select the checkpoint.
      test_people: whose recordings the result is reported on.
    """

    name: Literal["watch"] = "watch"
    data_dir: str = folder_field()
    window_seconds: Positive = 4.0
    stride_seconds: Positive = 1.0
    patch_size: Count = 10
    train_people: People = (1, 2, 3, 4, 5, 6)
    valid_people: People = (7,)
    test_people: People = (8, 9, 10)

    def __post_init__(self) -> None:
        splits = {
            "train_people": self.train_people,
            "valid_people": self.valid_people,
            "test_people": self.test_people,
        }
        people = [person for split in splits.values() for person in split]
        empty = [name for name, split in splits.items() if not split]
        if empty:
            raise ValueError(
                f"empty split: {', '.join(empty)} must name at least one person (1-10)"
            )
        repeated = sorted({person for person in people if people.count(person) > 1})
        if repeated:
            raise ValueError(
                f"people {repeated} are in more than one split; a person may be in one only"
            )


@dataclass(frozen=True, config=_STRICT)
class SentimentData:
    """CMU-MOSEI or CMU-MOSI: video, audio and words of an utterance, and its sentiment.

    Attributes:
      name: which of the two.
      data_dir: where prepared data is kept; empty for the default of TensorFlow Datasets.
      manual_dir: the folder with the file; empty for `downloads/manual` in `data_dir`.
      variant: which file: of Tsai et al. 2019 (MulT), `mosei_senti_data.pkl` or `mosi_data.pkl`
        (mult_aligned) and those that end in `_noalign.pkl`; or of Yu et al. 2021 (MMSA),
        `aligned_50.pkl` or `unaligned_50.pkl`.
      file: its name or path within `manual_dir`, where it is another.
      target: classes to predict the sentiment rounded to one of seven classes, as the SFT
        authors do; value to predict the number itself, from -3 to 3.
      not_finite: what is done with NaN and infinite features (`sft_jax.structs.NotFinite`).
      modalities: those used of vision, audio and text; all by default.
      patch_size: modality to the consecutive steps that make one of its tokens; 1 by default.
    """

    name: Literal["mosei", "mosi"] = "mosei"
    data_dir: str = folder_field()
    manual_dir: str = folder_field()
    variant: Literal["mult_aligned", "mult_noalign", "mmsa_aligned", "mmsa_unaligned"] = (
        "mult_noalign"
    )
    file: str = ""
    target: Literal["classes", "value"] = "classes"
    not_finite: NotFinite = "zero"
    modalities: tuple[str, ...] = ()
    patch_size: PatchSizes = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class VggSoundData:
    """Features of VGGSound clips as the SFT authors extracted them: rgb, spect and flow.

    Attributes:
      data_dir: where prepared data is kept; empty for the default of TensorFlow Datasets.
      manual_dir: the folder with the two HDF5 files; empty for `downloads/manual` in `data_dir`.
      classes: 10 for `vgg_{train,test}.h5py`, 100 for `vgg100_{train,test}.h5py`.
      split: stratified draws `valid_share` of each class for validation; authors is their
        split, which is random over clips.
      valid_share: share of the training file that is validated on.
      not_finite: what is done with NaN and infinite features (`sft_jax.structs.NotFinite`).
      modalities: those used of rgb, spect and flow; all by default.
      patch_size: modality to the consecutive steps that make one of its tokens; 1 by default.
    """

    name: Literal["vggsound"] = "vggsound"
    data_dir: str = folder_field()
    manual_dir: str = folder_field()
    classes: Literal[10, 100] = 10
    split: Literal["stratified", "authors"] = "stratified"
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    not_finite: NotFinite = "error"
    modalities: tuple[str, ...] = ()
    patch_size: PatchSizes = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class AvMnistData:
    """A handwritten and a spoken digit, both made hard to read (Vielzeuf et al. 2018).

    Attributes:
      data_dir: where prepared data is kept; empty for the default of TensorFlow Datasets.
      manual_dir: the folder with MNIST's four files and the recordings of the Free Spoken
        Digit Dataset; empty for `downloads/manual` in `data_dir`.
      train_pairs: pairs to train on, at most 55,000.
      valid_pairs: pairs to validate on, at most 5,000.
      test_pairs: pairs to test on, at most 10,000.
      energy: share of the energy of the images that their principal components keep.
      blanked_share: share of the patches of 4 x 4 pixels of each image that are blanked.
      snr_db: smallest and largest signal-to-noise ratio of the speech, in dB.
      data_seed: of pairs and noise.
      modalities: those used of image and sound; both by default.
      patch_size: modality to the size of its patches, along both axes.
    """

    name: Literal["av_mnist"] = "av_mnist"
    data_dir: str = folder_field()
    manual_dir: str = folder_field()
    train_pairs: Annotated[int, Field(ge=1, le=55_000)] = 55_000
    valid_pairs: Annotated[int, Field(ge=1, le=5_000)] = 5_000
    test_pairs: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    energy: Annotated[float, Field(gt=0, le=1)] = 0.25
    blanked_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    snr_db: tuple[float, float] = (-14.0, 6.0)
    data_seed: Annotated[int, Field(ge=0)] = 0
    modalities: tuple[str, ...] = ()
    patch_size: PatchSizes = field(default_factory=lambda: {"image": (7, 7), "sound": (4, 16)})


@dataclass(frozen=True, config=_STRICT)
class FolderData:
    """Your own data: a folder of one `.npz` for each example, with a manifest.

    Attributes:
      data_dir: where prepared data is kept; empty for the default of TensorFlow Datasets.
      manual_dir: the folder with `manifest.csv`; see `sft_jax.data.readers.npz_folder`.
      not_finite: what is done with NaN and infinite numbers (`sft_jax.structs.NotFinite`).
      modalities: those used; all by default.
      patch_size: modality to the steps that make one of its tokens, or the size of its patches
        along every axis but the last; 1 by default.
    """

    name: Literal["npz_folder"] = "npz_folder"
    data_dir: str = folder_field()
    manual_dir: str = folder_field()
    not_finite: NotFinite = "error"
    modalities: tuple[str, ...] = ()
    patch_size: PatchSizes = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class TfdsData:
    """Any dataset of TensorFlow Datasets that has been prepared as array_record or parquet.

    Attributes:
      builder: its name, with a config and a version if need be, such as `mine/small:1.0.0`.
      data_dir: where it is, and where what is made of it is kept; empty for the default of
        TensorFlow Datasets.
      modalities: the features that are modalities: tensors `[length, ..., features]` and images.
      label: the feature that is the label.
      task: what it is.
      splits: which splits of it are trained on, validated on and tested on, such as
        `train[:90%]`.
      not_finite: what is done with NaN and infinite numbers (`sft_jax.structs.NotFinite`).
      patch_size: modality to the steps that make one of its tokens, or the size of its patches
        along every axis but the last; 1 by default.
    """

    name: Literal["tfds"] = "tfds"
    builder: str = ""
    data_dir: str = folder_field()
    modalities: tuple[str, ...] = ()
    label: str = "label"
    task: Task = "single_label"
    splits: dict[Literal["train", "valid", "test"], str] = field(
        default_factory=lambda: {"train": "train", "valid": "validation", "test": "test"}
    )
    not_finite: NotFinite = "error"
    patch_size: PatchSizes = field(default_factory=dict)


DATA_CONFIGS: dict[str, type] = {
    "watch": WatchData,
    "mosei": SentimentData,
    "mosi": SentimentData,
    "vggsound": VggSoundData,
    "av_mnist": AvMnistData,
    "npz_folder": FolderData,
    "tfds": TfdsData,
}


def _name(values: Any) -> Any:
    if isinstance(values, Mapping):
        return values.get("name", "watch")
    return getattr(values, "name", None)


DataConfig = Annotated[
    Annotated[WatchData, Tag("watch")]
    | Annotated[SentimentData, Tag("mosei")]
    | Annotated[SentimentData, Tag("mosi")]
    | Annotated[VggSoundData, Tag("vggsound")]
    | Annotated[AvMnistData, Tag("av_mnist")]
    | Annotated[FolderData, Tag("npz_folder")]
    | Annotated[TfdsData, Tag("tfds")],
    Discriminator(_name),
]
"""One of the datasets, by `name`."""
