"""Vocabularies, which turn texts into ids of words or bytes."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np

from sft_jax.structs import COUNTED, MOST_IDS, Kind

Units = Literal["words", "bytes"]

MOST_WORDS = 8_192
"""Largest number of words of a vocabulary by default."""

_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True, repr=False)
class Vocabulary:
    """Words or bytes that have an id: the position in `entries` plus 1. Id 0 is for all others.

    Attributes:
      units: Parts that a text is split into.
      entries: Known words in lower case, or bytes as two hexadecimal digits.

    Raises:
      ValueError: If there are no such units, or an entry occurs twice.
    """

    units: Units
    entries: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", tuple(self.entries))  # JSON has lists.
        if self.units not in get_args(Units):
            raise ValueError(f"units={self.units!r} is not one of {', '.join(get_args(Units))}")
        if len(self._ids) < len(self.entries):
            raise ValueError("entries of a vocabulary must all differ")

    @classmethod
    def build(
        cls, texts: Iterable[str], units: Units = "words", most: int = MOST_WORDS
    ) -> Vocabulary:
        """Collects the most frequent units of texts, which are those of the training split.

        Args:
          texts: Texts.
          units: Parts that a text is split into.
          most: Largest number of entries; of equally frequent ones the first by alphabet count.
        """
        counts: collections.Counter[str] = collections.Counter()
        for text in texts:
            counts.update(split(text, units))
        ranked = sorted(counts, key=lambda unit: (-counts[unit], unit))
        return cls(units, tuple(ranked[:most]))

    def encode(self, text: str) -> np.ndarray:
        """Computes the `[length]` int32 ids of a text."""
        return np.array([self._ids.get(unit, 0) for unit in split(text, self.units)], np.int32)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {entry: position + 1 for position, entry in enumerate(self.entries)}

    def __len__(self) -> int:
        return len(self.entries) + 1

    def __repr__(self) -> str:
        return f"Vocabulary of {len(self.entries)} {self.units}"


def split(text: str, units: Units) -> list[str]:
    """Splits a text into lower-case words and signs, or into bytes of UTF-8."""
    if units == "bytes":
        return [f"{byte:02x}" for byte in text.encode()]
    return _WORDS.findall(text.lower())


def build_all(
    kinds: Mapping[str, Kind], texts: Mapping[str, Iterable[str]], asked: Mapping[str, Any]
) -> tuple[dict[str, Vocabulary], dict[str, int]]:
    """Builds the vocabularies of all texts, and finds the stated numbers of ids.

    Args:
      kinds: Modality name to its kind, where that is known.
      texts: Modality name to the texts of the training split.
      asked: Modality name to the number of ids, of tokens and events. For text the largest number
        of words, `bytes`, or the vocabulary of another run.

    Raises:
      ValueError: If an entry of `asked` is none of these.
    """
    built, sizes = {}, {}
    for name, wish in asked.items():
        if kinds.get(name) not in COUNTED:
            raise ValueError(f"vocabulary: {name} is not of kind {', '.join(COUNTED)}")
        whole = isinstance(wish, int) and 1 <= wish <= MOST_IDS
        if kinds[name] != "text" and whole:
            sizes[name] = wish
        elif kinds[name] != "text" or not (
            whole or wish == "bytes" or isinstance(wish, Vocabulary)
        ):
            text = "; or 'bytes', or a Vocabulary" if kinds[name] == "text" else ""
            raise ValueError(
                f"vocabulary: {name} is {wish!r}; expected a whole number from 1 to"
                f" {MOST_IDS}{text}"
            )
    for name, own in texts.items():
        wish = asked.get(name, MOST_WORDS)
        if isinstance(wish, Vocabulary):
            built[name] = wish
        elif wish == "bytes":
            built[name] = Vocabulary.build(own, "bytes")
        else:
            built[name] = Vocabulary.build(own, most=wish)
    return built, sizes
