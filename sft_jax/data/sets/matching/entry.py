"""Events that agree between two sequences, as a dataset."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from sft_jax.data.records import RawData, Record
from sft_jax.data.sets.base import SPLITS, DatasetEntry, Outline, StoredForm, digest
from sft_jax.data.sets.matching.best import best_accuracies
from sft_jax.data.sets.matching.generator import (
    BLOCK,
    MODALITIES,
    Planting,
    make_block,
    planted_positions,
)
from sft_jax.data_config import STRICT, Count, CountOrNone, Positive
from sft_jax.structs import Kind

_KINDS: Mapping[str, Kind] = dict.fromkeys(MODALITIES, "embedding")  # Never standardised.


@dataclass(frozen=True, config=STRICT)
class MatchingData(DatasetEntry):
    """A made-up diagnosis with a known answer: do planted events agree between two sequences?

    Each modality, left and right, is a sequence of distractors with each event planted once, at
    a random place. An event has features of its own, which mark it and hold its value. Label `i`
    says if both modalities were meant to have the same value of event `i`.

    Attributes:
      events: Number of events, and of labels.
      bits: Number of bits of the value of an event. A modality must send `events * bits` bits.
      length: Number of tokens of a sequence.
      flip: Probability that a planted value is replaced by another.
      lean: Amount by which agreement is likelier than 1/2 for odd values, and less likely for even
        ones. With 0 one modality tells nothing, and there is little to begin to learn from.
      loudness: Norm of a distractor, as a multiple of the norm of a planted token.
      train_examples: Number of examples to train on.
      valid_examples: Number of examples to validate on.
      test_examples: Number of examples to test on.
      data_seed: Seed of all examples.
    """

    name: Literal["matching"] = "matching"
    events: Count = 4
    bits: Annotated[int, Field(ge=1, le=8)] = 1
    length: Count = 64
    flip: Annotated[float, Field(ge=0, lt=1)] = 0.02
    lean: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    loudness: Positive = 2.0
    train_examples: Count = 8192
    valid_examples: Count = 1024
    test_examples: Count = 2048
    data_seed: CountOrNone = 0

    needs: ClassVar[str] = "No files: the examples are made from data.data_seed"
    store: ClassVar[str] = "matching"
    version: ClassVar[str] = "1.0.0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.events > self.length:
            raise ValueError(
                f"events={self.events} do not fit length={self.length}: it must be at least as many"
            )

    @property
    def planting(self) -> Planting:
        """Returns the settings of the examples."""
        names = [field.name for field in dataclasses.fields(Planting) if field.name != "seed"]
        return Planting(**{name: getattr(self, name) for name in names}, seed=self.data_seed)

    def best_accuracies(self) -> dict[str, float]:
        """Returns the best possible accuracies; see `best_accuracies`."""
        return best_accuracies(self.bits, self.flip, self.lean)

    def planted(self, split: str) -> dict[str, np.ndarray]:
        """Returns the `[n, events]` positions of the events of a split, by modality."""
        return planted_positions(self.planting, split, self._sizes()[split])

    def _sizes(self) -> dict[str, int]:
        return {split: getattr(self, f"{split}_examples") for split in SPLITS}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(MODALITIES, self.planting.shape)

    def read(self, folder: pathlib.Path) -> RawData:
        """Returns the examples, which are made as they are read."""
        return RawData(
            variant=self._variant(),
            files=(),
            shapes=self._shapes(),
            class_names=tuple(f"event_{i}" for i in range(self.events)),
            task="multi_label",
            num_examples=self._sizes(),
            read=self._records,
            kinds=_KINDS,
        )

    def _records(self, split: str) -> Iterator[Record]:
        for start in range(0, size := self._sizes()[split], BLOCK):
            block = make_block(self.planting, split, start // BLOCK)
            for i in range(min(BLOCK, size - start)):
                inputs = {name: tokens[i] for name, tokens in block.tokens.items()}
                label = block.agree[i].astype(np.float32)
                yield Record(id=f"{split}/{start + i}", inputs=inputs, label=label)

    def stored_form(self, folder: pathlib.Path) -> StoredForm:
        """Returns the form of two sequences, named after the settings."""
        return StoredForm(self._variant(), dict.fromkeys(MODALITIES, 2), "multi_label")

    def _variant(self) -> str:
        settings = digest([dataclasses.asdict(self.planting), self._sizes()])
        return f"events_{self.events}_bits_{self.bits}_length_{self.length}_{settings}"

    def outline(self) -> Outline:
        """Returns the shapes of the sequences, and the number of events."""
        forms = {name: {"kind": kind} for name, kind in _KINDS.items()}
        return Outline(self.modality_specs(self._shapes(), forms), self.events, "multi_label")
