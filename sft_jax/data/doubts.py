"""Doubts about inputs whose kind is not stated: signs in the data that they may be of another."""

from __future__ import annotations

import dataclasses

import numpy as np

from sft_jax.structs import Kind

_EXAMPLES = 64  # Number of examples that are looked at.
_LENGTH = 4096  # Number of steps that are looked at.
_FEW = 4  # Least number of steps, columns or values for a judgement.
_SIDE = 8  # Least height and width of a picture.


@dataclasses.dataclass
class Evidence:
    """First examples of a modality whose kind is guessed.

    Attributes:
      kind: Guessed kind.
      shapes: Shapes of the examples.
      steps: Examples of a series.
    """

    kind: Kind
    shapes: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    steps: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, values: np.ndarray) -> None:
        """Looks at an example, `[*lengths, features]`."""
        self.shapes.add(values.shape)
        wanted = self.kind == "series" and len(self.steps) < _EXAMPLES
        if wanted and np.isfinite(values).all():
            self.steps.append(values[:_LENGTH])

    def doubts(self) -> list[str]:
        """Lists the other readings of the examples."""
        doubts = []
        if self._is_grey_image():
            (shape,) = self.shapes
            doubts.append(
                f"{list(shape)} may be a grey image, of kind image; it is read as {shape[0]} steps"
                f" of {shape[1]} features, of kind series"
            )
        if self.kind == "image" and len(self.shapes) == 1:
            (shape,) = self.shapes
            if shape[0] in (1, 3, 4) and min(shape[1:]) >= _SIDE:
                doubts.append(
                    f"{list(shape)} may be an image of {shape[0]} channels, of kind"
                    f" channels_first; it is read as {shape[0]} rows of pixels of {shape[2]}"
                    " channels, of kind image"
                )
        if self._is_ids():
            doubts.append(
                "whole numbers without order may be ids, of kind tokens; they are read as"
                " magnitudes, of kind series"
            )
        elif self._is_row():
            length = len(self.steps[0])
            doubts.append(
                f"{length} steps may be unlike columns, of kind vector: a quarter varies by less"
                " than a twentieth of all; they are read as a series, with one mean for all"
            )
        return doubts

    def _is_grey_image(self) -> bool:
        if not self.steps or len(self.shapes) != 1:
            return False
        (shape,) = self.shapes
        bright = all(values.dtype == np.uint8 for values in self.steps)
        square = shape[0] == shape[1] and all(_within_one(values) for values in self.steps)
        return min(shape) >= _SIDE and (bright or square)

    def _is_ids(self) -> bool:
        """Tells whether the steps are natural numbers whose neighbours are unlike."""
        if not all(v.dtype.kind in "iu" and v.shape[1] == 1 and v.min() >= 0 for v in self.steps):
            return False
        long = [values[:, 0].astype(np.float64) for values in self.steps if len(values) >= _FEW]
        varied = len(set().union(*(np.unique(values) for values in long))) >= _FEW
        return varied and sum(map(_is_rough, long)) > len(long) / 2

    def _is_row(self) -> bool:
        """Tells whether the steps of all examples differ like columns of a table."""
        if len(self.shapes) != 1 or len(self.steps) < _FEW:
            return False
        rows = np.stack(self.steps).astype(np.float64)
        if rows.shape[2] != 1 or rows.shape[1] < _FEW:
            return False
        rows = rows[:, :, 0]
        small = np.quantile(rows.std(axis=0), 0.25) < 0.05 * rows.std()
        return bool(small and _is_rough(rows.mean(axis=0)))


def _within_one(values: np.ndarray) -> bool:
    return bool(values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1)


def _is_rough(values: np.ndarray) -> bool:
    """Tells whether neighbours differ about as much as any two values do."""
    shuffled = np.random.default_rng(0).permutation(values)
    near, far = (np.abs(np.diff(order)).mean() for order in (values, shuffled))
    return bool(near > 0.5 * far > 0)
