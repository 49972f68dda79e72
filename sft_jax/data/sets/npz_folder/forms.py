"""Forms of the arrays of a folder: their kinds, and the vocabularies of their texts."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from sft_jax.data.kinds import kept, kept_shape
from sft_jax.data.records import DataFileError
from sft_jax.data.sets.npz_folder.archives import Header, read_arrays
from sft_jax.data.vocabulary import Vocabulary, build_all
from sft_jax.structs import Kind, ModalitySpec


@dataclasses.dataclass(frozen=True)
class Forms:
    """Forms of arrays by the names of their modalities.

    Attributes:
      kinds: Stated kinds.
      sizes: Stated numbers of ids.
      vocabularies: Vocabulary of each text.
      lengths: Number of ids of each text, by file and name.
    """

    kinds: Mapping[str, Kind]
    sizes: Mapping[str, int]
    vocabularies: Mapping[str, Vocabulary]
    lengths: Mapping[tuple[str, str], int]

    @classmethod
    def find(
        cls,
        folder: pathlib.Path,
        rows: Iterable[tuple[str, str]],
        kinds: Mapping[str, Kind],
        vocabulary: Mapping[str, int | str],
    ) -> Forms:
        """Reads all texts; their vocabularies are those of the training split.

        A file that can't be read is passed over, since the reader of headers reports it.

        Args:
          folder: Folder of the files.
          rows: File and split of each example.
          kinds: Stated kinds.
          vocabulary: Stated numbers of ids or words, or `bytes`, by modality.

        Raises:
          ValueError: If a vocabulary is of no text or tokens.
        """
        names = [name for name, kind in kinds.items() if kind == "text"]
        texts: dict[tuple[str, str], str] = {}
        train: dict[str, list[str]] = {name: [] for name in names}
        for file, split in rows if names else ():
            try:
                arrays = read_arrays(folder / file, names)
            except DataFileError:
                continue
            for name, array in arrays.items():
                if array.dtype.kind == "U" and not array.ndim:
                    texts[file, name] = str(array)
                    train[name] += [str(array)] if split == "train" else []
        built, sizes = build_all(kinds, train, vocabulary)
        lengths = {place: len(built[place[1]].encode(text)) for place, text in texts.items()}
        return cls(dict(kinds), sizes, built, lengths)

    def kind(self, name: str, shape: tuple[int, ...]) -> Kind:
        """Kind of an array: the stated one, or that of its number of axes."""
        return self.kinds.get(name) or ModalitySpec.from_shape((1,) * max(len(shape), 2)).kind

    def shape(self, file: str, name: str, header: Header) -> tuple[int, ...]:
        """Shape `[*lengths, features]` of an array.

        Raises:
          ValueError: If the array does not have the form of its kind.
        """
        kind = self.kind(name, header.shape)
        if (file, name) in self.lengths:
            return self.lengths[file, name], 1
        return kept_shape(name, header.shape, header.dtype, kind)

    def kept(self, name: str, array: np.ndarray) -> np.ndarray:
        """Converts an array to `[*lengths, features]`; raises the error of `shape`."""
        return kept(name, array, self.kind(name, array.shape), self.vocabularies.get(name))
