"""CMU-MOSEI and CMU-MOSI: sentiment of utterances as datasets."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from sft_jax.data.card import Card
from sft_jax.data.records import DataFileError, RawData
from sft_jax.data.sets.base import (
    DatasetEntry,
    Outline,
    Outputs,
    StoredForm,
    digest,
    file_names,
)
from sft_jax.data.sets.sentiment.files import published_shapes, read_sentiment, sentiment_class
from sft_jax.data.sets.sentiment.form import MODALITIES
from sft_jax.data_config import STRICT, folder_field
from sft_jax.structs import NotFinite

SENTIMENTS = (
    "strongly negative",
    "negative",
    "weakly negative",
    "neutral",
    "weakly positive",
    "positive",
    "strongly positive",
)
"""Classes of the sentiments -3 to 3."""

_NAMES = ("mosei", "mosi")


@dataclass(frozen=True, config=STRICT)
class SentimentData(DatasetEntry):
    """Utterances as video, audio and words, labelled with their sentiment, from -3 to 3.

    The modalities are vision, audio and text.

    Attributes:
      manual_dir: Folder of the file; empty for `downloads/manual` in `data_dir`.
      variant: File to read. mult_aligned and mult_noalign are the files of Tsai et al. 2019
        (MulT), such as `mosei_senti_data.pkl` and `mosei_senti_data_noalign.pkl`. mmsa_aligned
        and mmsa_unaligned are the files of Yu et al. 2021 (MMSA), `aligned_50.pkl` and
        `unaligned_50.pkl`.
      file: Name or path of the file within `manual_dir`, if it differs from the above.
      target: classes to predict the sentiment rounded to one of seven classes, as the SFT
        authors do; value to predict the number itself.
      not_finite: Treatment of NaN and infinite features (`sft_jax.structs.NotFinite`).
    """

    manual_dir: str = folder_field()
    variant: Literal["mult_aligned", "mult_noalign", "mmsa_aligned", "mmsa_unaligned"] = (
        "mult_noalign"
    )
    file: str = ""
    target: Literal["classes", "value"] = "classes"
    not_finite: NotFinite = "zero"

    metrics: ClassVar[tuple[str, ...]] = ("sentiment",)
    mult_files: ClassVar[Mapping[str, str]] = {}
    """Names of MulT's files, by `aligned` and `noalign`."""

    def read(self, folder: pathlib.Path) -> RawData:
        """Reads the file of the variant; see `read_sentiment`."""
        path = self.path_in(folder)
        raw = read_sentiment(path, self.name)
        if raw.variant != self.variant:
            raise DataFileError(
                f"{path} is of the variant {raw.variant}, not {self.variant}:"
                f" set data.variant={raw.variant} and data.file"
            )
        return raw

    def read_for_inspection(self, folder: pathlib.Path) -> RawData:
        """Reads the file that the fields name, whatever its variant."""
        return read_sentiment(folder / self.file, self.name) if self.file else self.read(folder)

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of three sequences and a number, named after variant, policy, file."""
        name = f"{self.variant}_{self.not_finite}"
        if self.file:
            name += f"_{digest(self.file)}"
        return StoredForm(name, dict.fromkeys(MODALITIES, 2), "regression")

    def outline(self) -> Outline:
        """Returns the shapes of the published files, and the target."""
        specs = self.modality_specs(published_shapes(self.name, self.variant))
        if self.target == "classes":
            return Outline(specs, len(SENTIMENTS), "ordinal")
        return Outline(specs, 1, "regression")

    def outputs(self, card: Card) -> Outputs:
        """Returns seven ordered classes, or the number in the file."""
        if self.target == "classes":
            return Outputs(SENTIMENTS, "ordinal")
        return super().outputs(card)

    def encode_label(self, label: int | np.ndarray) -> int | np.ndarray:
        """Converts a sentiment `[1]` to its class, or returns it unchanged."""
        if self.target == "classes":
            return sentiment_class(float(np.asarray(label)[0]))
        return label

    def path_in(self, folder: pathlib.Path) -> pathlib.Path:
        """Finds the file of the variant, at most two folders down, as its publishers pack it.

        Raises:
          DataFileError: If there is no such file, or more than one.
        """
        source, _, alignment = self.variant.partition("_")
        name = self.file or (
            self.mult_files[alignment] if source == "mult" else f"{alignment}_50.pkl"
        )
        paths = sorted({*folder.glob(name), *folder.glob(f"*/{name}"), *folder.glob(f"*/*/{name}")})
        if len(paths) > 1:
            own = [path for path in paths if self.name in str(path.relative_to(folder)).lower()]
            paths = own or paths
        if len(paths) != 1:
            problem = f"found {[*map(str, paths)]}" if paths else f"there is no {name}"
            raise DataFileError(
                f"{self.name}, variant {self.variant}: expected one file {name} in {folder};"
                f" {problem}. Name another with data.file or data.variant"
            )
        return paths[0]

    @classmethod
    def recognises(cls, path: pathlib.Path) -> bool:
        """Returns whether there is a pickle whose own name or nearest folder names this dataset."""
        pickles = _pickles(path)
        parts = [*pickles, *reversed(path.resolve().parts)] if pickles else []
        names = (name for part in parts for name in _NAMES if name in part.lower())
        return f"cmu_{next(names, None)}" == cls.store

    @classmethod
    def fields_of_path(cls, path: pathlib.Path) -> dict[str, Any]:
        """Returns the folder and the name of the file."""
        pickles = _pickles(path)
        if path.is_dir() and len(pickles) != 1:
            raise ValueError(
                f"{path} is a folder with {len(pickles)} pickles, {pickles}: name the file"
            )
        file = pickles[0] if path.is_dir() else path.name
        return {**super().fields_of_path(path), "file": file}


def _pickles(path: pathlib.Path) -> list[str]:
    return [name for name in file_names(path) if name.endswith((".pkl", ".pickle"))]


@dataclass(frozen=True, config=STRICT)
class MoseiData(SentimentData):
    """CMU-MOSEI (Zadeh et al. 2018): utterances as video, audio and words, and their sentiment."""

    name: Literal["mosei"] = "mosei"

    needs: ClassVar[str] = (
        "It takes mosei_senti_data_noalign.pkl or mosei_senti_data.pkl, as linked from"
        " https://github.com/yaohungt/Multimodal-Transformer, or unaligned_50.pkl or"
        " aligned_50.pkl of MOSEI, as linked from https://github.com/thuiar/MMSA"
    )
    store: ClassVar[str] = "cmu_mosei"
    mult_files: ClassVar[Mapping[str, str]] = {
        "aligned": "mosei_senti_data.pkl",
        "noalign": "mosei_senti_data_noalign.pkl",
    }


@dataclass(frozen=True, config=STRICT)
class MosiData(SentimentData):
    """CMU-MOSI (Zadeh et al. 2016): utterances as video, audio and words, and their sentiment."""

    name: Literal["mosi"] = "mosi"

    needs: ClassVar[str] = (
        "It takes mosi_data_noalign.pkl or mosi_data.pkl, as linked from"
        " https://github.com/yaohungt/Multimodal-Transformer, or unaligned_50.pkl or"
        " aligned_50.pkl of MOSI, as linked from https://github.com/thuiar/MMSA"
    )
    store: ClassVar[str] = "cmu_mosi"
    mult_files: ClassVar[Mapping[str, str]] = {
        "aligned": "mosi_data.pkl",
        "noalign": "mosi_data_noalign.pkl",
    }
