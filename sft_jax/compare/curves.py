"""Areas under the curves of resampled examples, which are sorted once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


class Curve:
    """Positive and other examples in the order of a score.

    The areas are those that `sklearn.metrics` computes of the drawn examples.
    """

    def __init__(self, positive: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._positive = positive[self._order]
        # Examples of equal score are one point of a curve.
        self._ends = np.flatnonzero(np.append(np.diff(scores[self._order]) != 0, True))

    def roc_auc(self, drawn: Int[np.ndarray, " m"]) -> float | None:
        """Area under the ROC curve of drawn examples; None if all belong to one class."""
        hits, seen = self._counts(drawn)
        misses = seen - hits
        if not hits[-1] or not misses[-1]:
            return None
        before = np.append(0, hits[:-1])
        area = np.diff(misses, prepend=0) @ (hits + before) / 2
        return float(area / (hits[-1] * misses[-1]))

    def average_precision(self, drawn: Int[np.ndarray, " m"]) -> float | None:
        """Area under the precision-recall curve of drawn examples; None if all are of one class."""
        hits, seen = self._counts(drawn)
        if not hits[-1] or hits[-1] == seen[-1]:
            return None
        precision = np.divide(hits, seen, out=np.zeros(len(hits)), where=seen > 0)
        return float(np.diff(hits, prepend=0) @ precision / hits[-1])

    def _counts(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of positive and of all drawn examples, down to each score."""
        counts = np.bincount(drawn, minlength=len(self._order))[self._order].astype(np.float64)
        seen = np.cumsum(counts)[self._ends]
        return np.cumsum(counts * self._positive)[self._ends], seen
